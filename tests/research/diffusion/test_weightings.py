"""Densities of times and weightings against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.diffusion import draws, processes, weightings
from tests.research.diffusion import noisings

MIDPOINTS = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_times_uniform_in_log_snr_keep_the_expected_loss(process, x64):
    """E factor(t) h(t) equals the mean of h over uniform times, here for h = f(log SNR) speed."""
    t, factor = weightings.uniform_log_snr(process, jnp.asarray(MIDPOINTS))
    assert process.t_min <= t.min() and t.max() <= process.t_max
    log_snr = process.log_snr(t)
    smooth = jnp.exp(-(log_snr**2) / 20)
    likelihood = weightings.likelihood(process, t)
    ends = process.log_snr(jnp.array([process.t_min, process.t_max]))
    np.testing.assert_allclose(likelihood * factor, (ends[0] - ends[1]) / 2, rtol=1e-7)
    grid = np.linspace(ends[1], ends[0], 20_001)
    expected = np.trapezoid(np.exp(-(grid**2) / 20), grid) / 2
    np.testing.assert_allclose((likelihood * factor * smooth).mean(), expected, rtol=1e-5)


def test_likelihood_is_half_g2_over_sigma2(x64):
    for process in noisings.NAMED:
        t = jnp.linspace(process.t_min, process.t_max, 7)
        length = process.t_max - process.t_min
        expected = length * process.diffusion(t) ** 2 / (2 * process.sigma(t) ** 2)
        np.testing.assert_allclose(weightings.likelihood(process, t), expected, rtol=1e-8)


def test_log_normal_is_the_truncated_law(x64):
    process, (mean, std) = processes.edm(), (-1.2, 1.2)
    t, factor = weightings.log_normal(mean, std)(process, jnp.asarray(MIDPOINTS))
    low, high = ((np.log(end) - mean) / std for end in (process.t_min, process.t_max))
    expected = stats.truncnorm.ppf(MIDPOINTS, low, high, loc=mean, scale=std)
    np.testing.assert_allclose(np.log(t), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(factor, 1)


@pytest.mark.parametrize("process", noisings.NAMED, ids=lambda process: process.name)
def test_log_normal_is_finite_in_float32(process):
    u = jnp.array([0.0, 1e-7, 0.5, 1 - 6e-8])
    t, _ = weightings.log_normal()(process, u)
    assert (t >= process.t_min).all() and (t <= process.t_max).all()


def test_steps_are_drawn_evenly():
    t, factor = weightings.on_steps(5)(processes.vp(), jnp.asarray(MIDPOINTS, jnp.float32))
    steps, counts = np.unique(np.round(t * 5), return_counts=True)
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(counts, 4000)
    np.testing.assert_array_equal(factor, 1)
    last, _ = weightings.on_steps(1000)(processes.vp(), jnp.array([1 - 2.0**-23]))
    assert last[0] == 1


def test_weights_by_their_definitions(x64):
    """On the noise error: a weight on the data error divided by the SNR."""
    process = processes.edm()
    sigma = jnp.array([0.01, 0.5, 3.0, 70.0])
    snr = sigma**-2
    cases = {
        weightings.uniform("data"): sigma**2,
        weightings.uniform("score"): sigma**-2,
        weightings.uniform("noise"): jnp.ones(4),
        weightings.edm(0.5): (sigma**2 + 0.25) / (0.25 * sigma**2) / snr,
        weightings.min_snr(5.0): jnp.minimum(snr, 5) / snr,
        weightings.sigmoid(1.0): (80 - 0.002) / sigma / (1 + jnp.exp(jnp.log(snr) - 1)),
    }
    for weighting, expected in cases.items():
        np.testing.assert_allclose(weighting(process, sigma), expected, rtol=1e-10)


def test_velocity_weight_of_flow_is_one_over_its_noise_gain(x64):
    """eps - x_0 has the error of eps times 1/alpha: here the noise determines x_0."""
    t = jnp.array([0.1, 0.6])
    weight = weightings.uniform("velocity")(processes.flow(), t)
    np.testing.assert_allclose(weight, (1 - t) ** -2, rtol=1e-12)


def test_stratified_times_fill_every_interval():
    keys = jax.random.split(jax.random.key(0), 64)
    u = draws._uniforms(keys, stratified=True)
    np.testing.assert_array_equal(jnp.floor(u * 64), jnp.arange(64))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: weightings.uniform("x0"), "kind='x0'"),
        (lambda: weightings.edm(0.0), "data_std"),
        (lambda: weightings.min_snr(-1.0), "gamma"),
        (lambda: weightings.log_normal(0.0, 0.0), "std"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
