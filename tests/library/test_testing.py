"""The helpers of tests find what they should, and fail where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing


def test_finite_differences_of_a_cubic_have_the_known_error(x64):
    """Of x^3 the central difference is 3 x^2 + step^2, exactly."""
    at = {"x": jnp.array([1.0, -2.0])}
    found = testing.finite_difference_gradient(lambda p: (p["x"] ** 3).sum(), at, step=1e-2)
    np.testing.assert_allclose(found["x"], [3 + 1e-4, 12 + 1e-4], rtol=1e-11)


def test_a_wrong_gradient_is_found(x64):
    @jax.custom_jvp
    def square(x):
        return (x**2).sum()

    square.defjvp(
        lambda primals, tangents: (square(*primals), (3 * primals[0] * tangents[0]).sum())
    )
    testing.check_gradient(lambda x: (x**2).sum(), jnp.arange(3.0))
    with pytest.raises(AssertionError):
        testing.check_gradient(square, jnp.arange(3.0))
    testing.check_gradient(square, jnp.arange(3.0), atol=2.5)
    testing.check_gradient(square, jnp.arange(3.0), rtol=0.51)  # 3 x beside 2 x


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.ones(2), "b": jax.random.key(0)},  # another dtype
        {"a": np.float32([1, 2]), "b": jax.random.key(0)},  # another value
        {"a": np.ones(2, np.float32), "b": jax.random.key(1)},  # another key
        {"a": np.ones(2, np.float32)},  # another structure
    ],
)
def test_trees_that_differ_are_not_equal(other):
    tree = {"a": np.ones(2, np.float32), "b": jax.random.key(0)}
    testing.assert_trees_equal(tree, {"a": jnp.ones(2), "b": jax.random.key(0)})
    with pytest.raises(AssertionError):
        testing.assert_trees_equal(tree, other)


def test_close_trees_are_close_to_the_tolerance_given():
    tree, near = {"a": np.ones(2)}, {"a": np.ones(2) + 1e-6}
    testing.assert_trees_close(tree, near, rtol=1e-5)
    testing.assert_trees_close({"a": np.zeros(1)}, {"a": np.full(1, 1e-6)}, rtol=0, atol=1e-5)
    with pytest.raises(AssertionError):
        testing.assert_trees_close(tree, near, rtol=1e-7)
    with pytest.raises(AssertionError):
        testing.assert_trees_close(tree, {"b": np.ones(2)}, rtol=1)


def test_the_tiny_model_is_a_tanh_network(x64):
    params = testing.mlp_init(jax.random.key(0), (3, 4, 2), jnp.float64)
    init = lambda rng: testing.mlp_init(rng, (3, 4, 2))
    assert testing.count_parameters(init, jax.random.key(0)) == 26
    x = np.random.default_rng(0).normal(size=(5, 3))
    hidden = np.tanh(x @ params[0]["w"] + 1.0)
    params[0]["b"], params[1]["b"] = jnp.ones(4), jnp.full(2, -2.0)
    np.testing.assert_allclose(
        testing.mlp_apply(params, x), hidden @ params[1]["w"] - 2.0, rtol=1e-12
    )
