"""Attribution against leaving examples out, rank correlations and log-odds."""

import jax
import numpy as np
import pytest
import scipy.stats

from research import ntk

RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(9, 12)) / 3
TARGETS = RNG.normal(size=(6, 2))


def test_attribution_of_ridge_regression_is_its_influence(x64):
    """Least squares: leaving example i out moves f(z) by its score over 1 - leverage, exactly."""
    phi, phi_test, y = FACTOR[:6, :4], FACTOR[6:, :4], TARGETS[:, 0]
    gram = phi.T @ phi
    ridge = 1e-3 * np.trace(gram) / 4
    inverse = np.linalg.inv(gram + ridge * np.eye(4))
    residual = y - phi @ inverse @ phi.T @ y
    scores = ntk.attribution.scores(phi, phi_test, residual, ridge=1e-3)
    leverage = np.einsum("nk,kl,nl->n", phi, inverse, phi)
    for i in range(6):
        keep = np.arange(6) != i
        left = np.linalg.solve(phi[keep].T @ phi[keep] + ridge * np.eye(4), phi[keep].T @ y[keep])
        moved = phi_test @ (inverse @ phi.T @ y - left)
        np.testing.assert_allclose(scores[:, i] / (1 - leverage[i]), moved, rtol=1e-8)


def test_linear_datamodeling_score(x64):
    rng = np.random.default_rng(2)
    scores, subsets = rng.normal(size=(3, 20)), rng.random((30, 20)) < 0.5
    outputs = np.exp(subsets @ scores.T)  # a monotone function of the sums: a perfect score
    found = ntk.attribution.linear_datamodeling_score(scores, subsets, outputs)
    np.testing.assert_allclose(found, 1, rtol=1e-12)
    noisy = np.round(outputs + rng.normal(size=outputs.shape), 0)  # with ties
    found = ntk.attribution.linear_datamodeling_score(scores, subsets, noisy)
    expected = [scipy.stats.spearmanr(subsets @ s, o).statistic for s, o in zip(scores, noisy.T)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_margin_is_the_log_odds(x64):
    logits, labels = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 3, 0])
    p = np.asarray(jax.nn.softmax(logits))[np.arange(5), labels]
    np.testing.assert_allclose(
        ntk.attribution.margin(logits, labels), np.log(p / (1 - p)), rtol=1e-10
    )


def test_what_does_not_fit_is_named():
    with pytest.raises(AssertionError, match="rank"):
        ntk.attribution.margin(np.ones((5, 4)), np.zeros((5, 4), int))
    with pytest.raises(AssertionError, match="shape prefixes"):
        ntk.attribution.margin(np.ones((5, 4)), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"expected \[N, K\], \[M, K\], \[N\]"):
        ntk.attribution.scores(np.ones((5, 4)), np.ones((3, 4)), np.ones(4))
    with pytest.raises(ValueError, match="ridge=0.0"):
        ntk.attribution.scores(np.ones((5, 4)), np.ones((3, 4)), np.ones(5), ridge=0.0)
    with pytest.raises(ValueError, match=r"expected \[M, N\], \[S, N\] and \[S, M\]"):
        ntk.attribution.linear_datamodeling_score(np.ones((3, 5)), np.ones((2, 5)), np.ones((3, 2)))
