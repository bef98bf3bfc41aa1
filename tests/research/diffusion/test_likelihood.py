"""Log densities against closed forms, for every process; probes against their exact variance."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import likelihood, oracles, processes
from tests.research.diffusion import noisings

MEAN = np.array([0.3, -0.5])


COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


VP = processes.vp()


def gaussian(process):
    return oracles.gaussian(process, MEAN, COVARIANCE)


def mixture(process, weights=(0.3, 0.7), means=((1.0, 0.0), (-1.0, 0.5))):
    covariances = np.stack([COVARIANCE, 0.1 * np.eye(2)])
    return oracles.mixture(process, weights, np.array(means), covariances)


@pytest.fixture(scope="module")
def data():
    """Samples [8, 2] of the mixture and of the Gaussian, which no process changes."""
    with jax.enable_x64(True):
        draw = lambda rng: [law(VP).sample(rng, 8) for law in (mixture, gaussian)]
        return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(0)))


@pytest.mark.parametrize("process", noisings.ALL, ids=lambda process: process.name)
def test_log_prob_is_exact_beyond_the_prior_gap(process, data, x64):
    """A Gaussian and a mixture; at the default tolerance to 1e-5 nats a dimension, tight to 1e-8.

    One compilation: the Gaussian is a mixture of two equal parts, the tolerance is traced.
    """
    law = mixture(process)
    whole = gaussian(process)
    same = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), whole)

    @jax.jit
    def solve(components, x, tolerance):
        oracle = oracles.Mixture(process, law.log_weights, components)
        steps = likelihood.adaptive(tolerance, tolerance, 4000)
        exact_end = lambda x: oracle.log_prob(x, process.t_max)
        result = likelihood.estimate(oracle, process, x, steps=steps, prior_log_prob=exact_end)
        error = result.log_prob - oracle.log_prob(x, process.t_min)
        gap = process.prior_log_prob(result.end) - exact_end(result.end)
        return error, gap, result.end, whole.transport(x, process.t_min, process.t_max)

    for components, x in zip((law.components, same), data, strict=True):
        for tolerance, bar in ((1e-6, 1e-5), (1e-10, 1e-9)):
            error, gap, *ends = solve(components, x, np.asarray(tolerance))
            assert np.abs(error).max() / 2 < bar
        assert np.abs(gap).max() / 2 < 0.03  # what the process's own prior would have cost
    np.testing.assert_allclose(*ends, rtol=1e-7, atol=1e-8)


def test_the_mistaken_prior_width_would_cost_3_882_nats(x64):
    """N(0, 1) in 4 dimensions at sigma = 80: a prior of std sigma^2 in place of sigma."""
    process = processes.edm(0.002, 80.0)
    oracle = oracles.gaussian(process, np.zeros(4), 1.0)
    wrong_std = 80.0**2

    def wrong(x):
        log_norm = 4 * math.log(wrong_std * math.sqrt(2 * math.pi))
        return -0.5 * jnp.sum((x / wrong_std) ** 2, 1) - log_norm

    x = np.random.default_rng(0).normal(size=(4, 4))

    @jax.jit
    def all_of(x):
        result = likelihood.estimate(oracle, process, x)
        error = result.log_prob - oracle.log_prob(x, process.t_min)
        mistake = (wrong(result.end) - result.prior_log_prob) / 4
        gap = likelihood.prior_gap(process, jnp.zeros(4), jnp.ones(4))
        return error, mistake, gap, result.end

    error, mistake, gap, end = jax.tree.map(np.asarray, all_of(x))
    assert np.abs(error).max() / 4 < 1e-3
    assert gap < 1e-7
    square = np.sum((end / 80) ** 2, 1) / 4  # 1 in the mean
    np.testing.assert_allclose(mistake, -math.log(80) + 0.5 * square * (1 - 80**-2), atol=1e-9)
    assert abs(-math.log(80) + 0.5 * (1 - 80**-2) + 3.882105) < 1e-6


def test_prior_gap_is_the_divergence_from_the_prior(x64):
    m, s = 0.3, 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    process = processes.vp(beta_max=2.0)  # a gap that is not small
    oracle = oracles.gaussian(process, np.array([m]), s**2)

    @jax.jit
    def all_of(mean, variance):
        alpha, sigma = VP.alpha(1.0), VP.sigma(1.0)
        v = alpha**2 * s**2 + sigma**2
        expected = 0.5 * (alpha**2 * m**2 + v - 1 - jnp.log(v))
        one = likelihood.prior_gap(VP, mean, variance[:, None]), expected
        alpha, sigma = process.alpha(1.0), process.sigma(1.0)
        x = (alpha * m + jnp.sqrt(alpha**2 * s**2 + sigma**2) * nodes)[:, None]
        gaps = oracle.log_prob(x, process.t_max) - process.prior_log_prob(x)
        return one, (gaps @ weights / weights.sum(), likelihood.prior_gap(process, mean, variance))

    small, other = all_of(np.array([m]), np.array([s**2]))
    np.testing.assert_allclose(*small, atol=1e-15, rtol=1e-8)
    np.testing.assert_allclose(*other, rtol=1e-10)


def test_fixed_steps_converge_with_the_order_of_their_method(x64):
    """Bogacki-Shampine, order 3, over three doublings down to 3e-8."""
    oracle = gaussian(VP)
    exact_end = lambda x: oracle.log_prob(x, VP.t_max)

    x = MEAN + np.array([[0.4, -0.6], [-1.1, 0.2]])

    @jax.jit
    def error(num_steps):  # as `likelihood.fixed`, with a traced number
        steps = likelihood.Steps(diffrax.ConstantStepSize(), num_steps, 1000, diffrax.Bosh3())
        found = likelihood.log_prob(oracle, VP, x, steps=steps, prior_log_prob=exact_end)
        return jnp.abs(found - oracle.log_prob(x, VP.t_min)).max()

    errors = [error(num_steps) for num_steps in (80, 160, 320, 640)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (np.abs(slopes - 3) < [0.25, 0.15, 0.15]).all(), slopes


@pytest.mark.parametrize("steps", [likelihood.adaptive(), likelihood.fixed(7)])
def test_evaluations_are_counted(steps):
    """The score is called once for each, with the derivatives riding along."""
    calls = []
    oracle = gaussian(VP)

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return oracle(x, t)

    x = MEAN[None].astype(np.float32) + 0.3
    options = {"trace": "hutchinson", "rng": jax.random.key(0), "steps": steps}
    result = jax.jit(lambda x: likelihood.estimate(counted, VP, x, **options))(x)
    jax.effects_barrier()
    assert result.nfe == len(calls)


def test_hutchinson_is_unbiased_within_its_standard_error(x64):
    oracle = mixture(VP)
    x = np.array([[0.7, 0.2]])
    solve = lambda x, **options: likelihood.estimate(
        oracle, VP, x, steps=likelihood.fixed(60), **options
    )
    probes = {"trace": "hutchinson", "rng": jax.random.key(1), "num_probes": 8}
    both = jax.jit(lambda x: (solve(x), solve(jnp.repeat(x, 200, 0), **probes)))
    exact, noisy = jax.tree.map(np.asarray, both(x))
    errors = (noisy.log_prob - exact.log_prob) / np.sqrt(np.mean(noisy.standard_error**2))
    assert abs(errors.mean()) < 4 / math.sqrt(200)
    # the pooled standard error matches the spread: chi-square, 4 standard deviations
    assert abs(errors.var() - 1) < 4 * math.sqrt(2 / 200 + 2 / (200 * 7))
    np.testing.assert_array_equal(exact.standard_error, 0)


def test_probes_belong_to_their_example(x64):
    oracle = gaussian(VP)
    x = MEAN + np.random.default_rng(0).normal(size=(4, 2))
    keys = jax.random.split(jax.random.key(1), 4)
    solve = jax.jit(
        lambda x, keys: likelihood.estimate(
            oracle, VP, x, trace="hutchinson", rng=keys, steps=likelihood.fixed(10)
        )
    )
    whole = solve(x, keys)
    order = np.array([2, 0, 3, 1])
    part = solve(x[order], keys[order])
    np.testing.assert_allclose(part.log_prob, np.asarray(whole.log_prob)[order], rtol=1e-12)
    assert np.isnan(whole.standard_error).all()


def test_isotropic_gaussians_need_one_probe(x64):
    """A = cI: the Rademacher estimate has variance 0."""
    oracle = oracles.gaussian(VP, np.zeros(3), 0.3)
    x = np.sqrt(0.3) * np.random.default_rng(0).normal(size=(3, 3))
    solve = lambda **options: likelihood.log_prob(
        oracle, VP, x, steps=likelihood.fixed(8), **options
    )
    exact, probed = jax.jit(lambda: (solve(), solve(trace="hutchinson", rng=jax.random.key(1))))()
    np.testing.assert_allclose(probed, exact, atol=1e-12)


def test_running_out_of_steps_is_nan_for_that_sample_only(x64):
    """The limit lies between the fewest and the most steps that the samples take without one."""
    oracle = mixture(VP)
    x = np.random.default_rng(0).normal(size=(8, 2))
    x[-1] = 0.0, 0.2

    def solve(max_steps):
        steps = likelihood.adaptive(max_steps=max_steps)
        result = jax.jit(lambda x: likelihood.estimate(oracle, VP, x, steps=steps))(x)
        return jax.tree.map(np.asarray, result)

    free = solve(1000)
    num_steps = (free.nfe - 1) // 6  # of Tsitouras 5(4)
    limit = int(num_steps.min() + num_steps.max()) // 2
    assert num_steps.min() <= limit < num_steps.max()
    result = solve(limit)
    failed = num_steps > limit
    np.testing.assert_array_equal(np.isnan(result.log_prob), failed)
    np.testing.assert_array_equal(result.nfe, 1 + 6 * np.minimum(num_steps, limit))
    np.testing.assert_allclose(result.log_prob[~failed], free.log_prob[~failed], rtol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"trace": "skilling"}, "trace='skilling'"),
        ({"trace": "hutchinson"}, "needs rng"),
        ({"num_probes": 0}, "num_probes=0"),
        ({"t_start": 1.5}, "t_start=1.5"),
        ({"t_start": 1.0}, "before t_max"),
        ({"t_start": float("nan")}, "t_start=nan"),
        ({"num_probes": 1.0}, "num_probes=1.0"),
        ({"x": jnp.zeros(2)}, r"x is float32\[2\]: expected floats \[B, ...\]"),
        ({"x": jnp.zeros((2, 2), int)}, r"x is int32\[2, 2\]: expected floats"),
    ],
)
def test_bad_input_is_named(options, message):
    options = {"x": jnp.zeros((2, 2))} | options
    with pytest.raises(ValueError, match=message):
        likelihood.log_prob(gaussian(VP), VP, **options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: likelihood.fixed(0), "num_steps=0"),
        (lambda: likelihood.fixed(2.0), "num_steps=2.0"),
        (lambda: likelihood.adaptive(rtol=0), "rtol=0"),
        (lambda: likelihood.adaptive(atol=float("nan")), "atol=nan"),
        (lambda: likelihood.adaptive(max_steps=0), "max_steps=0"),
        (lambda: likelihood.fixed(4, diffrax.Euler()), r"method=Euler.*: expected a Runge-Kutta"),
    ],
)
def test_bad_steps_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_methods_and_probes_of_ones_choice(data, x64):
    """Dopri8 meets the default method; Heun's error falls by 4; normal probes."""
    oracle, x = gaussian(VP), data[1][:2]

    @jax.jit
    def all_of(x):
        value = lambda steps, **more: likelihood.estimate(oracle, VP, x, steps=steps, **more)
        tight = value(likelihood.adaptive(1e-9, 1e-9)).log_prob
        other = value(likelihood.adaptive(1e-9, 1e-9, method=diffrax.Dopri8())).log_prob
        heun = [value(likelihood.fixed(num, method=diffrax.Heun())).log_prob for num in (64, 128)]
        probed = value(
            likelihood.fixed(16), trace="hutchinson", rng=jax.random.key(0), num_probes=512,
            probe_law=jax.random.normal,
        )  # fmt: skip
        return tight, other, heun, probed

    tight, other, heun, probed = jax.tree.map(np.asarray, all_of(x))
    np.testing.assert_allclose(other, tight, atol=1e-7)
    np.testing.assert_allclose((heun[0] - tight) / (heun[1] - tight), 4, atol=0.3)
    # one probe v has v.Av of variance 2 |A|_F^2 for normal v, 0 for signs and a diagonal A
    assert np.all(np.abs(probed.log_prob - tight) < 5 * probed.standard_error)
    assert np.all(probed.standard_error > 0.01)


def test_errors_of_a_network_at_much_noise_do_not_shrink_the_steps():
    """Two per cent of the noise, wavy in time: in the angle four times the evaluations."""
    oracle = oracles.gaussian(VP, np.zeros(2), 0.25)
    x = np.float32(0.5) * np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)

    @jax.jit
    def evaluations(x, size):
        def wavy(x, t):
            error = size * jnp.sin(30 * t + 3 * x.sum(-1))
            return oracle(x, t) - (error / VP.sigma(t))[:, None]

        steps = likelihood.adaptive(1e-5, 1e-5)
        return likelihood.estimate(wavy, VP, x, steps=steps).nfe.mean()

    counts = [evaluations(x, size) for size in (0.0, 0.02)]
    assert counts[1] < 2.5 * counts[0], counts
