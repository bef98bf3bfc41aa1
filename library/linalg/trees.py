"""Pytrees of arrays as vectors of one real space."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.flatten_util
import jax.numpy as jnp

from library.types import Array, Key, PyTree, at_least_float32

Operator = Callable[[PyTree], PyTree]  # linear: v -> A v
Sampler = Callable[[Key, PyTree], PyTree]  # (rng, like) -> a random vector with E[v v'] = I


def vdot(a: PyTree, b: PyTree) -> Array:
    """Inner product over all entries, [] float, float32 at least."""
    products = jax.tree.map(lambda x, y: jnp.vdot(widened(x), widened(y)), a, b)
    return jax.tree.reduce(jnp.add, products)


def norm(a: PyTree) -> Array:
    """Euclidean norm over all entries, [] float, float32 at least."""
    return jnp.sqrt(vdot(a, a))


def add_scaled(a: PyTree, scale: Array | float, b: PyTree) -> PyTree:
    """a + scale * b in the dtype of a."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(scale, x.dtype) * y, a, b)


def widened(a: PyTree) -> PyTree:
    """The same numbers in float32 at least."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, at_least_float32(leaf)), a)


def like(a: PyTree, b: PyTree) -> PyTree:
    """The numbers of `a` in the dtypes of `b`."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), a, b)


def size(a: PyTree) -> int:
    """Number of entries D."""
    return sum(leaf.size for leaf in jax.tree.leaves(a))


def flatten(operator: Operator, like: PyTree) -> tuple[Operator, Array, Operator]:
    """The same operator on flat vectors.

    Args:
        operator: linear, on pytrees of the structure of `like`.
        like: the pytree whose structure, shapes and dtypes the vectors have.
    Returns:
        The operator on [D] vectors; `like` as a vector [D]; the map from [D] back to pytrees. The
        vectors are in float32 at least, the pytrees in the dtypes of `like`.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(like)

    def back(vector: Array) -> PyTree:
        return unravel(vector.astype(flat.dtype))

    def multiply(vector: Array) -> Array:
        return widened(jax.flatten_util.ravel_pytree(operator(back(vector)))[0])

    return multiply, widened(flat), back


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
