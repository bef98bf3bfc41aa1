"""Exact scores of image size: Gaussian random fields, and a data set as its own mixture."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.diffusion.curves import wide
from research.diffusion.processes import Process, alpha_sigma


@dataclasses.dataclass(frozen=True, eq=False)
class RandomField:
    """The exact score of a periodic stationary Gaussian field; call it as score(x, t).

    Everything is computed and returned in float32, or in float64 where the fields are.

    The orthonormal Fourier transform makes the covariance diagonal: it holds the spectrum.

    Attributes:
        process: the noising process.
        mean: of every pixel.
        spectrum: [H, W] positive variances of the Fourier modes, symmetric under k -> -k.
        num_channels: independent channels.
    """

    process: Process
    mean: float
    spectrum: np.ndarray
    num_channels: int

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): fields [B, H, W, C], times [B] or [] -> [B, H, W, C]."""
        x = wide(x)
        alpha, variances = self._marginal(x, t)
        return -self._filter(x - alpha * self.mean, 1 / variances)

    def log_prob(self, x: Array, t: Array | float | None = None) -> Array:
        """log p_t(x), [B] nats, of fields [B, H, W, C]; of the data if t is None."""
        x = wide(x)
        alpha, variances = self._marginal(x, t, full=True)
        centred = x - alpha * self.mean
        half = variances[:, :, : x.shape[2] // 2 + 1]
        square = jnp.sum(centred * self._filter(centred, 1 / half), (1, 2, 3))
        log_norm = self.num_channels * jnp.sum(jnp.log(2 * math.pi * variances), (1, 2, 3))
        return -0.5 * (square + jnp.broadcast_to(log_norm, square.shape))

    def transport(self, x: Array, t_from: Array | float, t_to: Array | float) -> Array:
        """The exact probability-flow map from time t_from to t_to of fields [B, H, W, C]."""
        x = wide(x)
        alpha_from, variances_from = self._marginal(x, t_from)
        alpha_to, variances_to = self._marginal(x, t_to)
        gain = jnp.sqrt(variances_to / variances_from)
        return alpha_to * self.mean + self._filter(x - alpha_from * self.mean, gain)

    def sample(self, rng: Key, num_samples: int) -> Array:
        """Draws from the data distribution, [num_samples, H, W, C]."""
        white = jax.random.normal(rng, (num_samples, *self.spectrum.shape, self.num_channels))
        _, variances = self._marginal(white, None)
        return self.mean + self._filter(white, jnp.sqrt(variances))

    def _marginal(
        self, x: Array, t: Array | float | None, full: bool = False
    ) -> tuple[Array, Array]:
        """alpha [B, 1, 1, 1] and variances of the noised modes, of half of the plane or all."""
        alpha, sigma = alpha_sigma(self.process, x, t)
        height, width = self.spectrum.shape
        kept = self.spectrum if full else self.spectrum[:, : width // 2 + 1]
        return alpha, alpha**2 * jnp.asarray(kept, x.dtype)[None, :, :, None] + sigma**2

    def _filter(self, x: Array, gain: Array) -> Array:
        """Multiplies the Fourier modes of x [B, H, W, C] by gain [B or 1, H, W // 2 + 1, 1]."""
        modes = jnp.fft.rfft2(x, axes=(1, 2))
        return jnp.fft.irfft2(modes * gain, s=x.shape[1:3], axes=(1, 2)).astype(x.dtype)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["process", "block_size"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Empirical:
    """The exact score of the uniform mixture of points at a data set; call it as score(x, t).

    This is the optimum of denoising score matching on that data set: its sampler recites it.
    Everything is computed and returned in float32, or in float64 where the states are. It is a
    pytree: pass a large one to a jitted function as an argument, or XLA copies it into the program.

    Attributes:
        process: the noising process.
        data: [N, ...].
        block_size: number of data points compared with the states at a time.
    """

    process: Process
    data: Array
    block_size: int

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): states [B, ...], times [B] or [] -> [B, ...]."""
        x = wide(x)
        alpha, sigma = alpha_sigma(self.process, x, t)
        return (alpha * self.posterior_mean(x, t) - x) / sigma**2

    def posterior_mean(self, x: Array, t: Array) -> Array:
        """E[x_0 | x_t = x], [B, ...]: the data averaged by their posterior probability."""
        return self._reduce(wide(x), t)[1]

    def log_prob(self, x: Array, t: Array) -> Array:
        """log p_t(x), [B] nats, of states [B, ...] at times [B] or [] with noise."""
        x = wide(x)
        _, sigma = alpha_sigma(self.process, x, t)
        dim = math.prod(x.shape[1:])
        sigma = jnp.broadcast_to(sigma.reshape(-1), x.shape[:1])
        log_norm = 0.5 * dim * jnp.log(2 * math.pi * sigma**2) + math.log(self.data.shape[0])
        return self._reduce(x, t)[0] - log_norm

    def _reduce(self, x: Array, t: Array) -> tuple[Array, Array]:
        """log sum_n exp(-|x - alpha y_n|^2 / 2 sigma^2), [B], and the posterior mean [B, ...].

        Two passes over blocks, so memory does not grow with N: the nearest point, and the others'
        distances less its own, direction by direction. The distances themselves, of the size of
        D, would round the weights; |x|^2 - 2 x y + |y|^2 would cancel at small sigma too.
        """
        alpha, sigma = (part.reshape(-1, 1, 1) for part in alpha_sigma(self.process, x, t))
        flat = x.reshape(x.shape[0], -1)
        blocks, real = self._blocks(x.dtype)

        def squares(points: Array) -> Array:  # [B, n, D]
            return ((flat[:, None] - alpha * points[None]) / sigma) ** 2

        def nearer(best: tuple, block: tuple[Array, Array]) -> tuple[tuple, None]:
            least, point = best
            points, is_real = block
            found = jnp.where(is_real[None], jnp.sum(squares(points), -1), jnp.inf)  # [B, n]
            closer = found.min(1) < least
            point = jnp.where(closer[:, None], points[found.argmin(1)], point)
            return (jnp.minimum(least, found.min(1)), point), None

        far = jnp.full_like(flat[:, 0], jnp.inf)
        (_, nearest), _ = jax.lax.scan(nearer, (far, jnp.zeros_like(flat)), (blocks, real))
        own = ((flat - alpha[:, 0] * jax.lax.stop_gradient(nearest)) / sigma[:, 0]) ** 2  # [B, D]

        def body(carry: tuple, block: tuple[Array, Array]) -> tuple[tuple, None]:
            total, mean = carry
            points, is_real = block
            gaps = jnp.sum(squares(points) - own[:, None], -1)  # [B, n], not below zero
            weights = jnp.where(is_real[None], jnp.exp(-0.5 * gaps), 0)
            mean = mean + jnp.einsum("bn,nd->bd", weights, points, precision="highest")
            return (total + weights.sum(1), mean), None

        start = jnp.zeros_like(flat[:, 0]), jnp.zeros_like(flat)
        (total, mean), _ = jax.lax.scan(body, start, (blocks, real))
        return jnp.log(total) - 0.5 * jnp.sum(own, -1), (mean / total[:, None]).reshape(x.shape)

    def _blocks(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        """The data as [N / n, n, D], the last block padded, and which points are real."""
        num_points = self.data.shape[0]
        num_blocks = -(-num_points // self.block_size)
        flat = jnp.asarray(self.data, dtype).reshape(num_points, -1)
        padded = jnp.pad(flat, ((0, num_blocks * self.block_size - num_points), (0, 0)))
        real = jnp.arange(padded.shape[0]) < num_points
        shape = (num_blocks, self.block_size)
        return padded.reshape(*shape, -1), real.reshape(shape)


def random_field(
    process: Process,
    shape: tuple[int, int, int],
    power: float = 2.0,
    variance: float = 1.0,
    mean: float = 0.0,
    spectrum: np.ndarray | None = None,
) -> RandomField:
    """The exact score of a random field of images.

    Args:
        process: the noising process.
        shape: (H, W, C); channels are independent.
        power: the spectrum is |k|^{-power}, k in cycles per image, with |k| = 1 in place of 0.
        variance: of each pixel.
        mean: of each pixel.
        spectrum: [H, W] in place of power and variance; its mean is the pixels' variance.
    Raises:
        ValueError: if the shape is not three positive whole numbers, a number is not finite or the
            variance not positive, or the spectrum is not positive or not symmetric under k -> -k,
            that is, if the field's covariance is not positive definite and real.
    """
    if len(shape) != 3:
        raise ValueError(f"shape={shape}: expected (H, W, C)")
    for size in shape:
        checks.count("shape", size)
    if not (0 < variance < math.inf and math.isfinite(power) and math.isfinite(mean)):
        raise ValueError(
            f"power={power}, variance={variance}, mean={mean}: expected numbers, variance > 0"
        )
    height, width, num_channels = shape
    if spectrum is None:
        rows, columns = np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width)
        radius = np.hypot(rows[:, None], columns[None])
        spectrum = np.maximum(radius, 1.0) ** -power
        spectrum = spectrum * variance / spectrum.mean()
    spectrum = np.asarray(spectrum, np.float64)
    if spectrum.shape != (height, width):
        raise ValueError(f"spectrum has shape {spectrum.shape}: expected {(height, width)}")
    mirrored = np.roll(spectrum[::-1, ::-1], (1, 1), (0, 1))
    if not (spectrum.min() > 0 and np.allclose(spectrum, mirrored)):
        raise ValueError("spectrum: expected positive values, equal at k and -k")
    return RandomField(process, mean, spectrum, num_channels)


def empirical(process: Process, data: Array, block_size: int = 128) -> Empirical:
    """The exact score of a data set [N, ...] taken as N equally likely points.

    Raises:
        ValueError: if the data set is empty or not finite, or block_size is no positive whole
            number.
    """
    checks.count("block_size", block_size)
    if np.ndim(data) < 2 or len(data) == 0:
        raise ValueError(f"data of shape {np.shape(data)}: expected [N, ...] with 1 point or more")
    if not (isinstance(data, jax.core.Tracer) or np.isfinite(np.asarray(data)).all()):
        raise ValueError("data are not finite")
    return Empirical(process, data, min(block_size, len(data)))
