"""Random fields and data sets as exact scores, against dense Gaussians and mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import oracles, processes

TIMES = np.array([0.05, 0.2, 0.5, 0.9])


def field_covariance(spectrum):
    """The dense covariance [H W, H W] of a periodic field with the given spectrum."""
    height, width = spectrum.shape
    impulse = np.fft.ifft2(spectrum).real  # covariance with the pixel at the origin
    rolled = [np.roll(impulse, (r, c), (0, 1)).ravel() for r in range(height) for c in range(width)]
    return np.array(rolled)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_random_field_is_a_gaussian_with_that_covariance(x64, size):
    process = processes.cosine()
    field = oracles.random_field(process, (*size, 2), power=2.0, variance=0.7, mean=0.2)
    covariance = field_covariance(field.spectrum)
    np.testing.assert_allclose(np.diag(covariance), 0.7, rtol=1e-10)
    dim = size[0] * size[1]
    dense = oracles.gaussian(process, np.full(dim, 0.2), covariance)
    x = np.random.default_rng(0).normal(size=(4, *size, 2))

    @jax.jit
    def both(x):
        planes = [x[..., channel].reshape(4, dim) for channel in range(2)]
        whole = lambda parts: jnp.stack([part.reshape(4, *size) for part in parts], -1)
        scores = whole([dense(plane, TIMES) for plane in planes])
        log_prob = sum(dense.log_prob(plane, TIMES) for plane in planes)
        moved = whole([dense.transport(plane, 0.9, 0.1) for plane in planes])
        own = field(x, TIMES), field.log_prob(x, TIMES), field.transport(x, 0.9, 0.1)
        return (scores, log_prob, moved), own

    for expected, found, atol in zip(*both(x), (1e-12, 0, 1e-12), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_the_spectrum_is_a_power_of_the_frequency(power):
    spectrum = oracles.random_field(processes.vp(), (8, 8, 1), power=power, variance=0.7).spectrum
    np.testing.assert_allclose(spectrum.mean(), 0.7, rtol=1e-12)
    np.testing.assert_allclose(spectrum[0, 2] / spectrum[0, 1], 2.0**-power, rtol=1e-12)
    np.testing.assert_allclose(spectrum[3, 4] / spectrum[0, 1], 5.0**-power, rtol=1e-12)
    assert spectrum[0, 0] == spectrum[0, 1]


def test_empirical_is_the_mixture_of_points(x64):
    process = processes.vp()
    noise = np.random.default_rng(1)
    data, x = noise.normal(size=(11, 2, 3)), noise.normal(size=(4, 2, 3))
    dense = oracles.mixture(process, np.full(11, 1 / 11), data.reshape(11, 6), 1e-15)

    @jax.jit
    def all_of(data, x):
        oracle = oracles.empirical(process, data, block_size=4)
        whole = oracles.empirical(process, data, block_size=100)
        flat = x.reshape(4, 6)
        densities = oracle.log_prob(x, TIMES), dense.log_prob(flat, TIMES)
        return oracle(x, TIMES), whole(x, TIMES), dense(flat, TIMES), densities

    blocked, whole, expected, (log_prob, expected_log_prob) = all_of(jnp.asarray(data), x)
    np.testing.assert_allclose(blocked.reshape(4, 6), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-10)
    np.testing.assert_allclose(blocked, whole, rtol=1e-12, atol=1e-12)


def test_empirical_in_float32_keeps_its_digits_near_the_data():
    """|x|^2 - 2 x y + |y|^2 in float32 loses the posterior: gaps of 1e-3 beside norms of 10."""
    process = processes.edm()
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(1, 100))
    data = (centre + 1e-3 * rng.normal(size=(6, 100))).astype(np.float32)
    x = (data[:3] + 2e-3 * rng.normal(size=(3, 100))).astype(np.float32)
    mean = jax.jit(lambda data, x, t: oracles.empirical(process, data).posterior_mean(x, t))
    coarse = mean(data, x, np.float32(0.002))
    with jax.enable_x64(True):
        fine = mean(data.astype(float), x.astype(float), np.float64(np.float32(0.002)))
    np.testing.assert_allclose(coarse, fine, atol=1e-6)
