"""Stochastic layers from the coarsest resolution to the finest: the very deep VAE.

Child 2021, arXiv:2011.10650, section 3 and figure 3. The encoder climbs to ever smaller images
and leaves one of each size; the decoder comes down, and each of its blocks draws a latent image
that it and the encoder's image tell the law of. With one block it is the plain VAE.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key
from research.vae import gaussians, likelihoods
from research.vae.networks import heads, single
from research.vision import resampling


class Ladder(nn.Module):
    """`terms` of the bound and `sample`, by a top-down hierarchy of latent images.

    Fields that have one entry a size are given from the coarsest size to the finest.

    Attributes:
        image_shape: (H, H, C).
        sizes: heights of the images inside, each a divisor of the next; the last is H.
        num_blocks: residual blocks of the encoder at each size; the last of a size shrinks it.
        num_latents: stochastic blocks at each size.
        width: channels of every image inside.
        latent_dim: channels of a latent image.
        bottleneck: width inside a block over that outside.
        head: what the decoder ends in.
    """

    image_shape: tuple[int, int, int]
    sizes: tuple[int, ...] = (1, 4, 8, 16, 32)
    num_blocks: tuple[int, ...] = (3, 4, 7, 7, 12)
    num_latents: tuple[int, ...] = (1, 3, 6, 11, 22)
    width: int = 384
    latent_dim: int = 16
    bottleneck: float = 0.25
    head: heads.Head = heads.BERNOULLI

    def setup(self):
        self._check()
        middle = int(self.width * self.bottleneck)
        total = sum(self.num_blocks)
        self.stem = _conv(self.width, 3)
        self.up = [
            [Residual(middle, self.width, size > 2, total) for _ in range(count)]
            for size, count in zip(self.sizes, self.num_blocks, strict=True)
        ]
        total = sum(self.num_latents)
        self.down = [
            [Stochastic(middle, self.width, self.latent_dim, size > 2, total) for _ in range(count)]
            for size, count in zip(self.sizes, self.num_latents, strict=True)
        ]
        self.starts = [
            self.param(f"start{size}", nn.initializers.zeros, (size, size, self.width))
            for size in self.sizes
        ]
        self.gain = self.param("gain", nn.initializers.ones, (self.width,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))
        self.output = _conv(self.image_shape[-1] * self.head.count, 1)

    def terms(self, x: Array, rng: Key, num: int = 1) -> single.Terms:
        """The terms of the bound, a group a stochastic block, coarsest first; see `single.terms`.

        Args:
            x: [B, H, H, C] data, as the head expects them.
            rng: [B] keys, one an example.
            num: K, draws of all blocks.
        Raises:
            ValueError: if x has another shape, or there is not one key an example.
        """
        checks.count("num", num, of="draws")
        single.one_key_each(rng, x)
        if x.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"x {list(x.shape)}: expected [B, {str(self.image_shape)[1:-1]}]")
        seen = self.climb(x)
        keys = jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(rng)  # [K, B]

        def draw(keys: Key) -> tuple[Array, Array, Array]:
            likelihood, kl, ratio = self._descend(keys, seen)
            return likelihoods.sum_pixels(likelihood.log_prob(x)), kl, ratio

        several = [draw(keys[index]) for index in range(num)]
        return single.Terms(*(jnp.stack(values) for values in zip(*several, strict=True)))

    def sample(self, rng: Key, temperature: float | Array = 1.0) -> Any:
        """The likelihoods of one image for each of the keys [B], drawn from the prior.

        Args:
            rng: [B] keys.
            temperature: factor of the standard deviations of all latents.
        """
        return self._descend(rng, None, temperature)[0]

    def climb(self, x: Array) -> list[Array]:
        """Images [B, size, size, width] that the decoder sees of data, coarsest first."""
        h = self.stem(self.head.see(x))
        seen = []
        for index in reversed(range(len(self.sizes))):
            *blocks, last = self.up[index]
            for block in blocks:
                h = block(h)
            if index == 0:
                h = last(h)
            seen.insert(0, h)
            if index:
                h = _shrink(last(h), self.sizes[index] // self.sizes[index - 1])
        return seen

    def _descend(
        self, rng: Key, seen: list[Array] | None, temperature: float | Array = 1.0
    ) -> tuple[Any, Array, Array]:
        """Likelihood, divergences and log ratios [B, G] of a draw from top to bottom."""
        batch, kl, ratio = rng.shape[0], [], []
        for index, size in enumerate(self.sizes):
            start = self.starts[index]
            h_size = jnp.broadcast_to(start[None], (batch, *start.shape))
            if index:
                h_size = h_size + _enlarge(h, size // self.sizes[index - 1])  # noqa: F821
            h = h_size
            for block in self.down[index]:
                keys = jax.vmap(lambda key, step=len(kl): jax.random.fold_in(key, step))(rng)
                h, terms = block(h, None if seen is None else seen[index], keys, temperature)
                kl.append(terms[0])
                ratio.append(terms[1])
        h = h * self.gain[None, None, None] + self.bias[None, None, None]
        return self.head(self.output(h)), jnp.stack(kl, -1), jnp.stack(ratio, -1)

    def _check(self) -> None:
        height, width, _ = self.image_shape
        if height != width or not self.sizes or self.sizes[-1] != height:
            raise ValueError(
                f"sizes={self.sizes}, image_shape={self.image_shape}: expected the last size to be "
                "both sides of the image"
            )
        for small, large in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            if small < 1 or large % small or large == small:
                raise ValueError(f"sizes={self.sizes}: expected each to divide the next")
        for name in ("num_blocks", "num_latents"):
            counts = getattr(self, name)
            if len(counts) != len(self.sizes) or min(counts) < 1:
                raise ValueError(
                    f"{name}={counts}: expected at least 1 for each of {len(self.sizes)} sizes"
                )


class Stochastic(nn.Module):
    """A block of the decoder: a latent image under its prior or its posterior, then a residual."""

    middle: int
    width: int
    latent_dim: int
    wide: bool
    depth: int

    def setup(self):
        self.posterior = Bottleneck(self.middle, 2 * self.latent_dim, self.wide)
        self.prior = Bottleneck(self.middle, 2 * self.latent_dim + self.width, self.wide, last=0.0)
        self.project = _conv(self.width, 1, 1 / self.depth)
        self.residual = Residual(self.middle, self.width, self.wide, self.depth)

    def __call__(
        self, h: Array, seen: Array | None, rng: Key, temperature: float | Array = 1.0
    ) -> tuple[Array, tuple[Array, Array]]:
        """The image below, and divergence and log ratio [B]; without `seen` from the prior."""
        mean_p, scale_p, extra = jnp.split(
            self.prior(h), [self.latent_dim, 2 * self.latent_dim], axis=-1
        )
        mean, scale = mean_p, scale_p + jnp.log(temperature)
        if seen is not None:
            mean, scale = jnp.split(self.posterior(jnp.concatenate([h, seen], -1)), 2, axis=-1)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(rng)
        z = mean + jnp.exp(scale) * noise
        laws = (mean, 2 * scale), (mean_p, 2 * scale_p)
        kl = gaussians.kl(*laws[0], *laws[1]).sum((1, 2, 3))
        ratio = gaussians.log_prob(z, *laws[0]) - gaussians.log_prob(z, *laws[1])
        h = self.residual(h + extra + self.project(z.astype(h.dtype)))
        return h, (kl, ratio.sum((1, 2, 3)))


class Residual(nn.Module):
    """x + f(x), f a bottleneck whose last convolution starts depth^-1/2 smaller."""

    middle: int
    width: int
    wide: bool
    depth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, width] -> [B, H, W, width]."""
        return x + Bottleneck(self.middle, self.width, self.wide, 1 / self.depth)(x)


