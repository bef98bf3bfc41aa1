"""Random projections of Jacobians: a few hundred numbers an example in place of P.

    phi(x) = R J(x), R [K, P] of independent signs / sqrt(K): E phi(x1) . phi(x2) = Theta(x1, x2)

Johnson and Lindenstrauss 1984; for attribution Park et al. 2023 (TRAK), arXiv:2303.14186. R is
never stored: its rows are drawn from their numbers and pushed forward as tangents, a block at a
time, over a block of examples at a time.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp

from library.types import Array, Key, Params, PyTree
from research.ntk import batching, checks, compositions, probes
from research.ntk.checks import Apply


def features(
    apply: Apply,
    params: Params,
    x: PyTree,
    num_features: int,
    *,
    rng: Key,
    block: int = 16,
    batch_size: int | None = None,
) -> PyTree:
    """Projected Jacobians of every example.

    Args:
        apply: (params, x) -> real outputs [N, *O] or a pytree of such, as in `empirical`.
        params: pytree; integer leaves count as constants, complex ones as two real parameters.
        x: leaves [N, ...].
        num_features: K.
        rng: key of the projection: row k is drawn from fold_in(rng, k), so that features of other
            examples, or at other parameters of the same shapes, share it.
        block: rows of the projection in memory at once.
        batch_size: examples in memory at once; all when None.
    Returns:
        Leaves [N, *O, K], float32 or wider. The relative error of an inner product is of
        order sqrt(2 / K).
    Raises:
        ValueError: if an argument is out of range or the inputs do not fit.
    """
    checks.count("num_features", num_features)
    checks.count("block", block)
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    checks.same_examples(x, None)
    checks.network(apply, params, x, "full")
    compositions.check(apply, params, x)
    statics = dict(num_features=num_features, block=block, batch_size=batch_size)
    return probes.compiled(_features, apply, *statics)(params, x, rng, **statics)


def _features(
    params: Params,
    x: PyTree,
    rng: Key,
    *,
    apply: Apply,
    num_features: int,
    block: int,
    batch_size: int | None,
) -> PyTree:
    params, x = checks.widened((params, x))
    free, restore = checks.split_float(params)
    flat, unravel = jax.flatten_util.ravel_pytree(free)
    block = min(block, num_features)

    def of_examples(x: PyTree) -> PyTree:
        push = jax.linearize(lambda free: checks.widened(apply(restore(free), x)), free)[1]

        def row(index: Array) -> PyTree:
            signs = jax.random.rademacher(jax.random.fold_in(rng, index), flat.shape, flat.dtype)
            return push(unravel(signs))

        rows = jax.lax.map(row, jnp.arange(num_features), batch_size=block)  # [K, N, *O]
        scale = num_features**-0.5
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1) * scale, rows)

    if batch_size is None:
        return of_examples(x)
    return batching.map_over(of_examples, x, batch_size)


def kernel(features1: PyTree, features2: PyTree | None = None) -> Array:
    """The unbiased estimate of the trace kernel, [N1, N2], summed over outputs and leaves."""
    features2 = features1 if features2 is None else features2
    features1, features2 = checks.widened((features1, features2))
    flat = lambda leaf: leaf.reshape(len(leaf), -1)
    for pair in zip(jax.tree.leaves(features1), jax.tree.leaves(features2)):
        chex.assert_equal_shape_suffix(pair, pair[0].ndim - 1)
    products = jax.tree.map(
        lambda a, b: jnp.einsum("nk,mk->nm", flat(a), flat(b)), features1, features2
    )
    return functools.reduce(jnp.add, jax.tree.leaves(products))
