"""What tests of every topic need: finite differences, shapes without computing, a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, PyTree


def finite_difference_gradient(
    function: Callable[[PyTree], Array], at: PyTree, step: float = 1e-5
) -> PyTree:
    """Central-difference gradient of a scalar function, one coordinate after the other.

    Run it in float64: the error is about step**2 times the third derivative plus 1e-16 / step.

    Args:
        function: pytree -> [] float.
        at: pytree of float arrays, the point.
        step: half the distance between the two evaluations.
    Returns:
        The gradient, of the structure of `at`.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(at)
    shifted = jnp.concatenate(
        [flat[None] + step * jnp.eye(flat.size), flat[None] - step * jnp.eye(flat.size)]
    )
    values = jax.jit(lambda points: jax.lax.map(lambda point: function(unravel(point)), points))(
        shifted
    )
    return unravel((values[: flat.size] - values[flat.size :]) / (2 * step))


def check_gradient(
    function: Callable[[PyTree], Array], at: PyTree, rtol: float = 1e-7, atol: float = 1e-9
) -> None:
    """Asserts that reverse mode agrees with finite differences (call under float64)."""
    expected = finite_difference_gradient(function, at)
    actual = jax.jit(jax.grad(function))(at)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected
    )


def count_parameters(init: Callable[..., PyTree], *args: Any) -> int:
    """Number of parameters that `init(*args)` would make, by tracing alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, *args)))


def assert_trees_equal(actual: PyTree, expected: PyTree) -> None:
    """Asserts equal structure, shapes, dtypes and values to the bit; keys by their data."""
    chex.assert_trees_all_equal(_host(actual), _host(expected), strict=True)


def assert_trees_close(actual: PyTree, expected: PyTree, rtol: float, atol: float = 0.0) -> None:
    """Asserts equal structure and shapes, and close values, whatever their dtypes."""
    actual, expected = _host(actual), _host(expected)
    chex.assert_trees_all_equal_shapes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def raw(leaf: Any) -> np.ndarray:
    """Host array of a leaf; the key data of a typed key."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _host(tree: PyTree) -> PyTree:
    return jax.tree.map(raw, tree)


def mlp_init(rng: Key, sizes: tuple[int, ...], dtype: Any = None) -> PyTree:
    """Parameters of a plain MLP: a list of {"w": [I, O], "b": [O]}."""
    keys = jax.random.split(rng, len(sizes) - 1)
    return [
        {
            "w": jax.random.normal(key, (num_in, num_out), dtype) / num_in**0.5,
            "b": jnp.zeros(num_out, dtype),
        }
        for key, num_in, num_out in zip(keys, sizes[:-1], sizes[1:])
    ]


def mlp_apply(params: PyTree, x: Array) -> Array:
    """tanh MLP, [B, I] -> [B, O]."""
    for layer in params[:-1]:
        x = jnp.tanh(jnp.einsum("bi,io->bo", x, layer["w"]) + layer["b"][None])
    return jnp.einsum("bi,io->bo", x, params[-1]["w"]) + params[-1]["b"][None]
