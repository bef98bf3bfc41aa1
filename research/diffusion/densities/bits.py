"""Discrete data under continuous densities: bits a dimension, dequantisation, decoders.

Bytes are the integers k in 0 .. 255. A density sees them in one of two ways: cells of [low, high]
of equal width, filled by uniform noise (`dequantised_log_prob`), or as points from low to high
whose mass a decoder spreads over the neighbourhoods (`discretised_decoder`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from library import checks
from library.types import Array, Key
from research.diffusion.curves import expand, wide

# (x_0 [B, ...], mean [B, ...], std [B] or []) -> [B] nats, log probability of x_0
Decoder = Callable[[Array, Array, Array], Array]


def bits_per_dim(
    log_prob: Array, dim: int, num_values: int = 256, low: float = -1.0, high: float = 1.0
) -> Array:
    """-log2 of the mass of one of `num_values` equal cells of [low, high], a dimension.

    Args:
        log_prob: nats, log density of data in [low, high], any shape.
        dim: D, the number of dimensions.
        num_values: cells of the range: 256 for bytes, which adds 7 bits on [-1, 1], 8 on [0, 1].
    Returns:
        bits a dimension, of the shape of `log_prob`, float32 or wider.
    Raises:
        ValueError: if a count is no positive whole number, or the range is empty.
    """
    checks.count("dim", dim)
    _check_cells(num_values, low, high)
    log_prob = wide(log_prob)
    return -log_prob / (dim * math.log(2)) + math.log2(num_values / (high - low))


def dequantised_log_prob(
    log_density: Callable[[Array, Key], Array],
    rng: Key,
    values: Array,
    *,
    num_values: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    num_samples: int = 1,
) -> Array:
    """Lower bound on the log mass of discrete data, by uniform noise within each cell.

    log P(k) >= E log mean_j p(k + u_j) with u_j uniform in the cell; it rises to log P(k) with the
    number of samples. Theis et al. 2016, arXiv:1511.01844, sec. 3.1; with many samples as in
    arXiv:2210.02747. `bits_per_dim(bound, dim, 1, 0, 1)` gives bits a dimension.

    Args:
        log_density: (data [B, ...] in [low, high], key) -> [B] nats.
        rng: key of the noise and of the density's probes.
        values: [B, ...] integers in 0 .. num_values - 1.
        num_values, low, high: the cells, as in `bits_per_dim`.
        num_samples: K, draws of noise.
    Returns:
        [B] nats.
    Raises:
        ValueError: if a count is no positive whole number, the range is empty, or the values are
            no integers in 0 .. num_values - 1, as far as they are known.
    """
    checks.count("num_samples", num_samples)
    _check_cells(num_values, low, high)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"values have dtype {values.dtype}: expected integers")
    if values.size and not isinstance(values, jax.core.Tracer):
        smallest, largest = np.asarray(values).min(), np.asarray(values).max()
        if smallest < 0 or largest >= num_values:
            raise ValueError(f"values from {smallest} to {largest}: expected 0 to {num_values - 1}")
    width = (high - low) / num_values

    def one(rng: Key) -> Array:
        noise_rng, density_rng = jax.random.split(rng)
        offset = jax.random.uniform(noise_rng, values.shape)
        return log_density(low + width * (values.astype(offset.dtype) + offset), density_rng)

    densities = wide(jax.lax.map(one, jax.random.split(rng, num_samples)))  # [K, B]
    bound = jax.scipy.special.logsumexp(densities, axis=0) - math.log(num_samples)
    return bound + values[0].size * math.log(width)


def gaussian_decoder(x_0: Array, mean: Array, std: Array) -> Array:
    """Log density of x_0 under N(mean, std^2 I): [B] nats, for continuous data."""
    x_0, mean, std = wide(x_0), wide(mean), wide(std)
    chex.assert_equal_shape([x_0, mean])
    std = expand(std, x_0)
    log_density = -0.5 * ((x_0 - mean) / std) ** 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi)
    return log_density.sum(tuple(range(1, x_0.ndim)))


def discretised_decoder(num_values: int = 256, low: float = -1.0, high: float = 1.0) -> Decoder:
    """Log mass that N(mean, std^2 I) puts on the neighbourhood of x_0, for discrete data.

    Ho et al. 2020, arXiv:2006.11239, eq. (13): the values are `num_values` equally spaced points
    from low to high, each with the half intervals around it; the two outermost reach to infinity.

    Raises:
        ValueError: for fewer than two values or an empty range.
    """
    checks.count("num_values", num_values, least=2)
    _check_cells(num_values, low, high)
    half = (high - low) / (num_values - 1) / 2

    def decoder(x_0: Array, mean: Array, std: Array) -> Array:
        x_0, mean = wide(x_0), wide(mean)
        chex.assert_equal_shape([x_0, mean])
        std = expand(wide(std), x_0)
        below = jnp.where(x_0 < low + half, -jnp.inf, (x_0 - half - mean) / std)
        above = jnp.where(x_0 > high - half, jnp.inf, (x_0 + half - mean) / std)
        return _log_ndtr_difference(below, above).sum(tuple(range(1, x_0.ndim)))

    return decoder


def _check_cells(num_values: int, low: float, high: float) -> None:
    checks.count("num_values", num_values)
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"low={low}, high={high}: expected low < high")


def _log_ndtr_difference(low: Array, high: Array) -> Array:
    """log(Phi(high) - Phi(low)) for low < high, from the tail in which neither rounds to one."""
    upper = low + high > 0
    low, high = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    smaller, larger = log_ndtr(low), log_ndtr(high)
    return larger + jnp.log(-jnp.expm1(smaller - larger))
