"""Pytrees as vectors: the same numbers as those of one flat vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import trees


def pair():
    rng = np.random.default_rng(0)
    return [
        {"a": jnp.asarray(rng.normal(size=(3, 2))), "b": [jnp.asarray(rng.normal(size=4))]}
        for _ in range(2)
    ]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_products_norms_and_sums_are_those_of_the_flat_vector(x64):
    a, b = pair()
    np.testing.assert_allclose(trees.vdot(a, b), flat(a) @ flat(b), rtol=1e-14)
    np.testing.assert_allclose(trees.norm(a), np.linalg.norm(flat(a)), rtol=1e-14)
    np.testing.assert_allclose(
        flat(trees.add_scaled(a, -2.5, b)), flat(a) - 2.5 * flat(b), rtol=1e-14
    )
    assert trees.size(a) == 10
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), a)
    assert {leaf.dtype for leaf in jax.tree.leaves(trees.add_scaled(half, 0.5, half))} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_a_flat_operator_is_the_same_operator(x64):
    a, b = pair()
    scale = {"a": 3.0, "b": [-1.0]}
    operator = lambda v: jax.tree.map(lambda leaf, s: s * leaf, v, scale)
    on_flat, like, unravel = trees.flatten(operator, a)
    np.testing.assert_array_equal(like, flat(a))
    np.testing.assert_allclose(on_flat(jnp.asarray(flat(b))), flat(operator(b)), rtol=1e-14)
    assert jax.tree.structure(unravel(like)) == jax.tree.structure(a)


@pytest.mark.parametrize("sampler", [trees.rademacher, trees.gaussian])
def test_probes_have_unit_covariance_and_leaves_of_their_own(x64, sampler):
    """20,000 draws: each entry of the covariance within 5 standard errors, 1e-5 false alarms."""
    like = {"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.float32)}
    draws = jax.jit(jax.vmap(lambda key: sampler(key, like)))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    assert draws["b"].dtype == jnp.float32
    both = np.concatenate([draws["a"], draws["b"]], axis=1)
    error = np.abs(both.T @ both / len(both) - np.eye(4))
    assert error.max() < 5 * np.sqrt(2 / len(both))
    assert set(np.unique(both)) == {-1.0, 1.0} or sampler is trees.gaussian
