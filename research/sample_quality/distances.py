"""Distances between two samples, each with the floor that fresh samples of one law reach.

Every distance sees a point as a vector (trailing axes are flattened) and works through the pairs in
blocks, so that memory is `block` x sample size and not its square. Whatever the dtype of the data,
distances and their means are float32 or wider, and so are the results; a nan in a sample makes them
nan. Squared distances come from a matrix product where that keeps their digits, and from
differences where it does not, as between near points of a cluster far from the others. A distance
says little alone: `fresh_sample_floor` gives what two samples of the same law, of the same sizes,
would show.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.sample_quality import pairs

Distance = Callable[[Array, Array], Array]
Kernel = Callable[[Array], Array]  # squared distances -> similarities, elementwise


@functools.partial(jax.jit, static_argnames=("unbiased", "block"))
def energy_distance(x: Array, y: Array, *, unbiased: bool = True, block: int = 512) -> Array:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, zero exactly if the laws are equal.

    Szekely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018, eq. (5) and (6.1).

    Args:
        x, y: [N, ...] and [M, ...] float, the two samples.
        unbiased: leave out pairs of a point with itself (U-statistic: unbiased, may be negative);
            else keep them (V-statistic: >= 0, too large by about (E|X-X'|/N + E|Y-Y'|/M)).
        block: rows of the distance matrix held at a time.
    Returns:
        [] float, in the units of the data.
    Raises:
        ValueError: if the points differ in shape, a sample is too small, or block < 1.
    """
    _check_counts(block=block)
    x, y = pairs.samples(x, y, least=2 if unbiased else 1)
    cross = _pair_mean(_safe_sqrt, x, y, block)
    return 2 * cross - sum(_self_mean(_safe_sqrt, z, unbiased, block) for z in (x, y))


@functools.partial(jax.jit, static_argnames=("kernel", "unbiased", "block"))
def squared_mmd(
    x: Array, y: Array, kernel: Kernel, *, unbiased: bool = True, block: int = 512
) -> Array:
    """Squared maximum mean discrepancy, Gretton et al. 2012, JMLR 13, eq. (3) and (5).

    Args:
        x, y: [N, ...] and [M, ...] float, the two samples.
        kernel: similarity as a function of squared distance, e.g. `gaussian_kernel(1.0)`.
        unbiased, block: as in `energy_distance`.
    Returns:
        [] float.
    Raises:
        ValueError: if the points differ in shape, a sample is too small, or block < 1.
    """
    _check_counts(block=block)
    x, y = pairs.samples(x, y, least=2 if unbiased else 1)
    cross = _pair_mean(kernel, x, y, block)
    return sum(_self_mean(kernel, z, unbiased, block) for z in (x, y)) - 2 * cross


@functools.partial(jax.jit, static_argnames=("degree", "unbiased", "block"))
def polynomial_mmd(
    x: Array, y: Array, *, degree: int = 3, unbiased: bool = True, block: int = 512
) -> Array:
    """Squared mean discrepancy of the kernel (x.y / D + 1)^degree on features.

    With features of the Inception network and degree 3 it is the kernel inception distance,
    Binkowski et al. 2018, arXiv:1801.01401, section 4; with others it must be named otherwise.

    Args:
        x, y: [N, ...] and [M, ...] float, features of the two samples.
        degree: of the polynomial, >= 1.
        unbiased, block: as in `energy_distance`.
    Returns:
        [] float; without bias, so that it may be negative, or the biased V-statistic.
    Raises:
        ValueError: if the points differ in shape, a sample is too small, or a number is below 1.
    """
    _check_counts(block=block, degree=degree)
    x, y = pairs.samples(x, y, least=2 if unbiased else 1, centred=False)

    def mean(rows: Array, columns: Array, itself: bool) -> Array:
        def row_means(some: Array, index: Array) -> Array:
            product = jnp.matmul(some, columns.T, precision="highest") / x.shape[1]
            values = (product + 1) ** degree
            same = (index[:, None] == jnp.arange(columns.shape[0])[None]) & itself
            return jnp.where(same, 0, values).sum(1) / (columns.shape[0] - itself)

        return pairs.map_rows(row_means, rows, block).mean()

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


@functools.lru_cache
def gaussian_kernel(*bandwidths: float) -> Kernel:
    """The mean of exp(-d^2 / (2 h^2)) over bandwidths h, one object a tuple so that jit hits."""
    if not bandwidths or not all(0 < width < math.inf for width in bandwidths):
        raise ValueError(f"bandwidths={bandwidths}: expected one or more positive numbers")
    return lambda squared: sum(jnp.exp(-squared / (2 * h**2)) for h in bandwidths) / len(bandwidths)


