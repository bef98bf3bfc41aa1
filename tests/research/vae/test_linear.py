"""The linear-Gaussian model against dense linear algebra, EM and a trained beta-VAE, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.datasets import load_digits

from research.vae import linear

RNG = np.random.default_rng(0)
W, MEAN, NOISE = RNG.normal(size=(5, 2)), RNG.normal(size=5), 0.3
X = RNG.normal(size=(4, 5)) * 2


def model():
    return linear.LinearGaussian(W, MEAN, NOISE)


def dense_posterior(x):
    """By conditioning the joint Gaussian of (z, x), without Woodbury's identity."""
    gain = W.T @ np.linalg.inv(W @ W.T + NOISE * np.eye(5))
    return (x - MEAN) @ gain.T, np.eye(2) - gain @ W


def test_evidence_and_posterior_against_the_dense_gaussian(x64):
    law = stats.multivariate_normal(MEAN, W @ W.T + NOISE * np.eye(5))
    np.testing.assert_allclose(model().log_prob(X), law.logpdf(X), rtol=1e-10)
    for found, expected in zip(model().posterior(X), dense_posterior(X)):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_evidence_at_little_noise_keeps_its_digits():
    """In float32; Woodbury's difference is off by a third here."""
    W32, x = np.float32(W), np.float32(W @ [1.0, -2.0])[None]
    quiet = linear.LinearGaussian(W32, np.zeros(5, np.float32), np.float32(1e-7))
    with jax.enable_x64(True):
        wide = linear.LinearGaussian(np.float64(W32), np.zeros(5), float(np.float32(1e-7)))
        expected = np.asarray(wide.log_prob(np.float64(x)))
    np.testing.assert_allclose(quiet.log_prob(x), expected, rtol=1e-4)


def test_the_bound_falls_short_by_the_divergence_from_the_posterior(x64):
    root = RNG.normal(size=(2, 2))
    m, S = RNG.normal(size=(4, 2)), root @ root.T + 0.1 * np.eye(2)
    mean, cov = dense_posterior(X)
    inverse = np.linalg.inv(cov)
    logdets = np.linalg.slogdet(cov)[1] - np.linalg.slogdet(S)[1]
    shift = np.einsum("bk,kl,bl->b", mean - m, inverse, mean - m)
    kl = 0.5 * (np.trace(inverse @ S) + shift - 2 + logdets)
    np.testing.assert_allclose(model().elbo(X, m, S) + kl, model().log_prob(X), rtol=1e-10)
    np.testing.assert_allclose(model().elbo(X, mean, cov), model().log_prob(X), rtol=1e-10)


def test_the_joint_density_and_draws(x64):
    z = RNG.normal(size=(3, 4, 2))
    found = model().log_joint(X, z)
    image = stats.norm(z @ W.T + MEAN, NOISE**0.5)
    expected = image.logpdf(X).sum(-1) + stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    x, latents = map(np.asarray, model().sample(jax.random.key(0), 40_000))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.06)  # 5 standard errors of the widest
    covariance = np.cov(x.T, bias=True)
    expected = W @ W.T + NOISE * np.eye(5)
    spread = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / 40_000)
    np.testing.assert_array_less(abs(covariance - expected), 5 * spread)
    rest = x - MEAN - latents @ W.T
    np.testing.assert_allclose(rest.var(), NOISE, rtol=5 * (2 / 200_000) ** 0.5)


def test_maximum_likelihood_is_the_limit_of_em(x64):
    x = RNG.normal(size=(60, 6)) * np.array([3, 2, 1.5, 1, 0.8, 0.6]) + RNG.normal(size=6)
    best = linear.fit(x, 2)
    centred = x - x.mean(0)
    weights, noise = RNG.normal(size=(6, 2)), 1.0
    for _ in range(3000):  # EM for the same model, with the latents' moments
        inverse = np.linalg.inv(weights.T @ weights + noise * np.eye(2))
        latents = centred @ weights @ inverse
        second = 60 * noise * inverse + latents.T @ latents
        weights = centred.T @ latents @ np.linalg.inv(second)
        rest = (centred**2).sum() - 2 * (latents * (centred @ weights)).sum()
        noise = (rest + np.trace(second @ weights.T @ weights)) / 360
    np.testing.assert_allclose(best.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(best.noise_variance, noise, rtol=1e-8)
    outer = np.asarray(best.weights) @ np.asarray(best.weights).T
    np.testing.assert_allclose(outer, weights @ weights.T, rtol=1e-8, atol=1e-8)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    terms = np.log(values[:2]).sum() + 4 * np.log(values[2:].mean())
    expected = -0.5 * (terms + 6 * np.log(2 * np.pi) + 6)
    np.testing.assert_allclose(best.log_prob(x).mean(), expected, rtol=1e-10)


def test_maximum_likelihood_of_fewer_examples_than_dimensions(x64):
    x = RNG.normal(size=(4, 7))
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    best = linear.fit(x, 2)
    np.testing.assert_allclose(best.noise_variance, values[2:].mean(), rtol=1e-10)
    found = np.linalg.svd(best.weights)[1] ** 2 + best.noise_variance
    np.testing.assert_allclose(found, values[:2], rtol=1e-10)


VECTOR = [
    (0.5, 5, 4.742799962214703, 0.75),
    (1.0, 4, 3.101092789211817, 1.45),
    (2.0, 3, 1.8059592064889038, 2.55),
    (4.0, 2, 0.8573992140459634, 4.15),
]


@pytest.mark.parametrize("beta, num_active, rate, distortion", VECTOR)
def test_water_filling_by_hand(x64, beta, num_active, rate, distortion):
    found = linear.rate_distortion([4, 2, 1, 0.5, 0.25], 0.3, beta)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-12)
    np.testing.assert_allclose(found.distortion, distortion, rtol=1e-12)
    assert found.num_active == num_active


