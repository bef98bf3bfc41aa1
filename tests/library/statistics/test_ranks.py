"""Ranks against SciPy, with ties, and where nothing is ordered."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from library.statistics import ranks


@pytest.mark.parametrize("levels", [1000, 4])  # hardly a tie, and many
def test_spearman_is_scipys(x64, levels):
    rng = np.random.default_rng(levels)
    a, b = rng.integers(levels, size=(2, 40)).astype(float)
    b += a
    expected = scipy.stats.spearmanr(a, b).statistic
    found = ranks.spearman(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_spearman_sees_order_only_and_nothing_in_a_constant():
    a = jnp.array([3.0, 1.0, 2.0, 8.0])
    assert ranks.spearman(a, jnp.exp(a)) == 1 and ranks.spearman(a, -(a**3)) == -1
    assert ranks.spearman(a, jnp.ones(4)) == 0
    # One neighbouring pair swapped: 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 12 / 60.
    found = ranks.spearman(a, jnp.array([3.0, 2.0, 1.0, 8.0]))
    np.testing.assert_allclose(found, 0.8, rtol=1e-6)


def test_friedmans_ranks_are_means_over_tables_with_ties_shared():
    found = ranks.friedman(np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]]))
    np.testing.assert_allclose(found, [2.0, 1.75, 2.25])


def test_nan_has_no_rank():
    assert np.isnan(ranks.spearman([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]))
    assert ranks.spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1
    np.testing.assert_array_equal(ranks.friedman([[3.0, 1.0], [2.0, 2.0]]), [1.25, 1.75])
