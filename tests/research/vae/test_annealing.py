"""Annealed importance sampling around the exact evidence of the linear-Gaussian model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from research.vae import annealing, bounds, gaussians, linear

RNG = np.random.default_rng(0)
MODEL = linear.LinearGaussian(RNG.normal(size=(6, 2)), RNG.normal(size=6), 0.5)
LOG_PRIOR = lambda z: gaussians.log_prob(z).sum(-1)
NUM_CHAINS, NUM_EXAMPLES = 128, 16


@functools.partial(jax.jit, static_argnames=("num_steps", "num_leapfrog"))
def both_ways(rng, num_steps, num_leapfrog, step_size=None):
    """(forward, reverse, exact log p) of images that the model drew."""
    rng_x, rng_start, rng_end, rng_tune, rng_f, rng_r = jax.random.split(rng, 6)
    x, _ = MODEL.sample(rng_x, NUM_EXAMPLES)
    shape = (NUM_CHAINS, NUM_EXAMPLES, 2)
    start = jax.random.normal(rng_start, shape, x.dtype)
    mean, covariance = MODEL.posterior(x)
    noise = jax.random.normal(rng_end, shape, x.dtype)
    end = mean[None] + noise @ jnp.linalg.cholesky(covariance).T
    densities = LOG_PRIOR, functools.partial(MODEL.log_joint, x)
    path = annealing.sigmoidal_path(num_steps)
    options = {"path": path, "num_leapfrog": num_leapfrog}
    if step_size is None:
        step_size = annealing.tune(rng_tune, *densities, start[:8], **options)
    run_f = annealing.forward(rng_f, *densities, start, step_size=step_size, **options)
    run_r = annealing.reverse(rng_r, *densities, end, step_size=step_size, **options)
    return run_f, run_r, MODEL.log_prob(x), end


@functools.cache
def long_run():
    return jax.tree.map(np.asarray, both_ways(jax.random.key(0), 1500, 5))


def test_the_evidence_lies_between_forward_and_reverse(x64):
    """By the mean of log weights, whose gaps (about 0.02 nats a side) exceed 3 standard errors."""
    run_f, run_r, exact, _ = long_run()
    lower, upper = bounds.elbo(run_f.log_weights), -bounds.elbo(run_r.log_weights)
    assert lower.mean() < exact.mean() < upper.mean() < lower.mean() + 0.05
    # The mean of 128 weights takes most of the gap away, in every example.
    near = bounds.iwae(run_f.log_weights), -bounds.iwae(run_r.log_weights)
    np.testing.assert_allclose(np.array(near), np.stack([exact, exact]), atol=0.1)
    for run, sign in ((run_f, 1), (run_r, -1)):  # weights are unbiased
        ratios = np.exp(run.log_weights - sign * exact[None])
        error = ratios.std() / ratios.size**0.5
        assert abs(ratios.mean() - 1) < 4 * error < 0.05


def test_chains_end_at_the_posterior_and_at_the_prior(x64):
    run_f, run_r, _, end = long_run()
    centred = lambda z: (z - end.mean(0)[None]).reshape(-1, 2).T
    found, expected = np.cov(centred(run_f.z)), np.cov(centred(end))
    np.testing.assert_allclose(found, expected, atol=0.15 * expected.max())
    np.testing.assert_allclose(run_f.z.mean(0), end.mean(0), atol=6 * (expected.max() / 64) ** 0.5)
    assert abs(run_r.z.mean()) < 0.1 and abs(run_r.z.std() - 1) < 0.1
    assert run_f.step_sizes.shape == run_f.acceptance.shape == (1500,)
    for run in (run_f, run_r):  # sizes tuned for 0.65; each in its place of the path
        assert abs(run.acceptance[500:1000].mean() - 0.65) < 0.05
        assert abs(run.acceptance[1000:].mean() - 0.65) < 0.05
    np.testing.assert_array_equal(run_f.step_sizes, run_r.step_sizes)


def test_without_moves_the_weights_are_those_of_importance_sampling(x64):
    """Steps too long to be accepted: what is left is the prior as proposal."""
    run_f, run_r, _, end = both_ways(jax.random.key(2), 3, 2, step_size=1e3)
    assert run_f.acceptance.max() == run_r.acceptance.max() == 0
    x, _ = MODEL.sample(jax.random.split(jax.random.key(2), 6)[0], NUM_EXAMPLES)
    gain = lambda z: MODEL.log_joint(x, z) - LOG_PRIOR(z)
    np.testing.assert_allclose(run_f.log_weights, gain(run_f.z), rtol=1e-10)
    np.testing.assert_allclose(run_r.log_weights, -gain(end), rtol=1e-10)


def test_steps_that_conserve_the_energy_are_all_accepted(x64):
    run_f, run_r, *_ = both_ways(jax.random.key(2), 3, 2, step_size=jnp.array([1e-4] * 3))
    assert run_f.acceptance.min() == run_r.acceptance.min() == 1


def test_the_wanted_acceptance_is_reached(x64):
    x, _ = MODEL.sample(jax.random.key(0), 8)
    z = jax.random.normal(jax.random.key(1), (32, 8, 2))
    args = jax.random.key(2), LOG_PRIOR, functools.partial(MODEL.log_joint, x), z
    path = jnp.linspace(0.0, 1.0, 201) ** 0.1  # soon near the end, and long there
    sizes = annealing.tune(*args, path, 0.3, num_leapfrog=3, acceptance=0.9)
    assert sizes[0] == 0.3
    run = annealing.forward(*args, path, sizes, num_leapfrog=3)
    assert abs(run.acceptance[100:].mean() - 0.9) < 0.05


def test_the_path_is_that_of_sigmoids(x64):
    places = special.expit(np.linspace(-3, 3, 9))
    expected = (places - places[0]) / (places[-1] - places[0])
    found = annealing.sigmoidal_path(8, steepness=3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert found[0] == 0 and found[-1] == 1
    long = annealing.sigmoidal_path(1000)
    places = special.expit(np.linspace(-4, 4, 1001))
    np.testing.assert_allclose(long[300], (places[300] - places[0]) / (1 - 2 * places[0]))


Z, PATH = np.zeros((2, 3, 1)), np.linspace(0, 1, 4)


def run(z=Z, path=PATH, step_size=0.1, function=annealing.forward, **options):
    return function(jax.random.key(0), LOG_PRIOR, LOG_PRIOR, z, path, step_size, **options)


BAD = [
    (lambda: run(z=Z[0]), r"z has shape \(3, 1\): expected \[K, B, L\]"),
    (lambda: run(path=PATH[:1]), "expected .* rising from 0 to 1"),
    (lambda: run(path=PATH[::-1]), "expected .* rising from 0 to 1"),
    (lambda: run(path=PATH[:3]), "expected .* rising from 0 to 1"),
    (lambda: run(path=PATH[None]), "expected .* rising from 0 to 1"),
    (lambda: jax.jit(lambda z: run(z=z, path=PATH[1:]))(Z), "expected .* rising from 0 to 1"),
    (lambda: run(step_size=0.0), "step_size=0: expected a positive"),
    (
        lambda: run(step_size=PATH + 1),
        r"step_size has shape \(4,\): expected \[\] or \[T\] = \(3,\)",
    ),
    (lambda: run(num_leapfrog=0), "num_leapfrog=0"),
    (lambda: run(function=annealing.reverse, path=PATH[1:]), "expected .* rising from 0 to 1"),
    (lambda: run(function=annealing.tune, acceptance=1.5), "acceptance=1.5"),
    (lambda: run(function=annealing.tune, path=PATH[1:]), "expected .* rising from 0 to 1"),
    (lambda: annealing.sigmoidal_path(0), "num_steps=0"),
    (lambda: annealing.sigmoidal_path(5, steepness=0.0), "steepness=0: expected a positive"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
