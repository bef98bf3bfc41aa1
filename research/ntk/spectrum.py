"""The spectrum of an empirical kernel and what follows from it, without ever forming the kernel.

Theta is the full kernel, a symmetric matrix on the outputs of all examples together, D = N C. Only
products Theta v enter (one backward and one forward pass), and where that is cheaper the squared
norms of single rows of the Jacobian. A quantity estimated from random probes comes with its
standard error; nonlinear ones are corrected for bias and judged by the jackknife.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp

from library.linalg import hutchinson, trees
from library.linalg.hutchinson import Estimate
from library.types import Array, Key, Params, PyTree
from research.ntk import checks, compositions, methods, probes
from research.ntk.checks import Apply

_ROUNDS = 64  # of deflated Lanczos, at most: each finds one more copy of a multiple eigenvalue


def top_eigenpairs(
    apply: Apply,
    params: Params,
    x: PyTree,
    num: int = 10,
    *,
    rng: Key,
    batch_size: int | None = None,
    rtol: float = 1e-4,
    num_steps: int | None = None,
) -> tuple[Array, PyTree]:
    """The largest eigenvalues of the full kernel and their vectors, by Lanczos on products.

    The Krylov space doubles until all residuals are small, then a second one, orthogonal to what
    was found, looks for eigenvalues that the first start vector missed: a space from one vector
    holds one vector of each eigenvalue, and a network linear in its parameters has all of them C
    times over.

    Args:
        apply: (params, x) -> outputs [N, *O] or a pytree of such, as in `empirical`.
        params: pytree; integer leaves count as constants.
        x: leaves [N, ...].
        num: how many pairs, from 1 to D.
        rng: key of the start vectors.
        batch_size: examples in memory at once; all when None.
        rtol: wanted |Theta v - value v| / value; the error of the value is about its square.
        num_steps: size of the first Krylov space; min(D, 2 num + 20) when None.
    Returns:
        values [num], descending, and orthonormal vectors, like the outputs with a leading [num].
    Warns:
        RuntimeWarning: if eigenvalues have so many copies that some may be missing.
    Raises:
        ValueError: if an argument is out of range or the inputs do not fit.
    """
    like = _outputs(apply, params, x)
    dim = trees.size(like)
    checks.count("num", num)
    if num > dim:
        raise ValueError(f"num={num}: expected 1 to {dim}, all outputs of all examples")
    num_steps = min(dim, 2 * num + 20) if num_steps is None else num_steps
    checks.count("num_steps", num_steps)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    if not rtol > 0:
        raise ValueError(f"rtol={rtol}: expected a positive number")
    if not num <= num_steps <= dim:
        raise ValueError(f"num_steps={num_steps}: expected {num} to {dim}")
    dtype = jnp.result_type(*jax.tree.leaves(like))
    vectors, values = jnp.zeros((0, dim), dtype), jnp.zeros(0, dtype)
    for index in range(_ROUNDS):
        missing = num - len(values)
        known = jnp.zeros((num, dim), dtype).at[: len(values)].set(vectors)
        size = jnp.ones((), dtype) if missing else values[0]
        threshold = -jnp.inf if missing else values[-1] * (1 + rtol)
        key = jax.random.fold_in(rng, index)
        while True:
            statics = dict(num=num, num_steps=num_steps, batch_size=batch_size)
            run = probes.compiled(probes.deflated_pairs, apply, *statics)
            pairs = run(params, x, known, size, key, **statics)
            if num_steps == dim or _accurate(pairs, rtol, threshold):
                break
            num_steps = min(dim, 2 * num_steps)
        found_more = bool(pairs.values[0] > threshold)
        values, vectors = jnp.append(values, pairs.values), jnp.append(vectors, pairs.vectors, 0)
        order = jnp.argsort(-values)[:num]
        values, vectors = values[order], vectors[order]
        if not found_more or num_steps == dim:
            break
    else:
        message = (
            f"the last of {_ROUNDS} rounds of Lanczos still found eigenvalues that belong among "
            f"the {num} largest: copies of repeated ones may be missing"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return values, jax.vmap(trees.flatten(lambda v: v, like)[2])(vectors)


def trace(
    apply: Apply,
    params: Params,
    x: PyTree,
    *,
    rng: Key,
    num_probes: int = 32,
    batch_size: int | None = None,
) -> Estimate:
    """tr Theta, estimated from random probes; see `exact_trace` for the cheaper exact one.

    Args: as in `top_eigenpairs`; num_probes products, at least 2.
    Returns:
        `Estimate` of [] float.
    Raises:
        ValueError: as `top_eigenpairs`.
    """
    _outputs(apply, params, x)
    statics = dict(num_probes=_count(num_probes), batch_size=batch_size)
    forms = probes.compiled(probes.quadratic_forms, apply, *statics)
    return hutchinson.summarise(forms(params, x, rng, **statics))


def diagonal(
    apply: Apply, params: Params, x: PyTree, *, method: str = "structured", batch_size: int = 32
) -> Array:
    """The trace over outputs of the kernel of every example with itself: exact, row by row.

    Args:
        apply, params, x: as in `top_eigenpairs`.
        method: of `empirical`, used on one example at a time.
        batch_size: examples in memory at once.
    Returns:
        [N] float >= 0, summed over output leaves.
    Raises:
        ValueError: as `top_eigenpairs`.
    """
    checks.choice("method", method, methods.METHODS)
    checks.count("batch_size", batch_size)
    _outputs(apply, params, x)
    rows = probes.compiled(_diagonal, apply, "method", "batch_size")
    return rows(params, x, method=method, batch_size=batch_size)


def exact_trace(
    apply: Apply, params: Params, x: PyTree, *, method: str = "structured", batch_size: int = 32
) -> Array:
    """tr Theta = the squared norm of the Jacobian, row by row; arguments as in `diagonal`."""
    return diagonal(apply, params, x, method=method, batch_size=batch_size).sum()


def frobenius_norm(
    apply: Apply,
    params: Params,
    x: PyTree,
    *,
    rng: Key,
    num_probes: int = 32,
    batch_size: int | None = None,
) -> Estimate:
    """|Theta|_F, from E |Theta v|^2 = tr Theta^2.

    Args: as in `trace`.
    Returns:
        `Estimate` of [] float.
    Raises:
        ValueError: as `trace`.
    """
    return probes.jackknife(jnp.sqrt, _squares(apply, params, x, rng, num_probes, batch_size))


def effective_rank(
    apply: Apply,
    params: Params,
    x: PyTree,
    *,
    rng: Key,
    num_probes: int = 32,
    batch_size: int | None = None,
) -> Estimate:
    """(tr Theta)^2 / tr Theta^2: D for equal eigenvalues, 1 for a single one.

    The numerator is exact (`exact_trace`), the denominator estimated.

    Args: as in `trace`.
    Returns:
        `Estimate` of [] float.
    Raises:
        ValueError: as `trace`.
    """
    samples = _squares(apply, params, x, rng, num_probes, batch_size)
    return probes.jackknife(_participation, samples, exact_trace(apply, params, x))


def alignment(
    apply: Apply,
    params: Params,
    x: PyTree,
    targets: PyTree,
    *,
    rng: Key,
    num_probes: int = 32,
    centred: bool = False,
    batch_size: int | None = None,
) -> Estimate:
    """Kernel-target alignment y . Theta y / (|Theta|_F |y|^2), Cristianini et al. 2001.

    Args:
        apply, params, x, rng, num_probes, batch_size: as in `trace`.
        targets: like the outputs.
        centred: whether to take the mean over examples from targets and kernel, Cortes, Mohri and
            Rostamizadeh 2012, arXiv:1203.0550.
    Returns:
        `Estimate` of [] float in [0, 1]; only the norm of the kernel is estimated.
    Raises:
        ValueError: if the targets are not like the outputs, or all zero; else as `trace`.
    """
    expected, found = (_shapes(tree) for tree in (_outputs(apply, params, x), targets))
    if found != expected:
        raise ValueError(f"targets have shapes {found}: expected {expected}")
    samples = _squares(apply, params, x, rng, num_probes, batch_size, centred)
    statics = dict(centred=centred, batch_size=batch_size)
    form = probes.compiled(probes.target_form, apply, *statics)
    product, square = form(params, x, targets, **statics)
    if not square > 0:
        raise ValueError("targets are all zero" + " after centring" * centred)
    return probes.jackknife(_over_root, samples, product / square)


def distance(
    apply: Apply,
    params: Params,
    other: Params,
    x: PyTree,
    *,
    rng: Key,
    num_probes: int = 32,
    batch_size: int | None = None,
) -> Estimate:
    """1 - <Theta, Theta'> / (|Theta| |Theta'|) between two sets of parameters.

    The kernel distance of Fort et al. 2020, arXiv:2010.15110; divided by the time between the two
    it is the kernel's velocity. The same probes meet both kernels, so that the error falls with the
    distance.

    Args:
        apply, x, rng, num_probes, batch_size: as in `trace`.
        params, other: of one structure.
    Returns:
        `Estimate` of [] float, 0 for proportional kernels.
    Raises:
        ValueError: if the parameters differ in structure or shapes; else as `trace`.
    """
    if _shapes(params) != _shapes(other):
        raise ValueError(f"params and other differ: {_shapes(params)} and {_shapes(other)}")
    _outputs(apply, params, x)
    statics = dict(num_probes=_count(num_probes), batch_size=batch_size)
    products = probes.compiled(probes.inner_products, apply, *statics)
    return probes.jackknife(_one_less_cosine, products(params, other, x, rng, **statics))


def _accurate(pairs, rtol: float, threshold: Array | float) -> bool:
    """Whether every pair that may lie above the threshold has a small residual."""
    rounding = 100 * float(jnp.finfo(pairs.values.dtype).eps) * abs(float(pairs.values[0]))
    small = pairs.residuals <= rtol * jnp.abs(pairs.values) + rounding
    return bool(jnp.all(small | (pairs.values + pairs.residuals <= threshold)))


def _diagonal(params: Params, x: PyTree, *, apply: Apply, method: str, batch_size: int) -> Array:
    def one(example: PyTree) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        kernels = methods.tile(method, apply, "trace", params, batch, None)
        return sum(leaf[0, 0] for leaf in jax.tree.leaves(kernels))

    return jax.lax.map(one, x, batch_size=batch_size)


def _squares(
    apply: Apply,
    params: Params,
    x: PyTree,
    rng: Key,
    num_probes: int,
    batch_size: int | None,
    centred: bool = False,
) -> Array:
    """|Theta v|^2 of every probe, [M]."""
    _outputs(apply, params, x)
    statics = dict(num_probes=_count(num_probes), batch_size=batch_size, centred=centred)
    return probes.compiled(probes.squares, apply, *statics)(params, x, rng, **statics)


def _participation(square: Array, total: Array) -> Array:
    return jnp.square(total) / square


def _over_root(square: Array, product: Array) -> Array:
    return product / jnp.sqrt(square)


def _one_less_cosine(means: Array) -> Array:
    return 1 - means[0] / jnp.sqrt(means[1] * means[2])


def _count(num_probes: int) -> int:
    checks.count("num_probes", num_probes)
    if num_probes < 2:
        raise ValueError(f"num_probes={num_probes}: expected at least 2, for a standard error")
    return num_probes


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, tree)


def _outputs(apply: Apply, params: Params, x: PyTree) -> PyTree:
    """The zero vector of outputs, after the checks of `empirical`."""
    checks.same_examples(x, None)
    checks.network(apply, params, x, "full")
    compositions.check(apply, params, x)
    return probes.zeros(apply, params, x)
