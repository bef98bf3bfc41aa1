"""Points of two samples: centring, blocks of rows, distances that keep their digits."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.sample_quality import pairs


def test_samples_are_rows_about_the_mean_of_the_second():
    x, y = np.arange(12.0).reshape(2, 2, 3), np.ones((4, 2, 3))
    y[0] = 5
    left, right = pairs.samples(jnp.float16(x), jnp.float16(y), least=2)
    assert left.dtype == right.dtype == jnp.float32
    np.testing.assert_array_equal(left, x.reshape(2, 6) - 2)
    np.testing.assert_array_equal(right, y.reshape(4, 6) - 2)
    left, right = pairs.samples(jnp.float32(x), jnp.float32(y), least=2, centred=False)
    np.testing.assert_array_equal(left, x.reshape(2, 6))
    np.testing.assert_array_equal(right, y.reshape(4, 6))


@pytest.mark.parametrize("block", [1, 2, 3, 7, 50])
def test_rows_go_through_blocks_with_their_indices(block):
    x = jnp.arange(14.0).reshape(7, 2)
    found = pairs.map_rows(lambda rows, index: rows[:, 1] + 100 * index, x, block)
    np.testing.assert_array_equal(found, 1 + 2 * np.arange(7) + 100 * np.arange(7))


def test_squared_distances_do_not_cancel():
    """Two clusters 2e4 apart: the product alone errs by 16, all of the distances within one."""
    rng = np.random.default_rng(0)
    x = np.float32(np.concatenate([rng.normal(size=(5, 3)), 2e4 + rng.normal(size=(5, 3))]))
    exact = np.square(np.float64(x)[:, None] - np.float64(x)[None]).sum(-1)
    np.testing.assert_allclose(pairs.squared(jnp.asarray(x), jnp.asarray(x)), exact, rtol=1e-3)
    unknown = pairs.squared(jnp.asarray(x), jnp.asarray(x), known=np.eye(10, dtype=bool))
    apart = ~np.eye(10, dtype=bool)
    np.testing.assert_allclose(np.asarray(unknown)[apart], exact[apart], rtol=1e-3)


@pytest.mark.parametrize(
    "x, y, least, words",
    [
        (jnp.ones((3, 2)), jnp.ones((3, 1)), 1, "expected points of one shape, at least 1 in each"),
        (jnp.ones((3, 2)), jnp.ones((1, 2)), 2, "at least 2 in each"),
        (jnp.ones(()), jnp.ones(()), 1, "expected points of one shape"),
        (jnp.ones((3, 2), complex), jnp.ones((3, 2)), 1, "expected real numbers"),
    ],
)
def test_bad_input(x, y, least, words):
    with pytest.raises(ValueError, match=words):
        pairs.samples(x, y, least)
