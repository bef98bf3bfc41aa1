"""The exact flow of a mixture on the line: quantiles are kept, and one Gaussian moves affinely."""

import numpy as np
import pytest
import scipy.stats

from research.diffusion import oracles, processes

EDM = processes.edm()  # alpha = 1, sigma = t
X = np.array([-7.0, -0.4, 0.1, 2.5, 11.0])


def test_quantiles_are_kept(x64):
    weights, means, stds = np.array([0.3, 0.7]), np.array([-0.5, 0.6]), np.array([0.5, 0.2])
    oracle = oracles.mixture(EDM, weights, means[:, None], stds**2)

    def cdf(x, t):
        spread = np.sqrt(stds**2 + t**2)
        return scipy.stats.norm.cdf((x[:, None] - means) / spread) @ weights

    moved = oracles.mixture_flow(oracle, X, 5.0, 0.1)
    np.testing.assert_allclose(cdf(moved, 0.1), cdf(X, 5.0), rtol=1e-10)
    assert np.all(np.diff(moved) > 0)
    np.testing.assert_allclose(oracles.mixture_flow(oracle, moved, 0.1, 5.0), X, rtol=1e-9)


def test_one_gaussian_moves_affinely(x64):
    """x -> alpha' m + sqrt(V'/V) (x - alpha m), under a process whose signal falls too."""
    process, mean, variance = processes.flow(), 0.4, 0.3
    oracle = oracles.mixture(process, [1.0], [[mean]], variance)
    moved = oracles.mixture_flow(oracle, X[1:4], 0.9, 0.2)
    stretch = np.sqrt((0.8**2 * variance + 0.2**2) / (0.1**2 * variance + 0.9**2))
    expected = 0.8 * mean + stretch * (X[1:4] - 0.1 * mean)
    np.testing.assert_allclose(moved, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "dim, x, t_from, message",
    [
        (2, X, 5.0, r"means \(1, 2\) and x \(5,\): expected points on the line"),
        (1, X[:, None], 5.0, r"x \(5, 1\)"),
        (1, X, 500.0, "t_from, t_to=.*expected times in"),
    ],
)
def test_bad_input_is_named(dim, x, t_from, message):
    oracle = oracles.mixture(EDM, [1.0], np.zeros((1, dim)), 0.3)
    with pytest.raises(ValueError, match=message):
        oracles.mixture_flow(oracle, x, t_from, 0.1)
