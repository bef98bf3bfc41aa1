"""Likelihoods: masses that sum to 1, densities of SciPy, refusals, gradients without nan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from research.vae import likelihoods

RNG = np.random.default_rng(0)


def test_pixels_are_summed_and_examples_are_not():
    log_probs = RNG.normal(size=(5, 2, 3, 4))
    np.testing.assert_allclose(
        likelihoods.sum_pixels(log_probs), log_probs.reshape(5, -1).sum(1), rtol=1e-5
    )
    found = likelihoods.sum_pixels(jnp.asarray(log_probs), batch_axes=2)
    np.testing.assert_allclose(found, log_probs.reshape(5, 2, -1).sum(2), rtol=1e-4)


def test_bernoulli_against_scipy(x64):
    logits = np.array([-800.0, -3.0, 0.2, 5.0, 800.0])
    p = likelihoods.Bernoulli(logits)
    for x, dtype in ((0, np.float32), (1, np.uint8), (1, bool)):
        expected = -np.logaddexp(0, logits if x == 0 else -logits)
        np.testing.assert_allclose(p.log_prob(np.full(5, x, dtype)), expected, rtol=1e-12)
    np.testing.assert_allclose(p.mean, special.expit(logits), rtol=1e-12)
    slopes = jax.grad(lambda l: likelihoods.Bernoulli(l).log_prob(jnp.ones(5)).sum())(
        jnp.asarray(logits)
    )
    np.testing.assert_allclose(slopes, special.expit(-logits), rtol=1e-12)


def test_bernoulli_draws(x64):
    draws = likelihoods.Bernoulli(jnp.full(20_000, 1.0)).sample(jax.random.key(0))
    share = special.expit(1.0)
    assert draws.dtype == bool  # 5 standard errors
    assert abs(draws.mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_grey_values_that_are_seen_too_late_give_nan():
    log_prob = jax.jit(likelihoods.Bernoulli(jnp.zeros(3)).log_prob)(jnp.array([0, 0.5, 1]))
    assert np.isnan(log_prob).tolist() == [False, True, False]


def test_gaussian_of_each_kind_of_scale_against_scipy(x64):
    x, mean = RNG.normal(size=(2, 4, 3))
    for log_scale in (0.3, RNG.normal(size=3), RNG.normal(size=(4, 3))):
        expected = stats.norm(mean, np.exp(log_scale)).logpdf(x)
        found = likelihoods.Gaussian(mean, log_scale).log_prob(x)
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    unit = likelihoods.Gaussian(mean).log_prob(x)
    np.testing.assert_allclose(unit, stats.norm(mean).logpdf(x), rtol=1e-11)


def test_gaussian_draws(x64):
    p = likelihoods.Gaussian(jnp.full(20_000, 3.0), np.log(0.5))
    draws = p.sample(jax.random.key(0))
    assert abs(draws.mean() - 3) < 5 * 0.5 / 20_000**0.5
    assert abs(draws.std() / 0.5 - 1) < 5 / 40_000**0.5


@pytest.mark.parametrize("batch_axes", [0, 1])
def test_the_optimal_scale_beats_every_other(x64, batch_axes):
    x, mean = RNG.normal(size=(2, 4, 3, 2))
    best = likelihoods.optimal_gaussian(x, mean, batch_axes=batch_axes)
    assert best.log_scale.shape == ((4, 1, 1) if batch_axes else (1, 1, 1))
    axes = (1, 2) if batch_axes else None
    expected = 0.5 * np.log(((x - mean) ** 2).mean(axes))
    np.testing.assert_allclose(np.squeeze(best.log_scale), expected, rtol=1e-12)
    log_prob = lambda log_scale: likelihoods.Gaussian(mean, log_scale).log_prob(x).sum()
    slope = jax.grad(log_prob)(best.log_scale)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_the_optimal_scale_of_a_perfect_reconstruction_is_the_smallest(x64):
    x = jnp.ones((2, 3))
    fit = lambda mean: likelihoods.optimal_gaussian(x, mean, min_scale=0.1)
    np.testing.assert_allclose(fit(x).log_scale, np.log(0.1), rtol=1e-12)
    assert np.isfinite(jax.grad(lambda mean: fit(mean).log_prob(x).sum())(x)).all()


def test_bytes_against_scipy(x64):
    logits, x = RNG.normal(size=(4, 3, 256)), RNG.integers(0, 256, (4, 3))
    p = likelihoods.Bytes(logits)
    expected = np.take_along_axis(special.log_softmax(logits, -1), x[..., None], -1)[..., 0]
    np.testing.assert_allclose(p.log_prob(x.astype(np.uint8)), expected, rtol=1e-12)
    np.testing.assert_allclose(p.mean, special.softmax(logits, -1) @ np.arange(256), rtol=1e-12)
    late = jax.jit(p.log_prob)(jnp.array([[-1, 256, 0]] * 4))
    assert np.isnan(late[0]).tolist() == [True, True, False]


def test_bytes_draws(x64):
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.2, 0.5, 0.3])), (20_000, 3))
    draws = likelihoods.Bytes(logits).sample(jax.random.key(0))
    shares = np.bincount(draws, minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=5 * (0.25 / 20_000) ** 0.5)


@jax.jit
def masses(logits, means, log_scales):
    """log probabilities of all 256 levels, [S, 256], and the gradient's sums, of S mixtures."""

    def every(logits, means, log_scales):
        wide = [jnp.broadcast_to(v, (256, 3)) for v in (logits, means, log_scales)]
        return likelihoods.logistic_mixture(*wide).log_prob(jnp.arange(256))

    rows = jax.vmap(every)(logits, means, log_scales)
    slopes = jax.vmap(jax.jacobian(every, argnums=(0, 1, 2)))(logits, means, log_scales)
    return rows, slopes