def test_an_eigenvalue_at_the_level_or_at_zero_costs_no_rate(x64):
    found = linear.rate_distortion(np.array([0.0, 0.5, 2.0]), 0.25, 2.0)
    assert found.num_active == 1 and np.isclose(found.rate, np.log(2)) and found.distortion == 1.0


@functools.partial(jax.jit, static_argnames="dim")
def objective(flat, beta, covariance, noise, dim):
    """(loss, (rate, distortion, posterior variances)) of a linear beta-VAE, by second moments."""
    decoder, encoder, log_std = jnp.split(flat, [dim * dim, 2 * dim * dim])
    decoder, encoder = decoder.reshape(dim, dim), encoder.reshape(dim, dim)
    variance = jnp.exp(2 * log_std)
    error = jnp.eye(dim) - decoder @ encoder
    distortion = jnp.trace(error @ covariance @ error.T)
    distortion += (jnp.square(decoder) * variance[None]).sum()
    means = jnp.einsum("ld,de,le->l", encoder, covariance, encoder)
    kl = 0.5 * (means + variance - 1 - 2 * log_std)
    return distortion / (2 * noise) + beta * kl.sum(), (kl, distortion)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_a_trained_linear_beta_vae_fills_the_water_of_a_real_spectrum(x64, beta):
    """Six pixels of the digits, by L-BFGS; 6, 5, 4, 3 and 1 latents stay active."""
    pixels = load_digits().images[:, 3, 1:7] / 4
    covariance, noise, dim = np.cov(pixels.T, bias=True), 0.4, 6
    function = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnames="dim")

    def evaluate(flat):
        (loss, _), slope = function(flat, beta, covariance, noise, dim)
        return float(loss), np.asarray(slope)

    start = np.random.default_rng(1).normal(size=2 * dim * dim + dim) * 0.3
    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-16, "gtol": 1e-9}
    found = optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options)
    kl, distortion = objective(found.x, beta, covariance, noise, dim)[1]
    best = linear.rate_distortion(np.linalg.eigvalsh(covariance), noise, beta)
    np.testing.assert_allclose(kl.sum(), best.rate, rtol=1e-3)
    np.testing.assert_allclose(distortion, best.distortion, rtol=1e-3)
    assert (kl > 1e-3).sum() == best.num_active


SQUARE = np.eye(2)
BAD = [
    (lambda: model().log_prob(X[0]), r"x has shape \(5,\): expected \[B, D\] of D = 5"),
    (lambda: model().posterior(X[:, 1:]), r"x has shape \(4, 4\): expected"),
    (lambda: model().elbo(X, X, SQUARE), r"m, S have shapes \(4, 5\), \(2, 2\): expected"),
    (lambda: model().elbo(X, X[:, :2], X), r"m, S have shapes \(4, 2\), \(4, 5\): expected"),
    (lambda: model().log_joint(X, X), r"z has shape \(4, 5\): expected \[..., B, L\] of B = 4"),
    (
        lambda: linear.LinearGaussian(W, MEAN, 0.0).log_prob(X),
        "noise_variance=0: expected",
    ),
    (lambda: linear.LinearGaussian(W.T, MEAN, 1.0).log_prob(X), r"weights, mean have shapes"),
    (lambda: linear.fit(X[0], 2), r"x has shape \(5,\): expected \[N >= 2, D\]"),
    (lambda: linear.fit(X[:1], 2), r"x has shape \(1, 5\): expected \[N >= 2, D\]"),
    (lambda: linear.fit(X, 0), "num_latents=0"),
    (lambda: linear.fit(X, 5), "num_latents=5: expected fewer than D = 5"),
    (lambda: linear.fit(X[:3], 2), "num_latents=2: the data lie in so many dimensions or fewer"),
    (lambda: linear.rate_distortion(1.0, 1.0, 1.0), r"eigenvalues have shape \(\)"),
    (lambda: linear.rate_distortion(np.array([1.0, -1.0]), 1.0, 1.0), "eigenvalues=-1: expected"),
    (
        lambda: linear.rate_distortion(MEAN**2, 0.0, 1.0),
        "noise_variance=0: expected",
    ),
    (lambda: linear.rate_distortion(MEAN**2, 1.0, 0.0), "beta=0: expected"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
