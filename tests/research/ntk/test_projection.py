"""Random projections of Jacobians against the kernel that they stand for."""

import jax
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


def test_features_of_other_projections_do_not_fit():
    with pytest.raises(AssertionError, match="shape suffixes"):
        ntk.projection.kernel(np.ones((2, 3, 4)), np.ones((2, 3, 5)))
    with pytest.raises(ValueError, match="num_features=0"):
        apply = lambda w, x: x @ w
        ntk.projection.features(apply, np.ones((3, 2)), np.ones((4, 3)), 0, rng=RNG)
