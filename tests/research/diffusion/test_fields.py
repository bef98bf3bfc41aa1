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
    x = jax.random.normal(jax.random.key(0), (4, *size, 2))
    planes = [x[..., channel].reshape(4, dim) for channel in range(2)]
    expected = jnp.stack([dense(plane, TIMES).reshape(4, *size) for plane in planes], -1)
    np.testing.assert_allclose(field(x, TIMES), expected, rtol=1e-10, atol=1e-12)
    log_prob = sum(dense.log_prob(plane, TIMES) for plane in planes)
    np.testing.assert_allclose(field.log_prob(x, TIMES), log_prob, rtol=1e-10)
    moved = jnp.stack([dense.transport(p, 0.9, 0.1).reshape(4, *size) for p in planes], -1)
    np.testing.assert_allclose(field.transport(x, 0.9, 0.1), moved, rtol=1e-10, atol=1e-12)


def test_empirical_is_the_mixture_of_points(x64):
    process = processes.vp()
    data = jax.random.normal(jax.random.key(1), (11, 2, 3))
    x, t = jax.random.normal(jax.random.key(2), (4, 2, 3)), TIMES
    oracle = oracles.empirical(process, data, block_size=4)
    dense = oracles.mixture(process, np.full(11, 1 / 11), data.reshape(11, 6), 1e-15)
    flat = x.reshape(4, 6)
    np.testing.assert_allclose(oracle(x, t).reshape(4, 6), dense(flat, t), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(oracle.log_prob(x, t), dense.log_prob(flat, t), rtol=1e-10)
    whole = oracles.empirical(process, data, block_size=100)
    np.testing.assert_allclose(oracle(x, t), whole(x, t), rtol=1e-12, atol=1e-12)


def test_empirical_in_float32_keeps_its_digits_near_the_data():
    """|x|^2 - 2 x y + |y|^2 in float32 loses the posterior: gaps of 1e-3 beside norms of 10."""
    process = processes.edm()
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(1, 100))
    data = (centre + 1e-3 * rng.normal(size=(6, 100))).astype(np.float32)
    x = (data[:3] + 2e-3 * rng.normal(size=(3, 100))).astype(np.float32)
    coarse = oracles.empirical(process, jnp.asarray(data)).posterior_mean(x, jnp.float32(0.002))
    with jax.enable_x64(True):
        fine = oracles.empirical(process, jnp.asarray(data, float)).posterior_mean(
            jnp.asarray(x, float), jnp.float64(np.float32(0.002))
        )
    np.testing.assert_allclose(coarse, fine, atol=1e-6)
