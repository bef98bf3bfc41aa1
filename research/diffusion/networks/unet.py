"""A U-Net whose fields reach the shapes of DDPM, DDPM++ and NCSN++.

| shape | paper | fields beside the sizes |
|---|---|---|
| DDPM | arXiv:2006.11239 | the defaults |
| DDPM++ | arXiv:2011.13456 | resample=BOX, skip_scale=1/sqrt(2), attend_each_up_block=False |
| NCSN++ | arXiv:2011.13456 | as DDPM++, resample=FIR, input_pyramid=True, features=Fourier(...) |

The network is a pure function `apply(params, x, t, labels=None, rng=None)`, where `apply` is
`UNet(...).apply`: it predicts whatever the loss asks for and knows no process.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key
from research.diffusion.networks import embeddings, layers
from research.vision import convolutions, patches, resampling

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class UNet(nn.Module):
    """Residual blocks down and up a ladder of resolutions, with skips between equal rungs.

    Attributes:
        out_channels: channels of the output.
        channels: channels at each resolution, finest first; each rung halves height and width.
        num_blocks: residual blocks a rung on the way down; the way up has one more.
        attention_sizes: heights, in patches, of the feature maps that attend; the bottom does.
        head_dim: size of an attention head; None is one head of all channels.
        num_groups: groups of every group norm; must divide all channels.
        features: [B] times -> [B, E] features; None is `Sinusoidal(channels[0])`.
        num_classes: number of labels, None for no labels. Label `num_classes` is the null class.
        dropout: rate inside residual blocks; acts only when `rng` is given.
        skip_scale: factor after each residual sum.
        resample: None for strided convolutions between rungs, else residual blocks that resample
            both of their branches by this filter.
        attend_each_up_block: whether attention on the way up follows each block or only the last.
        input_pyramid: whether shrunken inputs join each rung (the residual form of NCSN++).
        patch: side of the square of pixels that the finest rung sees as one.
        details: (x [B, H, W, C], t [B]) -> [B, H, W, C'], fixed features of the input that join
            it as further channels, e.g. `embeddings.FineDetails`.
    """

    out_channels: int
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    attention_sizes: tuple[int, ...] = ()
    head_dim: int | None = None
    num_groups: int = 8
    features: Callable[[Array], Array] | None = None
    num_classes: int | None = None
    dropout: float = 0.0
    skip_scale: float = 1.0
    resample: resampling.Filter | None = None
    attend_each_up_block: bool = True
    input_pyramid: bool = False
    patch: int = 1
    details: Callable[[Array, Array], Array] | None = None

    @nn.compact
    def __call__(
        self, x: Array, t: Array, labels: Array | None = None, rng: Key | None = None
    ) -> Array:
        """The prediction for noisy images.

        Args:
            x: [B, H, W, C] float; H and W multiples of patch * 2 ** (len(channels) - 1).
            t: [B] float, times.
            labels: [B] int in [0, num_classes]; None means the null class throughout.
            rng: [B] keys of the dropout masks, one an example; None for no dropout.
        Returns:
            [B, H, W, out_channels].
        Raises:
            ValueError: for labels without `num_classes`, or shapes that the fields do not fit.
        """
        self._check(x, labels)
        embed = layers.Condition(4 * self.channels[0], self._features(), self.num_classes)
        trunk = _Trunk(self, nn.silu(embed(t, labels, x.dtype)), rng)
        if self.details is not None:
            x = jnp.concatenate([x, self.details(x, t).astype(x.dtype)], axis=-1)
        x = patches.to_patch_grid(x, self.patch)
        h = _conv(self.channels[0], name="stem")(x)
        pyramid, skips = x, [h]
        for level, width in enumerate(self.channels):
            for _ in range(self.num_blocks):
                h = trunk.attend(trunk.block(h, width))
                skips.append(h)
            if level < len(self.channels) - 1:
                h = trunk.down(h)
                if self.input_pyramid:
                    pyramid = _conv(width)((self.resample or resampling.BOX).down(pyramid))
                    h = pyramid = (h + pyramid) * self.skip_scale
                skips.append(h)
        h = trunk.block(trunk.attention(trunk.block(h, self.channels[-1])), self.channels[-1])
        for level, width in reversed(list(enumerate(self.channels))):
            for block in range(self.num_blocks + 1):
                h = trunk.block(jnp.concatenate([h, skips.pop()], axis=-1), width)
                if self.attend_each_up_block or block == self.num_blocks:
                    h = trunk.attend(h)
            if level > 0:
                h = trunk.up(h)
        head = _conv(self.out_channels * self.patch**2, zero=True, name="head")
        return patches.from_patch_grid(
            head(nn.silu(convolutions.GroupNorm(self.num_groups)(h))), self.patch
        )

    def _features(self) -> Callable[[Array], Array]:
        return self.features or embeddings.Sinusoidal(self.channels[0])

    def _check(self, x: Array, labels: Array | None) -> None:
        factor = self.patch * 2 ** (len(self.channels) - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"x has shape {x.shape}: expected [B, H, W, C], H and W multiples of {factor}"
            )
        if labels is not None and self.num_classes is None:
            raise ValueError("labels are given to a network with num_classes=None")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: expected a rate in [0, 1)")
        for width in self.channels:
            if width % self.num_groups or width % (self.head_dim or width):
                raise ValueError(
                    f"channels={self.channels}: expected multiples of num_groups="
                    f"{self.num_groups} and of head_dim={self.head_dim}"
                )


class _Trunk:
    """The repeated pieces of one call, bound to its condition [B, E] and its dropout keys [B]."""

    def __init__(self, net: UNet, condition: Array, rng: Key | None) -> None:
        self.net, self.condition, self.rng, self.num_blocks = net, condition, rng, 0

    def block(
        self, h: Array, width: int, resample: Callable[[Array], Array] | None = None
    ) -> Array:
        self.num_blocks += 1
        rng = self.rng
        if rng is not None:
            rng = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rng, self.num_blocks)
        net = self.net
        block = ResidualBlock(width, net.num_groups, net.dropout, net.skip_scale, resample)
        return block(h, self.condition, rng)

    def attention(self, h: Array) -> Array:
        return AttentionBlock(self.net.head_dim, self.net.num_groups, self.net.skip_scale)(h)

    def attend(self, h: Array) -> Array:
        return self.attention(h) if h.shape[1] in self.net.attention_sizes else h

    def down(self, h: Array) -> Array:
        if self.net.resample is None:
            return _conv(h.shape[-1], strides=2)(h)
        return self.block(h, h.shape[-1], self.net.resample.down)

    def up(self, h: Array) -> Array:
        if self.net.resample is None:
            return convolutions.ConvOfDoubled(h.shape[-1])(h)
        return self.block(h, h.shape[-1], self.net.resample.up)


class ResidualBlock(nn.Module):
    """Two convolutions after group norms; the condition enters between them as a bias."""

    width: int
    num_groups: int
    dropout: float = 0.0
    skip_scale: float = 1.0
    resample: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Array, condition: Array, rng: Key | None = None) -> Array:
        """[B, H, W, C], [B, E] -> [B, H', W', width]; the identity times skip_scale at init."""
        h = nn.silu(convolutions.GroupNorm(self.num_groups)(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        bias = nn.Dense(self.width, kernel_init=_init)(condition)  # [B, width]
        h = _conv(self.width)(h) + bias[:, None, None, :]
        h = nn.silu(convolutions.GroupNorm(self.num_groups)(h))
        if rng is not None and self.dropout > 0:
            h = layers.dropout(rng, h, self.dropout)
        h = _conv(self.width, zero=True)(h)
        if x.shape[-1] != self.width or self.resample is not None:
            x = convolutions.channelwise(nn.Dense(self.width, kernel_init=_init), x)
        return (x + h) * self.skip_scale


class AttentionBlock(nn.Module):
    """Self-attention over all pixels with a residual sum; the identity times skip_scale at init."""

    head_dim: int | None
    num_groups: int
    skip_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        batch, height, width, channels = x.shape
        head_dim = self.head_dim or channels
        project = nn.Dense(3 * channels, kernel_init=_init)
        qkv = convolutions.channelwise(project, convolutions.GroupNorm(self.num_groups)(x))
        heads = (batch, height * width, channels // head_dim, head_dim)
        h = layers.attend(*(part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1)))
        merge = nn.Dense(channels, kernel_init=nn.initializers.zeros)
        h = convolutions.channelwise(merge, h.reshape(x.shape))
        return (x + h) * self.skip_scale


def _conv(width: int, strides: int = 1, zero: bool = False, name: str | None = None) -> nn.Conv:
    kernel_init = nn.initializers.zeros if zero else _init
    return nn.Conv(width, (3, 3), strides=(strides, strides), kernel_init=kernel_init, name=name)
