"""Gradient estimators: moments by quadrature where draws can be given, by sampling where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from research.vae import bounds, gaussians, gradients

NODES, MASSES = np.polynomial.hermite_e.hermegauss(60)
MASSES = MASSES / MASSES.sum()
PAIRS = np.stack([np.repeat(NODES, 60), np.tile(NODES, 60)])  # [K = 2, B = 3600]
PAIR_MASSES = np.outer(MASSES, MASSES).ravel()
SQUARE = lambda z: z**2


def score_at(z, baseline, mean):
    """The estimator of d E z^2 / d mean, z ~ N(mean, 1), from each column of draws [K, ...]."""

    def surrogate(mean, z):
        values = SQUARE(z)
        level = gradients.leave_one_out(values) if baseline == "others" else baseline
        log_probs = gaussians.log_prob(z, mean)
        return gradients.score_function(values, log_probs, level).mean()

    return jax.vmap(jax.grad(surrogate), (None, 1))(mean, z)


@pytest.mark.parametrize("mean", [1.0, -0.4])
def test_moments_of_the_score_function_by_quadrature(x64, mean):
    z = jnp.asarray(NODES + mean)[None]
    for baseline, variance in (
        (0.0, mean**4 + 14 * mean**2 + 15),
        (mean**2 + 1, 8 * mean**2 + 10),
    ):
        found = score_at(z, baseline, mean)
        np.testing.assert_allclose(MASSES @ found, 2 * mean, rtol=1e-10)
        second = MASSES @ (found - 2 * mean) ** 2
        np.testing.assert_allclose(second, variance, rtol=1e-10)


def test_moments_of_leave_one_out_by_quadrature(x64):
    found = score_at(jnp.asarray(PAIRS + 1.0), "others", 1.0)
    np.testing.assert_allclose(PAIR_MASSES @ found, 2, rtol=1e-10)
    a, b = PAIRS + 1.0
    by_hand = 0.5 * (a**2 - b**2) * (a - b)
    np.testing.assert_allclose(found, by_hand, rtol=1e-10, atol=1e-10)


def test_leave_one_out_is_the_mean_of_the_others(x64):
    values = np.random.default_rng(0).normal(size=(4, 3))
    expected = [np.delete(values, k, 0).mean(0) for k in range(4)]
    np.testing.assert_allclose(gradients.leave_one_out(values), expected, rtol=1e-12)


def test_sampled_estimators_are_unbiased_and_spread_as_published(x64):
    """2^20 draws: variances within 3 %, means within 4 standard errors (false alarm 6e-5 each)."""
    num, mean = 2**20, 1.0

    @jax.jit
    def draws(keys):
        path = lambda mean, key: gradients.pathwise(SQUARE, key, mean, 0.0).mean()
        paths = jax.vmap(jax.grad(path), (None, 0))(mean, keys)
        z = mean + jax.random.normal(keys[0], (1, num))
        pairs = mean + jax.random.normal(keys[1], (2, num // 2))
        scores = [score_at(z, baseline, mean) for baseline in (0.0, 2.0)]
        return paths, *scores, score_at(pairs, "others", mean)

    keys = jax.random.split(jax.random.key(0), num)
    paths, score, with_baseline, pairs = map(np.asarray, draws(keys))
    for found, variance in ((paths, 4), (score, 30), (with_baseline, 18)):
        assert abs(found.mean() - 2) < 4 * (variance / num) ** 0.5
        np.testing.assert_allclose(found.var(), variance, rtol=0.03)
    assert abs(pairs.mean() - 2) < 4 * pairs.std() / (num // 2) ** 0.5


def test_the_path_reaches_the_variance_too(x64):
    """d E z^2 / d log_var is the variance."""
    moment = lambda log_var: gradients.pathwise(SQUARE, jax.random.key(0), 1.0, log_var, 100_000)
    found = np.asarray(jax.jacfwd(moment)(np.log(0.5)))
    assert found.shape == (100_000,)
    assert abs(found.mean() - 0.5) < 4 * found.std() / 100_000**0.5


def test_the_score_function_keeps_the_value_and_the_gradient_of_the_values(x64):
    values, log_probs = np.random.default_rng(0).normal(size=(2, 3, 2))
    baseline = np.full((3, 2), 0.7)
    found = gradients.score_function(values, log_probs, baseline)
    np.testing.assert_allclose(found, values, rtol=1e-12)
    total = lambda values, log_probs: gradients.score_function(values, log_probs, baseline).sum()
    slopes = jax.grad(total, argnums=(0, 1))(jnp.asarray(values), jnp.asarray(log_probs))
    np.testing.assert_allclose(slopes[0], 1, rtol=1e-12)
    np.testing.assert_allclose(slopes[1], values - 0.7, rtol=1e-12)


def test_gumbel_softmax_is_the_relaxed_draw(x64):
    logits, rng = np.random.default_rng(0).normal(size=(5, 4)), jax.random.key(1)
    noise = np.asarray(jax.random.gumbel(rng, (5, 4)))
    relaxed = gradients.gumbel_softmax(rng, logits, temperature=0.3)
    expected = special.softmax((logits + noise) / 0.3, -1)
    np.testing.assert_allclose(relaxed, expected, rtol=1e-12)
    unit = gradients.gumbel_softmax(rng, logits)
    np.testing.assert_allclose(unit, special.softmax(logits + noise, -1), rtol=1e-12)
    hard = gradients.gumbel_softmax(rng, logits, 0.3, hard=True)
    np.testing.assert_allclose(hard, np.eye(4)[(logits + noise).argmax(-1)], atol=1e-15)
    slope = jax.jacobian(lambda l, hard: gradients.gumbel_softmax(rng, l, 0.3, hard))
    slopes = [slope(jnp.asarray(logits), hard) for hard in (False, True)]
    np.testing.assert_allclose(*slopes, rtol=1e-12, atol=1e-15)


def test_hard_gumbel_draws_have_the_categories_shares(x64):
    logits = np.log([0.1, 0.6, 0.3])
    rows = jnp.broadcast_to(logits, (20_000, 3))
    draws = np.asarray(gradients.gumbel_softmax(jax.random.key(0), rows, 0.5, hard=True))
    np.testing.assert_allclose(draws.mean(0), np.exp(logits), atol=5 * (0.25 / 20_000) ** 0.5)


# The proposal N(mean, e^log_var) for z with the joint density N(z; shift, 1): bounds of log 1.
LOG_Q = lambda params, z: gaussians.log_prob(z, *params)
JOINT = lambda shift: lambda z: gaussians.log_prob(z, shift)


def draw(params):
    return params[0] + jnp.exp(params[1] / 2) * jnp.asarray(PAIRS)


def plain(params, shift, bound):
    z = draw(params)
    return bound(JOINT(shift)(z) - LOG_Q(params, z))


def landing(params, shift):
    z = draw(params)
    return bounds.elbo(gradients.sticking_the_landing(JOINT(shift), LOG_Q, params, z))


def doubly(params, shift):
    return gradients.doubly_reparameterized(JOINT(shift), LOG_Q, params, draw(params))


@pytest.mark.parametrize("surrogate, bound", [(landing, bounds.elbo), (doubly, bounds.iwae)])
def test_gradients_without_score_are_unbiased_by_quadrature(x64, surrogate, bound):
    params, masses = (jnp.float64(0.6), jnp.float64(0.5)), jnp.asarray(PAIR_MASSES)
    expected = lambda params, shift: masses @ plain(params, shift, bound)
    found = lambda params, shift: masses @ surrogate(params, shift)
    np.testing.assert_allclose(surrogate(params, 0.2), plain(params, 0.2, bound), rtol=1e-10)
    for wrt in (0, 1):  # the proposal's parameters; the model's
        slopes = [jax.tree.leaves(jax.grad(f, wrt)(params, 0.2)) for f in (found, expected)]
        np.testing.assert_allclose(*slopes, rtol=1e-8)


@pytest.mark.parametrize("surrogate", [landing, doubly])
def test_at_the_posterior_the_gradient_has_no_variance(x64, surrogate):
    at = (jnp.float64(0.2), jnp.float64(0.0))
    slopes = jax.jacfwd(surrogate)(at, 0.2)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=1e-13)
    ordinary = jax.jacfwd(lambda params: plain(params, 0.2, bounds.iwae))(at)
    assert min(slope.std() for slope in ordinary) > 0.3


def test_doubly_reparameterised_draws_of_vectors(x64):
    """Latents of two dimensions, [K, B, L], against the sum that defines the estimator."""
    rng = np.random.default_rng(0)
    noise, mean = rng.normal(size=(3, 4, 2)), jnp.asarray(rng.normal(size=2))
    joint = lambda z: gaussians.log_prob(z).sum(-1)
    log_q = lambda mean, z: gaussians.log_prob(z, jnp.broadcast_to(mean, z.shape)).sum(-1)
    path = lambda mean: jnp.broadcast_to(mean, noise.shape) + noise

    def surrogate(mean):
        return gradients.doubly_reparameterized(joint, log_q, mean, path(mean)).sum()

    z = np.asarray(path(mean))
    log_weights = -0.5 * (z**2).sum(-1) + 0.5 * (noise**2).sum(-1)
    shares = special.softmax(log_weights, 0)
    slope_z = -z + noise  # of log N(z; 0, 1) - log N(z; mean, 1)
    expected = (shares[..., None] ** 2 * slope_z).sum((0, 1))
    np.testing.assert_allclose(jax.grad(surrogate)(mean), expected, rtol=1e-10)


TWO, LOGITS = np.zeros((2, 3)), np.zeros(3)
BAD = [
    (lambda: gradients.leave_one_out(TWO[:1]), r"values have shape \(1, 3\): expected \[K >= 2"),
    (lambda: gradients.leave_one_out(np.float32(1)), r"values have shape \(\): expected"),
    (lambda: gradients.score_function(TWO, TWO[0]), r"have shapes \(2, 3\), \(3,\), \(\)"),
    (lambda: gradients.score_function(TWO, TWO, TWO[0]), r"have shapes .* \(3,\): expected one"),
    (lambda: gradients.gumbel_softmax(jax.random.key(0), LOGITS, 0.0), "temperature=0: expected"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