@functools.partial(jax.jit, static_argnames=("num_projections", "block"))
def sliced_wasserstein(
    rng: Key, x: Array, y: Array, *, num_projections: int = 256, block: int = 32
) -> Array:
    """Sliced 2-Wasserstein distance, Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3.

    The root of the mean, over random directions, of the squared distance between the projected
    samples. On a line the optimal plan pairs equal quantiles, also for unequal sample sizes.

    Args:
        rng: key of the directions; one key makes distances comparable.
        x, y: [N, ...] and [M, ...] float, the two samples.
        num_projections: number of directions.
        block: directions held at a time.
    Returns:
        [] float >= 0, in the units of the data; about W2 / sqrt(D) for a shift.
    Raises:
        ValueError: if the points differ in shape, or a number is below 1.
    """
    _check_counts(num_projections=num_projections, block=block)
    x, y = pairs.samples(x, y, least=1)
    rows_x, rows_y, mass = _quantile_plan(x.shape[0], y.shape[0])

    def squared(key: Key) -> Array:
        direction = jax.random.normal(key, x.shape[1:], x.dtype)
        direction = direction / jnp.linalg.norm(direction)
        gap = jnp.sort(x @ direction)[rows_x] - jnp.sort(y @ direction)[rows_y]
        return jnp.sum(jnp.asarray(mass, x.dtype) * gap**2)

    keys = jax.random.split(rng, num_projections)
    return jnp.sqrt(jax.lax.map(squared, keys, batch_size=block).mean())


@functools.partial(jax.jit, static_argnames=("block",))
def nearest_neighbours(x: Array, reference: Array, *, block: int = 512) -> tuple[Array, Array]:
    """Distance of each point to the nearest reference point, and which one that is.

    Args:
        x, reference: [N, ...] and [M, ...] float.
        block: rows of the distance matrix held at a time.
    Returns:
        [N] float distances and [N] int indices into `reference`; the first of equally near ones.
    Raises:
        ValueError: if the points differ in shape, or block < 1.
    """
    _check_counts(block=block)
    x, reference = pairs.samples(x, reference, least=1)
    index = pairs.map_rows(lambda rows, _: jnp.argmin(pairs.squared(rows, reference), 1), x, block)
    return jnp.linalg.norm(x - reference[index], axis=1), index


@flax.struct.dataclass
class Floor:
    """What a distance shows between samples of one law.

    Attributes:
        mean: [] float.
        low, high: [] float, the ends of the central band of the asked level.
    """

    mean: Array
    low: Array
    high: Array


def fresh_sample_floor(
    rng: Key,
    distance: Distance,
    pool: Array,
    sizes: tuple[int, int],
    *,
    num_draws: int = 100,
    level: float = 0.95,
) -> Floor:
    """The law of a distance between two disjoint random parts of one sample.

    Args:
        rng: key of the parts.
        distance: (x, y) -> [] float, e.g. `energy_distance`.
        pool: [N, ...] float, a sample of the law.
        sizes: points in the first and the second part.
        num_draws: number of random pairs of parts.
        level: probability inside the band.
    Returns:
        `Floor` in the units of the distance.
    Raises:
        ValueError: if the pool is smaller than both parts together, a number is below 1, or the
            level not between 0 and 1.
    """
    first, second = sizes
    _check_counts(num_draws=num_draws, sizes=min(sizes))
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a number between 0 and 1")
    if first + second > pool.shape[0]:
        raise ValueError(f"sizes={sizes}: expected parts of a pool of {pool.shape[0]} points")

    @jax.jit
    def draw(pool: Array, keys: Key) -> Array:
        def one(key: Key) -> Array:
            rows = jax.random.permutation(key, pool.shape[0])[: first + second]
            return distance(pool[rows[:first]], pool[rows[first:]])

        return jax.lax.map(one, keys)

    draws = draw(pool, jax.random.split(rng, num_draws))
    low, high = jnp.quantile(draws, jnp.array([(1 - level) / 2, (1 + level) / 2]))
    return Floor(mean=draws.mean(), low=low, high=high)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        checks.count(name, count)


def _pair_mean(function: Kernel, x: Array, y: Array, block: int) -> Array:
    """Mean of function(|x_i - y_j|^2) over all pairs."""
    return pairs.map_rows(lambda rows, _: function(pairs.squared(rows, y)).mean(1), x, block).mean()


def _self_mean(function: Kernel, x: Array, unbiased: bool, block: int) -> Array:
    """Mean of function(|x_i - x_j|^2) over all pairs, or over those with i != j if `unbiased`."""
    num = x.shape[0]

    def row_means(rows: Array, index: Array) -> Array:
        itself = index[:, None] == jnp.arange(num)[None, :]
        squared = jnp.where(itself, 0, pairs.squared(rows, x, known=itself))
        values = function(squared)
        return jnp.where(itself & unbiased, 0, values).sum(1) / (num - unbiased)

    return pairs.map_rows(row_means, x, block).mean()


def _safe_sqrt(squared: Array) -> Array:
    """The root with gradient 0, not nan, at 0; of nan it is nan."""
    zero = squared == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))


def _quantile_plan(num_x: int, num_y: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which sorted points share which mass: the merged steps of both quantile functions."""
    ends = np.union1d(np.arange(1, num_x + 1) * num_y, np.arange(1, num_y + 1) * num_x)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // num_y, starts // num_x, (ends - starts) / (num_x * num_y)