def mixtures(dtype):
    log_scales = np.linspace(-7, 3, 41)[:, None] + np.array([0, 0.1, -0.1])
    log_scales = np.clip(log_scales, -7, 3)
    means = RNG.uniform(-1.1, 1.1, log_scales.shape)
    return [jnp.asarray(v, dtype) for v in (RNG.normal(size=means.shape), means, log_scales)]


def oracle(logits, means, log_scales):
    """The masses by differences of sigmoids, which in float64 keep the digits of large ones."""
    edges = (2 * np.arange(257) - 256) / 255
    edges[0], edges[-1] = -np.inf, np.inf
    cdf = special.expit((edges[:, None] - means) * np.exp(-log_scales))
    tail = special.expit(-(edges[:, None] - means) * np.exp(-log_scales))
    mass = np.where(cdf[1:] < 0.5, np.diff(cdf, axis=0), -np.diff(tail, axis=0))
    return mass @ special.softmax(logits)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_logistic_mixture_sums_to_one_over_its_levels(x64, dtype):
    args = mixtures(dtype)
    rows, slopes = masses(*args)
    assert rows.dtype == dtype
    sums = np.exp(np.float64(rows)).sum(1)
    np.testing.assert_allclose(sums, 1, atol=1e-13 if dtype == np.float64 else 1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)
    if dtype == np.float64:
        for row, *mixture in zip(rows, *map(np.asarray, args)):
            expected = oracle(*mixture)
            large = expected > 1e-6  # smaller differences of sigmoids lose digits
            np.testing.assert_allclose(np.exp(row)[large], expected[large], rtol=1e-9)


def test_a_logistic_mixture_far_out_and_at_extreme_scales_has_finite_gradients():
    far = jnp.array([-1e30, -50.0, 0.0, 1.0, 50.0, 1e30])
    scales = jnp.array([-1e4, -60.0, -7.0, 3.0, 60.0, 1e4])
    means, log_scales = (v.ravel()[:, None] * jnp.ones((1, 3)) for v in jnp.meshgrid(far, scales))
    rows, slopes = masses(jnp.zeros_like(means), means, log_scales)
    assert np.isfinite(rows).all() and all(np.isfinite(slope).all() for slope in slopes)


