"""Bits of discrete data: offsets, the dequantisation bound and the discretised decoder."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from research.diffusion import bits


def test_bits_per_dim_offsets():
    assert bits.bits_per_dim(0.0, 10) == 7
    assert bits.bits_per_dim(0.0, 10, low=0.0) == 8
    np.testing.assert_allclose(bits.bits_per_dim(-10 * math.log(2), 10), 8)
    assert bits.bits_per_dim(0.0, 10, 16, low=-3.0, high=5.0) == 1


def test_dequantisation_bounds_the_mass_of_cells(x64):
    """A normal on 4 cells of [-1, 1]: the bound is below the mass and closes with samples."""
    std, edges = 0.6, np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    mass = np.diff(special.ndtr(edges / std))
    log_mass = np.log(mass)[np.array([0, 1, 3])].sum()
    values = jnp.array([[0, 1, 3]])

    def log_density(x, _):
        return jnp.sum(-0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi)), 1)

    def bound(key, num_samples):
        return bits.dequantised_log_prob(
            log_density, key, values, num_values=4, num_samples=num_samples
        )[0]

    keys = jax.random.split(jax.random.key(0), 2000)
    bounds = jax.jit(jax.vmap(lambda key: [bound(key, num) for num in (1, 20)]))(keys)
    one, many = (float(np.mean(bound)) for bound in bounds)
    assert one < many < log_mass
    assert log_mass - many < 0.2 * (log_mass - one)
    nodes, weights = np.polynomial.legendre.leggauss(10)
    cells = (edges[:-1, None] + 0.25 * (nodes + 1))[np.array([0, 1, 3])]
    densities = -0.5 * (cells / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    expected = (densities @ weights / 2).sum() + 3 * math.log(0.5)
    assert abs(one - expected) < 0.02  # spread of one draw about 0.2, of the mean 0.005
    assert bits.bits_per_dim(expected, 3, 1, 0.0, 1.0) == -expected / (3 * math.log(2))


def test_discretised_decoder_is_scipys_mass_and_sums_to_one(x64):
    decoder = bits.discretised_decoder(5)
    values = np.linspace(-1, 1, 5)[:, None]
    mean, std = np.full((5, 1), 0.4), np.full(5, 0.3)
    edges = np.array([-np.inf, -0.75, -0.25, 0.25, 0.75, np.inf])
    expected = np.diff(stats.norm(0.4, 0.3).cdf(edges))
    both = np.array([[-1.0, 0.5]]), np.array([[0.4, 0.4]]), 0.3
    each, both = jax.jit(lambda *sets: [decoder(*one) for one in sets])((values, mean, std), both)
    np.testing.assert_allclose(np.exp(each), expected, rtol=1e-12)
    np.testing.assert_allclose(both, np.log(expected[0] * expected[3]), rtol=1e-12)


def test_cells_and_points_of_another_range(x64):
    """Four cells and five points of [0, 4], by the normal law."""
    law, values = stats.norm(1.3, 0.9), np.arange(4)
    density = lambda x, _: jax.scipy.stats.norm.logpdf(x, 1.3, 0.9).sum(1)
    cells = dict(num_values=4, low=0.0, high=4.0, num_samples=4096)
    bound = jax.jit(lambda rng: bits.dequantised_log_prob(density, rng, values[:, None], **cells))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(bound, np.log(np.diff(law.cdf(np.arange(5)))), atol=0.03)
    decoder = bits.discretised_decoder(5, low=0.0, high=4.0)
    x, mean = np.arange(5.0)[:, None], np.full((5, 1), 1.3)
    found = jax.jit(lambda x, mean: decoder(x, mean, 0.9))(x, mean)
    edges = np.array([-np.inf, 0.5, 1.5, 2.5, 3.5, np.inf])
    np.testing.assert_allclose(np.exp(found), np.diff(law.cdf(edges)), rtol=1e-12)


def test_discretised_decoder_keeps_its_digits_and_gradient_far_out():
    """30 standard deviations away in float32, on either side."""
    decoder = bits.discretised_decoder(256)
    point = 1 - 26 / 255  # one of the 256 values
    x_0, mean = np.float32([[-point], [point]]), np.float32([[0.9], [-0.9]])
    cost = jax.value_and_grad(lambda mean: decoder(jnp.asarray(x_0), mean, 0.06).sum())
    value, slope = jax.tree.map(np.asarray, jax.jit(cost)(mean))
    near, far = (stats.norm(0.9, 0.06).logcdf(-point + edge / 255) for edge in (1, -1))
    np.testing.assert_allclose(value / 2, near + np.log1p(-np.exp(far - near)), rtol=1e-5)
    pull = (0.9 + point - 1 / 255) / 0.06**2  # of the nearer edge; the tail adds a little
    np.testing.assert_allclose(slope[:, 0], [-pull, pull], rtol=0.01)


def test_gaussian_decoder_is_the_normal_density(x64):
    x, mean = np.array([[0.3, -0.2]]), np.array([[0.1, 0.4]])
    expected = stats.norm(mean, 0.5).logpdf(x).sum()
    found = jax.jit(lambda x, mean: bits.gaussian_decoder(x, mean, 0.5))(x, mean)
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


CELLS = np.arange(4)[:, None]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bits.discretised_decoder(1), "num_values=1"),
        (lambda: bits.discretised_decoder(4, 1.0, 1.0), "low=1.0, high=1.0: expected low < high"),
        (lambda: bits.bits_per_dim(0.0, 0), "dim=0"),
        (lambda: bits.bits_per_dim(0.0, 2, 2.5), "num_values=2.5"),
        (lambda: bits.dequantised_log_prob(None, None, CELLS, num_samples=0), "num_samples=0"),
        (lambda: bits.dequantised_log_prob(None, None, CELLS / 4), "dtype float64: expected int"),
        (lambda: bits.dequantised_log_prob(None, None, CELLS, num_values=3), "from 0 to 3: exp"),
        (lambda: bits.dequantised_log_prob(None, None, CELLS - 1), "values from -1 to 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
