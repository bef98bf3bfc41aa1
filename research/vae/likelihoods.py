"""Likelihoods of images as values: `.log_prob(x)` of every pixel, `.mean`, `.sample(rng)`.

A decoder ends in one of them. `log_prob` keeps the shape of the image; `sum_pixels` adds it up to
one number an example, and `bounds.average` averages over examples. No other reduction is offered:
a mean over pixels beside a KL that is a sum is another beta. Log-probabilities are in nats, float32
or wider.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.vae import gaussians
from research.vae.checks import positive, whole_levels, wide


def sum_pixels(log_probs: Array, batch_axes: int = 1) -> Array:
    """The log-probability of each example, the sum over its pixels and channels.

    Args:
        log_probs: [B, ...] nats, of every pixel; [K, B, ...] with `batch_axes=2`.
        batch_axes: leading axes that count examples and draws, not pixels.
    Returns:
        [B] (or [K, B]) nats, float32 or wider.
    Raises:
        ValueError: if there are fewer axes.
    """
    checks.count("batch_axes", batch_axes, least=0)
    if log_probs.ndim < batch_axes:
        raise ValueError(f"log_probs has shape {log_probs.shape}: expected {batch_axes} batch axes")
    (log_probs,) = wide(log_probs)
    return log_probs.sum(range(batch_axes, log_probs.ndim))


@flax.struct.dataclass
class Bernoulli:
    """Black and white pixels.

    Attributes:
        logits: [...] float, log odds of a 1.
    """

    logits: Array

    @property
    def mean(self) -> Array:
        """[...] float in [0, 1], the probability of a 1."""
        return jax.nn.sigmoid(*wide(self.logits))

    def log_prob(self, x: Array) -> Array:
        """[...] nats, log probability of x [...] in {0, 1}, of whatever dtype.

        Raises:
            ValueError: for another value, such as a grey one, whose "probability" belongs to no
                distribution. Under a transformation, where values are not known, it gives nan.
        """
        _same_shape(x, self.logits.shape)
        if not isinstance(x, jax.core.Tracer) and x.dtype != bool:
            values = np.asarray(x, np.float64)
            other = values[(values != 0) & (values != 1)]
            if other.size:
                raise ValueError(f"x holds {other[0]:g}: a Bernoulli likelihood expects 0 or 1")
        (logits,) = wide(self.logits)
        log_prob = jax.nn.log_sigmoid(jnp.where(x == 1, logits, -logits))
        return jnp.where((x == 0) | (x == 1), log_prob, jnp.nan)

    def sample(self, rng: Key) -> Array:
        """[...] bool."""
        return jax.random.bernoulli(rng, self.mean)


@flax.struct.dataclass
class Gaussian:
    """Real pixels with noise of a fixed, learned or fitted scale.

    Attributes:
        mean: [...] float.
        log_scale: float, log of the standard deviation, of a shape that broadcasts to that of the
            mean: [] for one (a constant, or a parameter to learn), [...] for one a pixel (an output
            of the network). `optimal_gaussian` fits it.
    """

    mean: Array
    log_scale: Array | float = 0.0

    def log_prob(self, x: Array) -> Array:
        """[...] nats, log density of x [...]."""
        _same_shape(x, self.mean.shape)
        mean, log_scale = wide(self.mean, self.log_scale)
        return gaussians.log_prob(x, mean, 2 * jnp.broadcast_to(log_scale, mean.shape))

    def sample(self, rng: Key) -> Array:
        """[...] float."""
        mean, log_scale = wide(self.mean, self.log_scale)
        return gaussians.sample(rng, mean, 2 * jnp.broadcast_to(log_scale, mean.shape))


def optimal_gaussian(
    x: Array, mean: Array, batch_axes: int = 0, min_scale: float = 1e-3
) -> Gaussian:
    """The Gaussian whose scale makes `x` likeliest: its variance is the mean square error.

    The sigma-VAE of Rybkin et al. 2021, arXiv:2006.13202, sec. 3.3. Its gradient equals that at
    the scale held fixed, where `min_scale` does not bind. A scale fitted to the data that it then
    judges is a way to train, not a likelihood to report: hold it fixed for that. With
    `batch_axes=0` it mixes the examples of a batch, so accumulated batches differ from a whole one.

    Args:
        x, mean: [B, ...] float, data and reconstruction.
        batch_axes: 0 for one scale for all, 1 for one an example.
        min_scale: the smallest standard deviation, in units of the data: that of a perfect
            reconstruction would be 0, its density infinite.
    Returns:
        `Gaussian` with `log_scale` [1, ...] or [B, 1, ...].
    Raises:
        ValueError: if the shapes differ, there are fewer axes, or `min_scale` is not positive.
    """
    _same_shape(x, mean.shape)
    positive("min_scale", min_scale)
    if checks.count("batch_axes", batch_axes, least=0) > x.ndim:
        raise ValueError(f"x has shape {x.shape}: expected {batch_axes} batch axes")
    x, mean = wide(x, mean)
    error = jnp.square(x - mean).mean(range(batch_axes, x.ndim), keepdims=True)
    return Gaussian(mean, 0.5 * jnp.log(jnp.maximum(error, min_scale**2)))


@flax.struct.dataclass
class Bytes:
    """Pixels of num_levels grey levels, each with a probability of its own.

    Attributes:
        logits: [..., num_levels] float; 256 for bytes.
    """

    logits: Array

    @property
    def mean(self) -> Array:
        """[...] float, the expected level, in 0 .. num_levels - 1."""
        (logits,) = wide(self.logits)
        levels = jnp.arange(logits.shape[-1], dtype=logits.dtype)
        return jnp.einsum("...v,v->...", jax.nn.softmax(logits), levels, precision="highest")

    def log_prob(self, x: Array) -> Array:
        """[...] nats, log probability of the levels x [...].

        Raises:
            ValueError: for x that is not of integers in 0 .. num_levels - 1, as far as known; nan
                stands where that is seen too late.
        """
        _same_shape(x, self.logits.shape[:-1])
        x = whole_levels("x", x, self.logits.shape[-1])
        (logits,) = wide(self.logits)
        index = jnp.where(x < 0, logits.shape[-1], x.astype(jnp.int32))
        taken = jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], -1, mode="fill")
        return taken[..., 0]

    def sample(self, rng: Key) -> Array:
        """[...] int32."""
        return jax.random.categorical(rng, *wide(self.logits)).astype(jnp.int32)


def logistic_mixture(
    logits: Array, means: Array, log_scales: Array, num_levels: int = 256
) -> LogisticMixture:
    """A mixture of M logistics, discretised to equal cells; see `LogisticMixture`.

    Args:
        logits: [..., M] float, unnormalised log weights of the components.
        means: [..., M] float; the levels 0 .. num_levels - 1 lie evenly on [-1, 1].
        log_scales: [..., M] float, log of the logistics' scales in the same units.
        num_levels: 256 for bytes.
    Raises:
        ValueError: if the shapes differ, or there are fewer than 2 levels.
    """
    checks.count("num_levels", num_levels, least=2)
    shapes = [jnp.shape(values) for values in (logits, means, log_scales)]
    if len(set(shapes)) > 1 or not shapes[0]:
        raise ValueError(
            f"logits, means, log_scales have shapes {', '.join(map(str, shapes))}: expected "
            "[..., M] each"
        )
    return LogisticMixture(logits, means, log_scales, num_levels)


@flax.struct.dataclass
class LogisticMixture:
    """Discretised logistics, Salimans et al. 2017, arXiv:1701.05517, sec. 2.1, normalised exactly.

    The mass of a level is that of the cell of half width 1 / (num_levels - 1) around it; the first
    and the last cell are open. With edges a > b in units of the scale, sigmoid(a) - sigmoid(b) =
    sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which is computed in logarithms and never cancels. The
    replacement of small masses by density times width, which is common, does not sum to 1. Log
    scales beyond +-60 count as that, which keeps every gradient finite in float32.

    Attributes: see `logistic_mixture`.
    """

    logits: Array
    means: Array
    log_scales: Array
    num_levels: int = flax.struct.field(pytree_node=False, default=256)

    @property
    def mean(self) -> Array:
        """[...] float, the expected level, in 0 .. num_levels - 1."""
        logits, place, log_width = self._in_levels()

        def add(total: Array, level: Array) -> tuple[Array, None]:  # E x = sum of P(x > level)
            above = jax.nn.sigmoid((place - level - 0.5) * jnp.exp(log_width))
            return total + (jax.nn.softmax(logits) * above).sum(-1), None

        levels = jnp.arange(self.num_levels - 1, dtype=logits.dtype)
        return jax.lax.scan(add, jnp.zeros(logits.shape[:-1], logits.dtype), levels)[0]

    def log_prob(self, x: Array) -> Array:
        """[...] nats, log probability of the levels x [...].

        Raises:
            ValueError: for x that is not of integers in 0 .. num_levels - 1, as far as known; nan
                stands where that is seen too late.
        """
        _same_shape(x, self.logits.shape[:-1])
        x = whole_levels("x", x, self.num_levels)[..., None].astype(jnp.int32)
        logits, place, log_width = self._in_levels()
        # Distances are taken from the level nearest the mean, where both differences are exact: on
        # [-1, 1] the rounding of 1 - mean, over a scale of 1e-3, would move mass between cells.
        near = jax.lax.stop_gradient(jnp.round(place))
        offset = (x - near.astype(jnp.int32)).astype(place.dtype) - (place - near)
        width = jnp.exp(log_width)
        below_upper = jax.nn.log_sigmoid((offset + 0.5) * width)
        above_lower = jax.nn.log_sigmoid((0.5 - offset) * width)
        top = self.num_levels - 1
        log_mass = jnp.where(x < top, below_upper, 0) + jnp.where(x > 0, above_lower, 0)
        inner = (x > 0) & (x < top)
        log_mass = log_mass + jnp.where(inner, _log1mexp(log_width), 0)
        log_prob = jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_mass, -1)
        return jnp.where(((x >= 0) & (x <= top))[..., 0], log_prob, jnp.nan)

    def sample(self, rng: Key) -> Array:
        """[...] int32: a component, a draw of its logistic, the level of the cell it lies in."""
        logits, place, log_width = self._in_levels()
        rng_component, rng_noise = jax.random.split(rng)
        component = jax.random.categorical(rng_component, logits)[..., None]
        place, log_width = (
            jnp.take_along_axis(values, component, -1)[..., 0] for values in (place, log_width)
        )
        noise = jax.random.logistic(rng_noise, place.shape, place.dtype)
        level = jnp.round(place + noise * jnp.exp(-log_width))
        return jnp.clip(level, 0, self.num_levels - 1).astype(jnp.int32)

    def _in_levels(self) -> tuple[Array, Array, Array]:
        """logits, means in levels, and log of a cell's width over the scale; [..., M] each."""
        logits, means, log_scales = wide(self.logits, self.means, self.log_scales)
        half = (self.num_levels - 1) / 2
        # Means far out are kept within what int32 holds; their nearest level has mass 1 either way.
        place = jnp.clip((means + 1) * half, -(2.0**24), 2.0**24)
        return logits, place, -math.log(half) - jnp.clip(log_scales, -60, 60)


def _log1mexp(log_d: Array) -> Array:
    """log(1 - e^-d) of d = e^log_d, where d may be too small for 1 - e^-d to be told from 0."""
    d = jnp.exp(log_d)
    small = d < 1e-3
    series = log_d - d / 2 + d**2 / 24  # - d^4 / 2880
    return jnp.where(small, series, jnp.log(-jnp.expm1(-jnp.where(small, 1, d))))


def _same_shape(x: Array, shape: tuple[int, ...]) -> None:
    if jnp.shape(x) != shape:
        raise ValueError(f"x has shape {jnp.shape(x)}: the likelihood is of shape {shape}")
