"""Images to smaller images of latents and back: the autoencoder of latent diffusion.

Rombach et al. 2022, arXiv:2112.10752, appendix E and G. With a Gaussian posterior (`latent_dim`
means and as many log variances) it is the "KL" autoencoder of Stable Diffusion; with `codes` the
encoder's vectors go through a codebook ("VQ"). Sizes of published networks are in `PUBLISHED`.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from library import checks
from library.types import Array
from research import attention
from research.vision import convolutions, resampling

_GROUPS, _EPSILON = 32, 1e-6
LOG_VAR = (-30.0, 20.0)  # to which log variances are clipped


class Autoencoder(nn.Module):
    """`encode` and `decode`; calling it does one after the other, at the posterior's mean.

    Attributes:
        channels: of each resolution, finest first; each but the last halves height and width.
        num_blocks: residual blocks of a resolution on the way down; the way up has one more.
        latent_dim: channels of the latent image.
        image_channels: colours.
        gaussian: whether the encoder gives a mean and a log variance, or one vector a pixel.
        point_maps: whether 1x1 convolutions stand after the encoder and before the decoder.
        num_groups: of every group norm; must divide all channels.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    latent_dim: int = 4
    image_channels: int = 3
    gaussian: bool = True
    point_maps: bool = True
    num_groups: int = _GROUPS

    def setup(self):
        checks.count("num_groups", self.num_groups)
        if any(width % self.num_groups for width in self.channels):
            raise ValueError(
                f"channels={self.channels}: expected multiples of num_groups={self.num_groups}"
            )
        out = (2 if self.gaussian else 1) * self.latent_dim
        shape = dict(num_blocks=self.num_blocks, num_groups=self.num_groups)
        self.encoder = Encoder(self.channels, out, **shape)
        self.decoder = Decoder(self.channels, self.image_channels, **shape)
        if self.point_maps:
            self.after_encoder = nn.Conv(out, (1, 1))
            self.before_decoder = nn.Conv(self.latent_dim, (1, 1))

    def encode(self, x: Array) -> tuple[Array, Array] | Array:
        """Mean and log variance [B, H/f, W/f, latent_dim] of images, or vectors for a codebook.

        Args:
            x: [B, H, W, image_channels] float in [-1, 1]; f = 2^(resolutions - 1) divides H and W.
        Raises:
            ValueError: for images of another size or dtype.
        """
        factor = 2 ** (len(self.channels) - 1)
        if x.ndim != 4 or x.shape[-1] != self.image_channels or min(x.shape[1:3]) < 1:
            raise ValueError(f"images {list(x.shape)}: expected [B, H, W, {self.image_channels}]")
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]}: expected multiples of {factor}, which the "
                "strides divide"
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"images of type {x.dtype}: expected floats in [-1, 1]")
        h = self.encoder(x)
        h = self.after_encoder(h) if self.point_maps else h
        if not self.gaussian:
            return h
        mean, log_var = jnp.split(h, 2, axis=-1)
        return mean, jnp.clip(log_var, *LOG_VAR)

    def decode(self, z: Array) -> Array:
        """Images [B, f H, f W, image_channels] of latents [B, H, W, latent_dim]."""
        if z.ndim != 4 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"latents {list(z.shape)}: expected [B, H, W, {self.latent_dim}]")
        return self.decoder(self.before_decoder(z) if self.point_maps else z)

    def __call__(self, x: Array) -> Array:
        """Images [B, H, W, image_channels], reconstructed from their mean or their vectors."""
        encoded = self.encode(x)
        return self.decode(encoded[0] if self.gaussian else encoded)


class Encoder(nn.Module):
    """[B, H, W, C] -> [B, H/f, W/f, out]; the fields are those of `Autoencoder`."""

    channels: tuple[int, ...]
    out: int
    num_blocks: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        block = functools.partial(Block, num_groups=self.num_groups)
        h = nn.Conv(self.channels[0], (3, 3), name="stem")(x)
        for level, width in enumerate(self.channels):
            for index in range(self.num_blocks):
                h = block(width, name=f"down{level}_block{index}")(h)
            if level < len(self.channels) - 1:
                # Zeros at the bottom and the right only, as the published weights were trained.
                down = nn.Conv(width, (3, 3), (2, 2), ((0, 1), (0, 1)), name=f"down{level}")
                h = down(h)
        h = Middle(self.num_groups, name="middle")(h)
        return _head(self.out, self.num_groups)(h)


class Decoder(nn.Module):
    """[B, H, W, L] -> [B, f H, f W, out]; the fields are those of `Autoencoder`."""

    channels: tuple[int, ...]
    out: int
    num_blocks: int
    num_groups: int

    @nn.compact
    def __call__(self, z: Array) -> Array:
        block = functools.partial(Block, num_groups=self.num_groups)
        h = nn.Conv(self.channels[-1], (3, 3), name="stem")(z)
        h = Middle(self.num_groups, name="middle")(h)
        for level, width in reversed(list(enumerate(self.channels))):
            for index in range(self.num_blocks + 1):
                h = block(width, name=f"up{level}_block{index}")(h)
            if level:
                h = nn.Conv(width, (3, 3), name=f"up{level}")(resampling.nearest(h))
        return _head(self.out, self.num_groups)(h)


class Middle(nn.Module):
    """Residual block, attention of pixels to pixels with one head, residual block."""

    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        width = x.shape[-1]
        h = Block(width, self.num_groups, name="block0")(x)
        h = h + SelfAttention(self.num_groups, name="attention")(h)
        return Block(width, self.num_groups, name="block1")(h)


class SelfAttention(nn.Module):
    """Attention over all pixels, after a group norm."""

    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        batch, height, width, channels = x.shape
        h = convolutions.GroupNorm(self.num_groups, _EPSILON, name="norm")(x)
        h = h.reshape(batch, height * width, channels)
        heads = [nn.Dense(channels, name=name)(h)[:, :, None] for name in ("query", "key", "value")]
        mixed = attention.attend(*heads)[:, :, 0]  # [B, H W, C], one head
        return nn.Dense(channels, name="out")(mixed).reshape(x.shape)


class Block(nn.Module):
    """shortcut(x) + f(x), f twice group norm, swish and a 3x3 convolution."""

    width: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, width]."""
        h = x
        for index in range(2):
            h = convolutions.GroupNorm(self.num_groups, _EPSILON, name=f"norm{index}")(h)
            h = nn.Conv(self.width, (3, 3), name=f"conv{index}")(nn.silu(h))
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1), name="short")(x)
        return x + h


def _head(out: int, num_groups: int):
    norm = convolutions.GroupNorm(num_groups, _EPSILON, name="norm")
    conv = nn.Conv(out, (3, 3), name="head")
    return lambda h: conv(nn.silu(norm(h)))


@dataclasses.dataclass(frozen=True)
class Published:
    """A published network: its shape, its codebook if any, and the scale of its latents.

    Attributes:
        shape: the module.
        num_codes: of the codebook, each of `latent_dim` numbers; None for a Gaussian posterior.
        scale: what its latents are multiplied by to have a standard deviation of about 1.
    """

    shape: Autoencoder
    num_codes: int | None = None
    scale: float = 1.0


PUBLISHED = {
    "sd1": Published(Autoencoder(), scale=0.18215),  # also SD 2
    "sdxl": Published(Autoencoder(), scale=0.13025),
    "vq-f4": Published(
        Autoencoder(channels=(128, 256, 512), latent_dim=3, gaussian=False), num_codes=8192
    ),
}
