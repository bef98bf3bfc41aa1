"""Pytrees of arrays as vectors of one real space."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.flatten_util
import jax.numpy as jnp

from library.types import Array, Key, PyTree

Operator = Callable[[PyTree], PyTree]  # linear: v -> A v
Sampler = Callable[[Key, PyTree], PyTree]  # (rng, like) -> a random vector with E[v v'] = I


def vdot(a: PyTree, b: PyTree) -> Array:
    """Inner product over all entries, [] float."""
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y), a, b)
    return jax.tree.reduce(jnp.add, products)


def norm(a: PyTree) -> Array:
    """Euclidean norm over all entries, [] float."""
    return jnp.sqrt(vdot(a, a))


def add_scaled(a: PyTree, scale: Array | float, b: PyTree) -> PyTree:
    """a + scale * b in the dtype of a."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(scale, x.dtype) * y, a, b)


def size(a: PyTree) -> int:
    """Number of entries D."""
    return sum(leaf.size for leaf in jax.tree.leaves(a))


def flatten(operator: Operator, like: PyTree) -> tuple[Operator, Array, Operator]:
    """The same operator on flat vectors.

    Args:
        operator: linear, on pytrees of the structure of `like`.
        like: the pytree whose structure, shapes and dtypes the vectors have.
    Returns:
        The operator on [D] vectors; `like` as a vector [D]; the map from [D] back to pytrees.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(like)
    return lambda v: jax.flatten_util.ravel_pytree(operator(unravel(v)))[0], flat, unravel


def rademacher(rng: Key, like: PyTree) -> PyTree:
    """Independent signs, of the structure and dtypes of `like`: least variance for a trace."""
    return _sample(lambda key, leaf: jax.random.rademacher(key, leaf.shape, leaf.dtype), rng, like)


def gaussian(rng: Key, like: PyTree) -> PyTree:
    """Independent standard normal entries: the direction is uniform on the sphere."""
    return _sample(lambda key, leaf: jax.random.normal(key, leaf.shape, leaf.dtype), rng, like)


def _sample(draw: Callable, rng: Key, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(rng, len(leaves))
    return jax.tree.unflatten(structure, [draw(key, leaf) for key, leaf in zip(keys, leaves)])
