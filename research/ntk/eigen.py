"""A kernel matrix by its eigenvalues: functions of it that stay finite when it is nearly singular.

Duplicated training points and points closer than the kernel's rounding give eigenvalues that are
noise around zero; their inverses are where predictions from such kernels turn into nan. A direction
below the rounding error of the kernel carries no prediction (the kernel to any test point vanishes
in it too), so it is left out, counted, and reported.
"""

from __future__ import annotations

import warnings

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk import checks, precision


@flax.struct.dataclass
class Eigen:
    """A symmetric kernel matrix plus ridge, decomposed.

    Attributes:
        values: [D] float, eigenvalues of kernel + ridge, ascending; the kernel's own are clipped
            at 0 before the ridge is added.
        vectors: [D, D] float, eigenvectors as columns.
        ridge: [] float, what was added to the diagonal.
        cutoff: [] float, the rounding error of the kernel: eigenvalues below it are noise.
        condition_number: [] float, largest over smallest eigenvalue; inf if the smallest is 0.
        num_unresolved: [] int, eigenvalues at or below the cutoff.
    """

    values: Array
    vectors: Array
    ridge: Array
    cutoff: Array
    condition_number: Array
    num_unresolved: Array


def decompose(kernel: Array, ridge: Array | float = 0.0, name: str = "kernel") -> Eigen:
    """The eigenvalues and vectors of a kernel matrix, in float64, with a warning if it is singular.

    Args:
        kernel: [D, D] float, symmetric up to rounding. Its dtype tells how exact it is.
        ridge: >= 0, added to the diagonal.
        name: of the kernel, for messages.
    Returns:
        `Eigen` in float64; in the dtype of the kernel, at least float32, under a JAX
        transformation.
    Warns:
        RuntimeWarning: if an eigenvalue lies below the kernel's rounding error (never when traced).
    Raises:
        ValueError: if the kernel is not square, no floats, not finite, or the ridge is negative.
    """
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.size:
        raise ValueError(f"{name} has shape {kernel.shape}: expected a square matrix")
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {kernel.dtype}: expected floats")
    eps = float(jnp.finfo(kernel.dtype).eps)
    require_ridge(ridge)
    if precision.traced((kernel, ridge)):
        kernel = checks.widened(kernel)
        return _decompose(kernel, jnp.asarray(ridge, kernel.dtype), eps)
    if not np.isfinite(np.asarray(kernel)).all():
        raise ValueError(f"{name} holds entries that are not finite")
    eigen = precision.wide(lambda kernel, ridge: _decompose(kernel, ridge, eps), kernel, ridge)
    if eigen.num_unresolved:
        warnings.warn(_complaint(np.asarray(kernel), eigen, name), RuntimeWarning, stacklevel=3)
    return eigen


def require_ridge(ridge: Array | float, name: str = "ridge") -> None:
    """That a ridge is a finite number >= 0, if its value is known.

    Raises:
        ValueError: if not.
    """
    if not precision.traced(ridge) and not (jnp.ndim(ridge) == 0 and 0 <= ridge < np.inf):
        raise ValueError(f"{name}={ridge}: expected a number >= 0")


@jax.jit
def _decompose(kernel: Array, ridge: Array, eps: float) -> Eigen:
    values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
    # Independent errors of the entries move an eigenvalue by 2 sqrt(D) of their size (Wigner), the
    # decomposition itself by its own rounding of the largest one; twice that, to be safe.
    size = len(values) ** 0.5
    own = jnp.finfo(values.dtype).eps * values[-1]
    cutoff = 4 * size * (eps * jnp.abs(jnp.diagonal(kernel)).max() + own)
    values = jnp.maximum(values, 0) + ridge
    positive = jnp.where(values[0] > 0, values[0], 1)
    condition = jnp.where(values[0] > 0, values[-1] / positive, jnp.inf)
    unresolved = jnp.sum(values <= cutoff)
    return Eigen(values, vectors, ridge, cutoff, condition, unresolved)


def _complaint(kernel: np.ndarray, eigen: Eigen, name: str) -> str:
    text = (
        f"{name} of {len(kernel)} rows has condition number {float(eigen.condition_number):.3g}: "
        f"{int(eigen.num_unresolved)} eigenvalues are below its rounding error "
        f"{float(eigen.cutoff):.3g} and are left out; use a larger ridge than "
        f"{float(eigen.ridge):.3g} or drop duplicated points"
    )
    diagonal = np.diagonal(kernel)
    closeness = (
        diagonal[:, None] + diagonal[None] - 2 * kernel + np.diag(np.full(len(kernel), np.inf))
    )
    pair = np.unravel_index(np.argmin(closeness), kernel.shape)
    if closeness[pair] <= float(eigen.cutoff):
        text += f" (rows {min(pair)} and {max(pair)} are equal)"
    return text
