"""Nystrom features and random projections against the kernels they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.kernels import cosine, points

RNG = jax.random.key(1)


@pytest.mark.parametrize("landmarks", ["pivoted", "random_pivoted", "uniform"])
def test_exact_with_all_points_and_at_the_landmarks(x64, landmarks):
    x = points(20)
    kernel = np.asarray(cosine(x, x))
    full = ntk.nystrom.fit(cosine, x, 20, rng=RNG, landmarks=landmarks).features(x)
    np.testing.assert_allclose(full @ full.T, kernel, rtol=1e-8, atol=1e-10)
    part = ntk.nystrom.fit(cosine, x, 8, rng=RNG, landmarks=landmarks)
    phi = part.features(x)
    chosen = np.asarray(part.indices)
    assert len(set(chosen.tolist())) == 8
    np.testing.assert_allclose((phi @ phi.T)[chosen], kernel[chosen], rtol=1e-8, atol=1e-10)
    rest = kernel - phi @ phi.T
    assert np.linalg.eigvalsh(rest)[0] > -1e-10  # never more than the kernel
    if landmarks != "uniform":
        np.testing.assert_allclose(part.residual, np.trace(rest) / np.trace(kernel), rtol=1e-8)


def test_pivots_stop_at_the_rank_and_take_no_point_twice(x64):
    x = np.concatenate([points(10)[:6]] * 3)  # 6 different points
    linear = lambda a, b: a @ b.T
    assert len(ntk.nystrom.fit(linear, x, 10).indices) == 3
    fitted = ntk.nystrom.fit(cosine, x, 18)
    assert sorted(np.asarray(fitted.indices) % 6) == list(range(6))
    assert fitted.residual < 1e-12


def test_regression_is_kernel_ridge_regression_with_the_nystrom_kernel(x64):
    x, y = points(20), np.random.default_rng(0).normal(size=(20, 2))
    phi = ntk.nystrom.fit(cosine, x, 7).features(x)
    weights = ntk.nystrom.regression(phi, y, 0.1)
    expected = phi @ phi.T @ np.linalg.solve(phi @ phi.T + 0.1 * np.eye(20), y)
    np.testing.assert_allclose(phi @ weights, expected, rtol=1e-8, atol=1e-10)


def test_nystrom_preconditions(x64):
    x, y = points(40), points(40)[:, 0]
    operator = ntk.solvers.recomputed(cosine, x, 40)
    features = ntk.nystrom.fit(cosine, x, 20).features(x)
    plain = ntk.solvers.solve(operator, y, ridge=1e-4)
    faster = ntk.solvers.solve(
        operator, y, ridge=1e-4, preconditioner=ntk.nystrom.preconditioner(features, 1e-4)
    )
    assert faster.converged and faster.num_steps < 0.6 * plain.num_steps
    np.testing.assert_allclose(faster.x, plain.x, rtol=1e-3, atol=1e-3 * abs(plain.x).max())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num=0: expected a positive whole number"):
        ntk.nystrom.fit(cosine, points(20), 0)
    with pytest.raises(ValueError, match="num=21: expected 1 to 20"):
        ntk.nystrom.fit(cosine, points(20), 21)
    with pytest.raises(ValueError, match="landmarks='nearest'"):
        ntk.nystrom.fit(cosine, points(20), 3, landmarks="nearest")
    with pytest.raises(ValueError, match="ridge=-1.0"):
        ntk.nystrom.preconditioner(jnp.ones((3, 2)), -1.0)
    with pytest.raises(ValueError, match="needs rng"):
        ntk.nystrom.fit(cosine, points(20), 3, landmarks="uniform")
    with pytest.raises(ValueError, match="ridge=0.0"):
        ntk.nystrom.regression(jnp.ones((3, 2)), jnp.ones(3), 0.0)
