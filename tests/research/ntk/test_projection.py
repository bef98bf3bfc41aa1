"""Random projections of Jacobians against the kernel that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk import networks

RNG = jax.random.key(1)


def test_projections_are_unbiased_with_the_spread_of_signs(x64):
    """Theta from 2,000 features: every entry within 4 of its standard errors (64 entries)."""
    apply, params = networks.plain_mlp()
    x = networks.vectors(1, 8)
    found = ntk.projection.features(apply, params, x, 2000, rng=RNG, block=100, batch_size=3)
    assert found.shape == (8, 3, 2000)
    kernel = np.asarray(ntk.empirical(apply, params, x, outputs="trace"))
    # Independent rows give Theta(x1, x2) by the mean of K products; their scatter is measured.
    products = np.einsum("nck,mck->nmk", found, found) * 2000
    error = products.std(-1) / 2000**0.5
    assert np.all(np.abs(ntk.projection.kernel(found) - kernel) < 4 * error)
    assert np.all(error < 0.1 * np.sqrt(np.outer(np.diagonal(kernel), np.diagonal(kernel))))


def test_projections_depend_on_neither_blocks_nor_batches(x64):
    apply, params = networks.plain_mlp()
    x = networks.vectors(1, 5)
    whole = ntk.projection.features(apply, params, x, 6, rng=RNG)
    parts = ntk.projection.features(apply, params, x, 6, rng=RNG, block=4, batch_size=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    fewer = ntk.projection.features(apply, params, x[:2], 4, rng=RNG)
    np.testing.assert_allclose(fewer * 2, whole[:2, :, :4] * 6**0.5, rtol=1e-12)


def test_complex_parameters_are_pairs_of_real_ones(x64):
    pairs = networks.normal(0, 2, 4, 3)
    x = networks.vectors(1, 5)
    modulus = lambda p, x: jnp.abs(x @ p) ** 2
    of_pairs = lambda p, x: (x @ p[0]) ** 2 + (x @ p[1]) ** 2
    found = ntk.projection.features(modulus, pairs[0] + 1j * pairs[1], x, 6, rng=RNG)
    expected = ntk.projection.features(of_pairs, pairs, x, 6, rng=RNG)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", [{"num_features": 0}, {"block": 1.5}, {"batch_size": 0}])
def test_counts_are_checked(change):
    options = {"num_features": 4, "rng": RNG} | change
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected a positive whole number"):
        ntk.projection.features(lambda w, x: x @ w, np.ones((3, 2)), np.ones((4, 3)), **options)


def test_features_of_other_projections_do_not_fit():
    with pytest.raises(AssertionError, match="shape suffixes"):
        ntk.projection.kernel(np.ones((2, 3, 4)), np.ones((2, 3, 5)))
