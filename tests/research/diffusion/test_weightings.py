"""Densities of times and weightings against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.diffusion import processes, weightings
from tests.research.diffusion import noisings

MIDPOINTS = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_times_uniform_in_log_snr_keep_the_expected_loss(process, x64):
    """E factor(t) h(t) equals the mean of h over uniform times, here for h = f(log SNR) speed."""

    @jax.jit
    def all_of(u):
        t, factor = weightings.uniform_log_snr(process, u)
        ends = process.log_snr(jnp.array([process.t_min, process.t_max]))
        return t, factor, process.log_snr(t), weightings.likelihood(process, t), ends

    t, factor, log_snr, likelihood, ends = jax.tree.map(np.asarray, all_of(MIDPOINTS))
    assert process.t_min <= t.min() and t.max() <= process.t_max
    smooth = np.exp(-(log_snr**2) / 20)
    np.testing.assert_allclose(likelihood * factor, (ends[0] - ends[1]) / 2, rtol=1e-7)
    grid = np.linspace(ends[1], ends[0], 20_001)
    expected = np.trapezoid(np.exp(-(grid**2) / 20), grid) / 2
    np.testing.assert_allclose((likelihood * factor * smooth).mean(), expected, rtol=1e-5)


def test_likelihood_is_half_g2_over_sigma2(x64):
    def both(process):
        t = jnp.linspace(process.t_min, process.t_max, 7)
        length = process.t_max - process.t_min
        expected = length * process.diffusion(t) ** 2 / (2 * process.sigma(t) ** 2)
        return weightings.likelihood(process, t), expected

    for found, expected in jax.jit(lambda: [both(process) for process in noisings.NAMED])():
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_log_normal_is_the_truncated_law(x64):
    process, (mean, std) = processes.edm(), (-1.2, 1.2)
    law = weightings.log_normal(mean, std)
    t, factor = jax.jit(lambda u: law(process, u))(MIDPOINTS)
    low, high = ((np.log(end) - mean) / std for end in (process.t_min, process.t_max))
    expected = stats.truncnorm.ppf(MIDPOINTS, low, high, loc=mean, scale=std)
    np.testing.assert_allclose(np.log(t), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(factor, 1)


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_log_normal_is_finite_in_float32(process):
    u = np.array([0.0, 1e-7, 0.5, 1 - 6e-8], np.float32)
    t = np.asarray(jax.jit(lambda u: weightings.log_normal()(process, u)[0])(u))
    assert (t >= process.t_min).all() and (t <= process.t_max).all()


def test_steps_are_drawn_evenly():
    on_steps = lambda num, u: jax.jit(lambda u: weightings.on_steps(num)(processes.vp(), u))(u)
    t, factor = on_steps(5, MIDPOINTS.astype(np.float32))
    steps, counts = np.unique(np.round(np.asarray(t) * 5), return_counts=True)
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(counts, 4000)
    np.testing.assert_array_equal(factor, 1)
    last, _ = on_steps(1000, np.array([1 - 2.0**-23], np.float32))
    assert last[0] == 1


def test_weights_by_their_definitions(x64):
    """On the noise error: a weight on the data error divided by the SNR."""
    process = processes.edm()
    sigma = np.array([0.01, 0.5, 3.0, 70.0])
    snr = sigma**-2
    cases = {
        weightings.uniform("data"): sigma**2,
        weightings.uniform("score"): sigma**-2,
        weightings.uniform("noise"): np.ones(4),
        weightings.edm(0.5): (sigma**2 + 0.25) / (0.25 * sigma**2) / snr,
        weightings.min_snr(5.0): np.minimum(snr, 5) / snr,
        weightings.sigmoid(1.0): (80 - 0.002) / sigma / (1 + np.exp(np.log(snr) - 1)),
    }
    found = jax.jit(lambda sigma: [weighting(process, sigma) for weighting in cases])(sigma)
    for weight, expected in zip(found, cases.values(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-10)


def test_velocity_weight_of_flow_is_one_over_its_noise_gain(x64):
    """eps - x_0 has the error of eps times 1/alpha: here the noise determines x_0."""
    t = np.array([0.1, 0.6])
    weight = jax.jit(lambda t: weightings.uniform("velocity")(processes.flow(), t))(t)
    np.testing.assert_allclose(weight, (1 - t) ** -2, rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: weightings.uniform("x0"), "kind='x0'"),
        (lambda: weightings.edm(0.0), "data_std"),
        (lambda: weightings.min_snr(-1.0), "gamma"),
        (lambda: weightings.log_normal(0.0, 0.0), "std=0.0"),
        (lambda: weightings.log_normal(np.inf), "mean=inf"),
        (lambda: weightings.sigmoid(np.nan), "bias=nan"),
        (lambda: weightings.on_steps(0), "num_steps=0"),
        (lambda: weightings.on_steps(10.0), "num_steps=10.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