def test_a_logistic_mixture_of_few_levels_has_its_mean_and_draws(x64):
    logits, means, log_scales = np.array([[0.3, -0.2], [-0.4, 0.6], [-1.0, -2.0]])
    ends = special.expit((np.array([-2 / 3, 0, 2 / 3])[:, None] - means) * np.exp(-log_scales))
    ends = np.vstack([np.zeros(2), ends, np.ones(2)]) @ special.softmax(logits)
    expected = np.diff(ends)  # 4 levels at -1, -1/3, 1/3, 1
    rows = [np.broadcast_to(v, (20_000, 2)) for v in (logits, means, log_scales)]

    @jax.jit
    def run(rng, levels, *rows):
        p = likelihoods.logistic_mixture(*rows, num_levels=4)
        return p.log_prob(levels), p.mean, p.sample(rng)

    log_prob, mean, sample = run(jax.random.key(0), np.arange(20_000) - 1, *rows)
    np.testing.assert_allclose(np.exp(log_prob[1:5]), expected, rtol=1e-12)
    np.testing.assert_allclose(mean[0], expected @ np.arange(4), rtol=1e-12)
    shares = np.bincount(sample, minlength=4) / 20_000
    np.testing.assert_array_less(
        abs(shares - expected), 5 * np.sqrt(expected * (1 - expected) / 20_000)
    )
    assert np.isnan(log_prob).tolist()[:7] == [True, False, False, False, False, True, True]


ZEROS = np.zeros((2, 3), np.float32)
MIXTURE = np.zeros((2, 3, 5), np.float32)
BAD = [
    (lambda: likelihoods.Bernoulli(ZEROS).log_prob(ZEROS + 0.5), "x holds 0.5: a Bernoulli"),
    (lambda: likelihoods.Bernoulli(ZEROS).log_prob(np.uint8(ZEROS + 2)), "x holds 2: a Bernoulli"),
    (lambda: likelihoods.Bernoulli(ZEROS).log_prob(ZEROS * np.nan), "x holds nan: a Bernoulli"),
    (lambda: likelihoods.Bernoulli(ZEROS).log_prob(ZEROS[0]), r"x has shape \(3,\)"),
    (lambda: likelihoods.Gaussian(ZEROS).log_prob(ZEROS.T), r"x has shape \(3, 2\)"),
    (lambda: likelihoods.Bytes(MIXTURE).log_prob(ZEROS), "x has dtype float32: expected integers"),
    (lambda: likelihoods.Bytes(MIXTURE).log_prob(np.int32(ZEROS) + 5), "x goes from 5 to 5"),
    (lambda: likelihoods.Bytes(MIXTURE).log_prob(np.int32(ZEROS[0])), r"x has shape \(3,\)"),
    (lambda: likelihoods.optimal_gaussian(ZEROS, ZEROS[0]), r"x has shape \(2, 3\)"),
    (lambda: likelihoods.optimal_gaussian(ZEROS, ZEROS, min_scale=0), "min_scale=0"),
    (lambda: likelihoods.optimal_gaussian(ZEROS, ZEROS, batch_axes=3), "expected 3 batch axes"),
    (lambda: likelihoods.sum_pixels(ZEROS, batch_axes=3), "expected 3 batch axes"),
    (lambda: likelihoods.sum_pixels(ZEROS, batch_axes=-1), "batch_axes=-1"),
    (lambda: likelihoods.logistic_mixture(*[MIXTURE] * 3, num_levels=1), "num_levels=1"),
    (lambda: likelihoods.logistic_mixture(MIXTURE, MIXTURE, ZEROS), "log_scales have shapes"),
    (lambda: likelihoods.logistic_mixture(0.0, 0.0, 0.0), "log_scales have shapes"),
    (
        lambda: likelihoods.logistic_mixture(*[MIXTURE] * 3).log_prob(np.int32(ZEROS) - 1),
        r"x goes from -1 to -1: expected integers in 0 \.\. 255",
    ),
    (
        lambda: likelihoods.logistic_mixture(*[MIXTURE] * 3).log_prob(ZEROS),
        "x has dtype float32: expected integers",
    ),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
