"""Losses without negatives: copies in NumPy, values where they are known, two devices."""

import jax
import numpy as np
import pytest

from research.self_supervised import losses
from tests.research.self_supervised import oracles

CASES = [case for case in oracles.ROWS if oracles.ROWS[case][0] in (
    "byol", "simsiam", "barlow_twins", "vicreg"
)]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(x64, case):
    oracles.check(case, oracles.found()[case])


@pytest.mark.parametrize("case", [case for case in CASES if case in oracles.PLAIN])
def test_defaults(x64, case):
    oracles.check_default(case)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(x64, case):
    """Raw gradients averaged over devices under pmap, summed by shard_map's types there."""
    oracles.check(case, oracles.pmapped()[case])
    if case in oracles.PLAIN:
        oracles.check(case, oracles.shard_mapped()[case])


def white(size, dim):
    """[B, D] of mean 0 and population covariance 1."""
    z = np.random.default_rng(1).normal(size=(size, dim))
    z = z - z.mean(0)
    return z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / size)).T


def test_barlow_twins_is_0_at_the_identity(x64):
    z = white(9, 4)
    scaled = z * np.array([[1.0, 2, 3, 4]]) + 5
    assert jax.jit(losses.barlow_twins)(z, scaled) < 1e-20
    eps = 1e-2
    expected = 4 * (1 - 1 / (1 + eps)) ** 2
    np.testing.assert_allclose(
        jax.jit(losses.barlow_twins)(z, z, epsilon=eps), expected, rtol=1e-10
    )


def test_a_dimension_without_variance_correlates_with_none(x64):
    """It costs 1, and neither value nor gradient is nan."""
    z = white(9, 4)
    z[:, 1] = 2.0
    value, grad = jax.jit(jax.value_and_grad(losses.barlow_twins))(z, z)
    np.testing.assert_allclose(value, 1.0, rtol=1e-10)
    assert np.isfinite(grad).all()


def test_vicreg_where_it_is_known(x64):
    """0 but for the hinge with unit variances; collapsed views pay the hinge of 1e-4 alone."""
    z = white(9, 4) * np.sqrt(8 / 9)  # unbiased variance 1
    np.testing.assert_allclose(jax.jit(losses.vicreg)(z, z), 0, atol=1e-12)
    flat = np.ones((9, 4))
    np.testing.assert_allclose(jax.jit(losses.vicreg)(flat, flat), 25 * 2 * (1 - 0.01), rtol=1e-12)


def test_opposite_and_equal_directions(x64):
    z = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(jax.jit(losses.byol)(z, 2 * z), 0, atol=1e-12)
    np.testing.assert_allclose(jax.jit(losses.byol)(z, -z), 4, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(losses.simsiam)(z, z[::-1]), -1, rtol=1e-12)


Z = np.ones((4, 3), np.float32)
PAIR = np.ones((2, 4, 3), np.float32)


@pytest.mark.parametrize("message, call", [
    ("predictions .4, 3., targets .2, 3.: expected one shape", lambda: losses.byol(Z, Z[:2])),
    ("predictions .3,., targets .3,.: expected one shape", lambda: losses.byol(Z[0], Z[0])),
    ("predictions has 1 view: expected 2", lambda: losses.simsiam(PAIR[:1], PAIR[:1])),
    ("projections has shape", lambda: losses.simsiam(PAIR, PAIR[:, :2])),
    ("z2 has shape .4, 2.", lambda: losses.barlow_twins(Z, Z[:, :2])),
    ("a batch of 1 .* a standard deviation", lambda: losses.barlow_twins(Z[:1], Z[:1])),
    ("weight=-1: expected a finite number >= 0", lambda: losses.barlow_twins(Z, Z, -1)),
    ("epsilon=inf: expected a finite", lambda: losses.barlow_twins(Z, Z, epsilon=np.inf)),
    ("z2 has shape .2, 3.", lambda: losses.vicreg(Z, Z[:2])),
    ("a batch of 1 in all.* for a variance", lambda: losses.vicreg(Z[:1], Z[:1])),
    ("invariance=-1", lambda: losses.vicreg(Z, Z, invariance=-1)),
    ("variance=nan", lambda: losses.vicreg(Z, Z, variance=float("nan"))),
    ("covariance='1'|covariance=1", lambda: losses.vicreg(Z, Z, covariance="1")),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