class Bottleneck(nn.Module):
    """Four times GELU and a convolution: 1x1, 3x3, 3x3, 1x1, or all 1x1 unless `wide`.

    `last` is the factor of the variance with which the last one starts.
    """

    middle: int
    width: int
    wide: bool
    last: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, width]."""
        side = 3 if self.wide else 1
        h = _conv(self.middle, 1, name="conv0")(_gelu(x))
        h = _conv(self.middle, side, name="conv1")(_gelu(h))
        h = _conv(self.middle, side, name="conv2")(_gelu(h))
        return _conv(self.width, 1, self.last, name="conv3")(_gelu(h))


def _gelu(x: Array) -> Array:
    return nn.gelu(x, approximate=False)


def _conv(width: int, side: int, scale: float = 1.0, name: str | None = None) -> nn.Conv:
    init = nn.initializers.zeros
    if scale:  # uniform within 1 / sqrt(fan-in), as the authors' framework starts
        init = nn.initializers.variance_scaling(scale / 3, "fan_in", "uniform")
    return nn.Conv(width, (side, side), kernel_init=init, name=name)


def _shrink(x: Array, factor: int) -> Array:
    """Means over blocks: [B, H, W, C] -> [B, H / factor, W / factor, C]."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return blocks.mean((2, 4))


def _enlarge(x: Array, factor: int) -> Array:
    """Every pixel as a block: [B, H, W, C] -> [B, factor H, factor W, C]."""
    if factor == 2:
        return resampling.nearest(x)
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
