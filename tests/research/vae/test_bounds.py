"""Bounds against quadrature, against each other, and the tail of weights without variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from research.vae import bounds, gaussians

RNG = np.random.default_rng(0)


def log_weights_of(variance):
    """The posterior N(0, 1) with evidence 1 and the proposal N(0, variance), for any x [B]."""

    def log_weights(x, rng, num):
        z = jnp.sqrt(variance) * jax.random.normal(rng, (num, len(x)))
        return gaussians.log_prob(z) - gaussians.log_prob(z, 0.0, jnp.log(variance))

    return log_weights


def test_bounds_are_means_of_logs_and_logs_of_means(x64):
    log_weights = RNG.normal(size=(7, 3)) * 300
    np.testing.assert_allclose(bounds.elbo(log_weights), log_weights.mean(0), rtol=1e-12)
    expected = special.logsumexp(log_weights, 0) - np.log(7)
    np.testing.assert_allclose(bounds.iwae(log_weights), expected, rtol=1e-12)
    np.testing.assert_allclose(bounds.iwae(log_weights[:1]), log_weights[0], rtol=1e-12)


GAPS = [(2.0, 0.153426409720027, 0.051791764718), (1.5, 0.047267445945918, 0.018231772948)]


@pytest.mark.parametrize("variance, at_1, at_2", GAPS)
def test_the_gap_of_a_wide_proposal_by_quadrature(x64, variance, at_1, at_2):
    nodes, masses = np.polynomial.hermite_e.hermegauss(120)
    masses = jnp.asarray(masses / masses.sum())
    z = jnp.asarray(nodes * variance**0.5)
    weights = gaussians.log_prob(z) - gaussians.log_prob(z, 0.0, np.log(variance))
    np.testing.assert_allclose(-(masses @ bounds.elbo(weights[None])), at_1, rtol=1e-10)
    np.testing.assert_allclose((variance - 1 - np.log(variance)) / 2, at_1, rtol=1e-12)
    pairs = jnp.stack([jnp.repeat(weights, 120), jnp.tile(weights, 120)])
    found = -jnp.outer(masses, masses).ravel() @ bounds.iwae(pairs)
    np.testing.assert_allclose(found, at_2, rtol=1e-9)


def test_the_gap_falls_as_one_over_k_and_as_chi_square_says(x64):
    """4e6 draws a rung; the standard error of each gap is below 3 %."""
    sizes = np.array([16, 32, 64, 128, 256, 512, 1024])

    @jax.jit
    def gap(rng):
        log_weights = log_weights_of(2.0)(jnp.zeros(1), rng, 2**22)
        # The mean of w - 1, which is 0, is taken off: the variance of (w - 1)^2 is left.
        noise = jnp.expm1(log_weights).mean()
        return jnp.stack([noise - bounds.iwae(log_weights.reshape(k, -1)).mean() for k in sizes])

    gaps = np.asarray(gap(jax.random.key(0)))
    slope = np.polyfit(np.log(sizes), np.log(gaps), 1)[0]
    assert abs(slope + 1) < 0.1
    chi_square = np.expm1(gaussians.log_chi_square(0.0, np.log(2.0)))
    np.testing.assert_allclose(chi_square, 0.154700538379252, rtol=1e-12)
    np.testing.assert_allclose(gaps * 2 * sizes / chi_square, 1, atol=0.1)


@pytest.mark.parametrize("num_samples, chunk", [(23, 5), (20, 5), (7, 100), (6, 1)])
def test_streamed_draws_are_those_of_one_call(x64, num_samples, chunk):
    offset = jnp.array([-2000.0, 0.0, 500.0])
    log_weights = lambda x, rng, num: x[None] + 30 * jax.random.normal(rng, (num, 3))
    rng = jax.random.key(3)
    found = bounds.log_likelihood(log_weights, offset, rng, num_samples=num_samples, chunk=chunk)
    rows, done = [], 0
    while done < num_samples:
        num = min(chunk, num_samples - done)
        rows.append(log_weights(offset, jax.random.fold_in(rng, len(rows)), num))
        done += num
    expected = special.logsumexp(np.concatenate(rows), 0) - np.log(num_samples)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_memory_of_streamed_draws_is_that_of_a_chunk():
    def memory(num_samples):
        options = {"num_samples": num_samples, "chunk": 10}
        bound = lambda x, rng: bounds.log_likelihood(log_weights_of(2.0), x, rng, **options)
        program = jax.jit(bound).lower(jnp.zeros(1000), jax.random.key(0)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(10_000) == memory(100) < 10 * 10 * 4000  # a few arrays of a chunk, 40 kB each


def test_streamed_draws_without_mass_do_not_spoil_the_sum(x64):
    """The first chunk has weight 0 everywhere, the second in one example."""

    def log_weights(x, rng, num):
        seen = x[None] * (rng == jax.random.fold_in(jax.random.key(0), 1)).all()
        return jnp.broadcast_to(jnp.where(seen > 0, 0.0, -jnp.inf), (num, 2))

    x = jnp.array([0.0, 1.0])
    found = bounds.log_likelihood(log_weights, x, jax.random.key(0), 8, 4)
    np.testing.assert_allclose(found, [-np.inf, np.log(0.5)], rtol=1e-12)


def test_the_default_is_the_papers_5000_draws(x64):
    found = bounds.log_likelihood(log_weights_of(1.5), jnp.zeros(50), jax.random.key(0))
    chi_square = np.expm1(gaussians.log_chi_square(0.0, np.log(1.5)))
    expected = -chi_square / 2 / 5000, (chi_square / 5000) ** 0.5
    assert abs(found.mean() - expected[0]) < 5 * expected[1] / 50**0.5
    assert 0.6 < found.std() / expected[1] < 1.4  # 5 standard errors of a deviation of 50


def test_beta_and_free_bits(x64):
    log_likelihood, kl = RNG.normal(size=4), RNG.uniform(0, 1, (4, 2, 3))
    plain = bounds.beta_elbo(log_likelihood, kl)
    np.testing.assert_allclose(plain, log_likelihood - kl.sum((1, 2)), rtol=1e-12)
    weighted = bounds.beta_elbo(log_likelihood, kl, beta=4.0)
    np.testing.assert_allclose(weighted, log_likelihood - 4 * kl.sum((1, 2)), rtol=1e-12)
    level = np.sort(kl.mean(0).ravel())[2] + 1e-9  # three of the six latents lie below it
    found = bounds.beta_elbo(log_likelihood, kl, beta=2.0, free_bits=level).mean()
    expected = log_likelihood.mean() - 2 * np.maximum(kl.mean(0), level).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    objective = lambda kl: bounds.beta_elbo(jnp.asarray(log_likelihood), kl, 2.0, level).mean()
    slopes = jax.grad(objective)(jnp.asarray(kl))
    np.testing.assert_allclose(slopes, np.broadcast_to(-0.5 * (kl.mean(0) > level), kl.shape))
    at_zero = jax.grad(lambda kl: bounds.beta_elbo(jnp.zeros(1), kl).sum())(jnp.zeros((1, 2)))
    np.testing.assert_allclose(at_zero, -1)


def test_examples_are_averaged_by_weight(x64):
    bound, weight = np.array([1.0, 2.0, np.nan]), np.array([3.0, 1.0, 0.0])
    np.testing.assert_allclose(bounds.average(bound, weight), 1.25, rtol=1e-12)
    np.testing.assert_allclose(bounds.average(bound[:2]), 1.5, rtol=1e-12)


def test_effective_sample_size(x64):
    log_weights = RNG.normal(size=(200, 3)) + 700
    weights = np.exp(log_weights - 700)
    expected = weights.sum(0) ** 2 / (weights**2).sum(0)
    found = bounds.diagnose(log_weights)
    np.testing.assert_allclose(found.effective_sample_size, expected, rtol=1e-12)


@pytest.mark.parametrize("index", [-0.3, 0.2, 0.5, 0.8])
def test_the_tail_index_of_pareto_weights(x64, index):
    """Against maximum likelihood by SciPy, whose fit of the same tail is another estimator."""
    weights = stats.genpareto(index).rvs((20_000, 1), random_state=1) + 1
    found = bounds.diagnose(np.log(weights))
    num_tail = int(np.ceil(3 * 20_000**0.5))
    tail = np.sort(weights[:, 0])[-num_tail - 1 :]
    fitted = stats.genpareto.fit(tail[1:] - tail[0], floc=0)[0]
    np.testing.assert_allclose(found.tail_index[0], fitted, atol=0.03)
    np.testing.assert_allclose(
        found.tail_error, (1 + np.asarray(found.tail_index)) / num_tail**0.5, rtol=1e-12
    )


def test_a_proposal_without_variance_is_diagnosed():
    variances = jnp.repeat(jnp.array([0.25, 0.5, 0.9, 1.0, 2.0]), 8)
    draw = log_weights_of(variances[None])
    look = lambda rng: bounds.diagnose(draw(jnp.zeros(40), rng, 20_000))
    found = jax.jit(look)(jax.random.key(0))
    expected = np.repeat([False, False, True, True, True], 8)
    np.testing.assert_array_equal(found.finite_variance, expected)
    infinite = gaussians.log_chi_square(0 * variances, jnp.log(variances)) == jnp.inf
    np.testing.assert_array_equal(infinite, ~expected)
    index = np.asarray(found.tail_index).reshape(5, 8)
    np.testing.assert_allclose(index[0].mean(), 0.75, atol=0.1)  # 1 - r, up to logarithms
    assert (index[3] == -np.inf).all()  # the posterior itself: all weights are equal
    assert (index[4] < 0).all()  # bounded weights
    wild = bounds.diagnose(100 * np.random.default_rng(1).normal(size=(1000, 2)))
    assert not wild.finite_variance.any() and (wild.tail_index > 1).all()


X, ROW, MATRIX = np.zeros((3, 2)), np.zeros(3), np.zeros((4, 3))
KEY = jax.random.key(0)
STREAM = lambda **options: bounds.log_likelihood(log_weights_of(2.0), ROW, KEY, **options)
BAD = [
    (lambda: bounds.elbo(ROW), r"log_weights has shape \(3,\): expected \[K, B\]"),
    (lambda: bounds.iwae(ROW), r"log_weights has shape \(3,\): expected \[K, B\]"),
    (lambda: bounds.iwae(MATRIX[:0]), r"log_weights has shape \(0, 3\): expected"),
    (lambda: bounds.elbo(MATRIX[None]), r"log_weights has shape \(1, 4, 3\): expected"),
    (lambda: bounds.diagnose(ROW), r"log_weights has shape \(3,\): expected"),
    (lambda: bounds.diagnose(MATRIX), r"log_weights has shape \(4, 3\): a tail takes 100"),
    (lambda: bounds.beta_elbo(ROW, X, beta=-1.0), "beta=-1: expected"),
    (lambda: bounds.beta_elbo(ROW, X, free_bits=-0.1), "free_bits=-0.1"),
    (lambda: bounds.beta_elbo(ROW, X.T), r"kl \(2, 3\): expected"),
    (lambda: bounds.beta_elbo(X, X), r"log_likelihood has shape \(3, 2\)"),
    (lambda: bounds.average(X), r"bound has shape \(3, 2\): expected one number an example"),
    (lambda: bounds.average(ROW, X), r"weight \(3, 2\): expected one number an example"),
    (lambda: STREAM(num_samples=0), "num_samples=0: expected a positive whole number of draws"),
    (lambda: STREAM(chunk=0), "chunk=0: expected a positive whole number of draws"),
    (
        lambda: bounds.log_likelihood(lambda x, rng, num: x, ROW, KEY),
        r"log_weights_of gave shape \(3,\): expected \[num, B\] = \(100, 3\)",
    ),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
