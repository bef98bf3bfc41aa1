"""Features of a scalar condition, and of the input itself: sinusoids of chosen frequencies.

A network takes such an object as a field and calls it on the times [B]. `of` says which scalar is
embedded: the time itself, `process.log_snr`, or any other function of the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library import checks
from library.types import Array
from research.diffusion.curves import wide


@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """Sines and cosines in a geometric row of frequencies, Vaswani et al. 2017, arXiv:1706.03762.

    Frequencies run from `scale` down to `scale / max_period`. A time in [0, 1] with the default
    scale of 1000 gives the features that DDPM (arXiv:2006.11239) has on its 1000 steps.

    Attributes:
        dim: number of features, even.
        scale: factor on the embedded scalar.
        max_period: ratio of the highest to the lowest frequency.
        of: [B] -> [B], the scalar that is embedded, as a function of the time.
    """

    dim: int
    scale: float = 1000.0
    max_period: float = 10_000.0
    of: Callable[[Array], Array] = lambda t: t

    def __post_init__(self) -> None:
        _check_dim(self.dim)

    def __call__(self, t: Array) -> Array:
        """[B] times -> [B, dim] features in [-1, 1]."""
        t = wide(t)
        exponents = jnp.arange(self.dim // 2, dtype=t.dtype) / max(self.dim // 2 - 1, 1)
        frequencies = self.scale * jnp.exp(-jnp.log(self.max_period) * exponents).astype(t.dtype)
        return _sines(self.of(t), frequencies)


@dataclasses.dataclass(frozen=True)
class Fourier:
    """Sines and cosines of random frequencies, Tancik et al. 2020, arXiv:2006.10739.

    The frequencies are 2 pi scale times standard normal numbers. They belong to the definition of
    the network, not to its parameters: a seed fixes them, nothing trains them. NCSN++
    (arXiv:2011.13456) embeds log(sigma) with scale 16.

    Attributes:
        dim: number of features, even.
        scale: standard deviation of the frequencies in cycles per unit of the scalar.
        seed: of the frequencies.
        of: [B] -> [B], the scalar that is embedded, as a function of the time.
    """

    dim: int
    scale: float = 16.0
    seed: int = 0
    of: Callable[[Array], Array] = lambda t: t

    def __post_init__(self) -> None:
        _check_dim(self.dim)

    def __call__(self, t: Array) -> Array:
        """[B] times -> [B, dim] features in [-1, 1]."""
        t = wide(t)
        normal = jax.random.normal(jax.random.key(self.seed), (self.dim // 2,), jnp.float32)
        return _sines(self.of(t), (2 * jnp.pi * self.scale * normal).astype(t.dtype))


@dataclasses.dataclass(frozen=True)
class FineDetails:
    """Sines and cosines of the pixels themselves, fast enough to tell the bytes apart.

    Kingma et al. 2021, arXiv:2107.00630, appendix C: without them a network does not see the cells
    of dequantised data. A sine of alpha x_0 + sigma eps is on average that of alpha x_0 times
    exp(-(w sigma)^2 / 2), and this factor is applied, so that features that are all noise vanish.

    Attributes:
        powers: k of the frequencies w = pi 2^k; the cells of bytes in [-1, 1] repeat at k = 8.
        sigma: [B] times -> [B], the noise in the input.
    """

    powers: tuple[int, ...]
    sigma: Callable[[Array], Array]

    def __call__(self, x: Array, t: Array) -> Array:
        """[B, H, W, C], [B] -> [B, H, W, 2 C K], K the number of powers; float32 or wider."""
        x, t = wide(x), wide(t)
        sigma = self.sigma(t)[:, None, None, None]
        features = []
        for power in self.powers:
            frequency = jnp.pi * 2.0**power
            damping = jnp.exp(-0.5 * (frequency * sigma) ** 2)
            features += [damping * jnp.sin(frequency * x), damping * jnp.cos(frequency * x)]
        return jnp.concatenate(features, axis=-1)


def _sines(scalar: Array, frequencies: Array) -> Array:
    angles = scalar[:, None] * frequencies[None, :]  # [B, dim/2]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # [B, dim]


def _check_dim(dim: int) -> None:
    if checks.count("dim", dim) % 2:
        raise ValueError(f"dim={dim}: expected an even number of features >= 2")
