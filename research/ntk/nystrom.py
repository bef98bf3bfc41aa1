"""Nystrom features: a kernel on N points from its columns at a few landmarks.

    K ~ K_xm K_mm^-1 K_mx = phi(x) phi(x)',  phi(x) = K_xm L'^-1,  K_mm = L L'

Williams and Seeger 2001. Exact at the landmarks, and everywhere if there are as many as K has rank.
"""

from __future__ import annotations

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np

from library.linalg.trees import Operator
from library.types import Array, Key, PyTree
from research.ntk import checks, precision
from research.ntk.tiles import Matrix

Landmarks = Literal["pivoted", "random_pivoted", "uniform"]


@flax.struct.dataclass
class Nystrom:
    """See `fit`.

    Attributes:
        indices: [m] int, the landmarks among the points.
        landmarks: leaves [m, ...], their inputs.
        factor: [m, m] float64, L.
        residual: [] float, trace of K - phi phi' over the trace of K, on the points it was fitted
            to; nan for uniform landmarks, which never look at the diagonal.
        matrix: the kernel.
    """

    indices: Array
    landmarks: PyTree
    factor: Array
    residual: Array
    matrix: Matrix = flax.struct.field(pytree_node=False)

    def features(self, x: PyTree) -> Array:
        """phi(x), [N, m] float64 NumPy: the kernel is about phi(x1) phi(x2)'."""
        cross = self.matrix(x, self.landmarks)  # [N, m]
        return precision.wide(_whiten, self.factor, cross)


def fit(
    matrix: Matrix, x: PyTree, num: int, *, rng: Key | None = None, landmarks: Landmarks = "pivoted"
) -> Nystrom:
    """Chooses landmarks and factors their kernel.

    Args:
        matrix: (x1, x2) -> [N1, N2], see `research.ntk.tiles`.
        x: leaves [N, ...].
        num: how many landmarks at most; fewer if the kernel has smaller rank to its rounding.
        rng: key of the random choices.
        landmarks: "pivoted" takes the point of largest remaining variance each time (partial
            pivoted Cholesky, num columns of the kernel); "random_pivoted" draws it in proportion
            (Chen et al. 2022, arXiv:2207.06503); "uniform" draws all at once.
    Returns:
        `Nystrom`.
    Raises:
        ValueError: if num is out of range, or a random choice lacks its key.
    """
    checks.choice("landmarks", landmarks, ("pivoted", "random_pivoted", "uniform"))
    size = checks.num_examples(x, "x")
    checks.count("num", num)
    if num > size:
        raise ValueError(f"num={num}: expected 1 to {size}, the number of examples")
    if rng is None and landmarks != "pivoted":
        raise ValueError(f"landmarks={landmarks!r} needs rng")
    if landmarks == "uniform":
        indices, left = np.asarray(jax.random.permutation(rng, size)[:num]), np.nan
    else:
        draw = None if landmarks == "pivoted" else rng
        indices, left = _pivots(matrix, x, num, draw)
    chosen = jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], x)
    small = matrix(chosen, chosen)  # [m, m]
    eps = float(jnp.finfo(small.dtype).eps)
    factor = precision.wide(lambda k: _factor(k, eps), small)
    return Nystrom(indices, chosen, factor, np.float64(left), matrix)


def regression(features: Array, y: Array, ridge: float) -> Array:
    """Weights w of f(x) = phi(x) w that minimise |phi w - y|^2 + ridge |w|^2, [m, C] float64.

    Equal to kernel ridge regression with the Nystrom kernel, at N m^2 instead of N^3 operations.

    Args:
        features: [N, m] float.
        y: [N, C] or [N] float.
        ridge: > 0.
    Raises:
        ValueError: if the ridge is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: expected a positive number")

    def weights(phi: Array, y: Array) -> Array:
        normal = jnp.einsum("nk,nl->kl", phi, phi) + ridge * jnp.eye(phi.shape[1])
        return jax.scipy.linalg.solve(normal, jnp.einsum("nk,n...->k...", phi, y), assume_a="pos")

    return precision.wide(jax.jit(weights), features, y)


def preconditioner(features: Array, ridge: float) -> Operator:
    """v -> (phi phi' + ridge)^-1 v by Woodbury's identity, for `solvers.solve`.

    Args:
        features: [N, m] float of the training points.
        ridge: > 0, of the system.
    Raises:
        ValueError: if the ridge is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: expected a positive number")
    phi = np.asarray(features, np.float64)
    factor = np.linalg.cholesky(phi.T @ phi + ridge * np.eye(phi.shape[1]))

    def operator(vector: Array) -> Array:
        inner = jnp.einsum("nk,n...->k...", phi, vector)
        inner = jax.scipy.linalg.cho_solve((jnp.asarray(factor), True), inner)
        return (vector - jnp.einsum("nk,k...->n...", phi, inner)) / ridge

    return operator


def _pivots(matrix: Matrix, x: PyTree, num: int, rng: Key | None) -> tuple[np.ndarray, float]:
    """Landmarks by partial Cholesky, and the share of the trace that is left."""
    indices, left, total, cutoff, largest = jax.jit(
        _pivoted_cholesky, static_argnames=("matrix", "num")
    )(x, rng, matrix=matrix, num=num)
    kept = np.asarray(largest) > float(cutoff)
    kept[0] = True
    return np.asarray(indices)[kept], float(left[-1]) / float(total)


def _pivoted_cholesky(
    x: PyTree, rng: Key | None, *, matrix: Matrix, num: int
) -> tuple[Array, Array, Array, Array, Array]:
    take = lambda index: jax.tree.map(lambda leaf: jnp.asarray(leaf)[index][None], x)
    size = checks.num_examples(x, "x")
    diagonal = jax.lax.map(lambda index: matrix(take(index), take(index))[0, 0], jnp.arange(size))

    def body(step: Array, carry: tuple) -> tuple:
        factor, rest, indices, left, largest = carry
        if rng is None:
            pivot = jnp.argmax(rest)
        else:
            pivot = jax.random.categorical(jax.random.fold_in(rng, step), jnp.log(rest))
        column = matrix(x, take(pivot))[:, 0] - jnp.einsum("nk,k->n", factor, factor[pivot])
        height = rest[pivot]
        column = column / jnp.sqrt(jnp.where(height > 0, height, 1))
        # The pivot's own rest is zero by definition, not by rounding: it is never taken twice.
        rest = jnp.maximum(rest - column**2, 0).at[pivot].set(0)
        factor = factor.at[:, step].set(column)
        indices, left = indices.at[step].set(pivot), left.at[step].set(rest.sum())
        return factor, rest, indices, left, largest.at[step].set(height)

    zeros = jnp.zeros(num, diagonal.dtype)
    start = jnp.zeros((size, num), diagonal.dtype), diagonal, jnp.zeros(num, int), zeros, zeros
    _, _, indices, left, largest = jax.lax.fori_loop(0, num, body, start)
    cutoff = 8 * jnp.finfo(diagonal.dtype).eps * diagonal.max()
    return indices, left, diagonal.sum(), cutoff, largest


def _factor(kernel: Array, eps: float) -> Array:
    """Cholesky factor in float64, of a kernel lifted by its own rounding error."""
    lift = 4 * eps * jnp.diagonal(kernel).max()
    return jnp.linalg.cholesky(kernel + lift * jnp.eye(len(kernel), dtype=kernel.dtype))


@jax.jit
def _whiten(factor: Array, cross: Array) -> Array:
    """cross L'^-1, [N, m]."""
    return jax.scipy.linalg.solve_triangular(factor, cross.T, lower=True).T
