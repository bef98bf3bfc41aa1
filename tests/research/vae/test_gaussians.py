"""Diagonal Gaussians against quadrature and SciPy's densities, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from research.vae import gaussians

CASES = [  # mean, variance of q; mean, variance of p
    (0.3, 0.5, 0.0, 1.0),
    (-1.2, 2.0, 0.7, 0.4),
    (2.0, 0.01, 1.9, 0.012),
]


def laws(case):
    mean, var, mean_p, var_p = case
    return stats.norm(mean, var**0.5), stats.norm(mean_p, var_p**0.5)


def expectation(law, function):
    """E f of a SciPy law, by adaptive quadrature over 40 standard deviations."""
    half = 40 * law.std()
    ends = law.mean() - half, law.mean() + half
    integrand = lambda z: np.exp(law.logpdf(z)) * function(z)
    return integrate.quad(integrand, *ends, points=[law.mean()], epsabs=0, epsrel=1e-12, limit=500)[
        0
    ]


@pytest.mark.parametrize("case", CASES)
def test_kl_against_quadrature(x64, case):
    q, p = laws(case)
    expected = expectation(q, lambda z: q.logpdf(z) - p.logpdf(z))
    mean, var, mean_p, var_p = case
    found = gaussians.kl(mean, np.log(var), mean_p=mean_p, log_var_p=np.log(var_p))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_kl_against_the_standard_normal_is_the_papers_formula(x64):
    mean, log_var = np.random.default_rng(0).normal(size=(2, 4, 3))
    expected = -0.5 * (1 + log_var - mean**2 - np.exp(log_var))
    np.testing.assert_allclose(gaussians.kl(mean, log_var), expected, rtol=1e-12)


def test_kl_of_close_laws_keeps_its_digits():
    found = gaussians.kl(jnp.float32(0), jnp.float32(1e-3))
    np.testing.assert_allclose(found, 1e-6 / 4 * (1 + 1e-3 / 3), rtol=1e-3)


@pytest.mark.parametrize(
    "case", [(0.3, 0.6, 0.0, 1.0), (-1.2, 2.0, 0.7, 0.4), (0.0, 1.5, 0.0, 1.0)]
)
def test_chi_square_against_quadrature(x64, case):
    q, p = laws(case)
    expected = expectation(p, lambda z: np.exp(p.logpdf(z) - q.logpdf(z)))
    mean, var, mean_p, var_p = case
    found = gaussians.log_chi_square(mean, np.log(var), mean_p=mean_p, log_var_p=np.log(var_p))
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)


def test_chi_square_of_a_proposal_of_half_the_variance_or_less_is_infinite(x64):
    for var_p in (1.0, 0.3):
        log_vars = np.log(var_p * np.array([0.3, 0.5, 0.51]))
        found = gaussians.log_chi_square(np.zeros(3), log_vars, log_var_p=np.log(var_p))
        assert np.isinf(found).tolist() == [True, True, False]
    slope = jax.grad(lambda log_var: gaussians.log_chi_square(0.0, log_var))(-2.0)
    assert slope == 0  # not nan


def test_density_against_scipy(x64):
    x, mean, log_var = np.random.default_rng(1).normal(size=(3, 5))
    expected = stats.norm(mean, np.exp(log_var / 2)).logpdf(x)
    np.testing.assert_allclose(gaussians.log_prob(x, mean, log_var), expected, rtol=1e-12)
    np.testing.assert_allclose(gaussians.log_prob(x), stats.norm.logpdf(x), rtol=1e-12)


def test_draws_have_the_moments_and_carry_gradients(x64):
    mean, log_var = jnp.array([1.0, -2.0]), jnp.log(jnp.array([4.0, 0.25]))
    draw = lambda mean, log_var: gaussians.sample(jax.random.key(0), mean, log_var, shape=(50_000,))
    z = np.asarray(draw(mean, log_var))
    assert z.shape == (50_000, 2)
    std = np.exp(log_var / 2)  # 5 standard errors: false alarm of 2e-6
    np.testing.assert_array_less(abs(z.mean(0) - np.asarray(mean)), 5 * std / 50_000**0.5)
    np.testing.assert_array_less(abs(z.std(0) / std - 1), 5 / 100_000**0.5)
    tangent = jax.jvp(draw, (mean, log_var), (jnp.ones(2), jnp.ones(2)))[1]
    np.testing.assert_allclose(tangent, 1 + (z - np.asarray(mean)) / 2, rtol=1e-12)
    assert gaussians.sample(jax.random.key(0), jnp.zeros((3, 2)), 0.0).shape == (3, 2)
