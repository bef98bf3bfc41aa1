"""The cross-attention U-Net of Stable Diffusion 1, 2 and XL.

Rombach et al. 2022, arXiv:2112.10752, section 3.3; Podell et al. 2023, arXiv:2307.01952, for what
XL adds: a condition of pooled text and image sizes. What differs between versions is in the fields.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from library import checks
from library.types import Array
from research.text_to_image import blocks
from research.vision import convolutions

NUM_SIZES = 6  # of XL: original height and width, crop's top and left, target height and width


class UNet(nn.Module):
    """`apply(params, latents, t, context)` -> what the schedule says it predicts.

    Attributes:
        in_channels, out_channels: of the latents; an inpainting network reads 9.
        channels: at each resolution, finest first; each but the last halves height and width.
        num_blocks: residual blocks a resolution on the way down; the way up has one more.
        depths: transformer layers after every block of a resolution; 0 has no attention.
        middle_depth: of those between the two blocks at the bottom.
        num_heads: at each resolution, or one number for all.
        context_dim: D of the text's hidden states.
        pooled_dim: P of the pooled text; None has neither that nor sizes (versions 1 and 2).
        size_dim: features of each of the six sizes.
        num_groups: of every group norm; must divide all channels.
        linear: whether files keep the maps around the transformer layers as matrices, not as 1x1
            convolutions; the network is the same.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    num_heads: int | tuple[int, ...] = 8
    context_dim: int = 768
    pooled_dim: int | None = None
    size_dim: int = 256
    num_groups: int = 32
    linear: bool = False

    @property
    def factor(self) -> int:
        """What must divide the height and width of latents."""
        return 2 ** (len(self.channels) - 1)

    @property
    def heads(self) -> tuple[int, ...]:
        """Heads at each resolution."""
        given = self.num_heads
        return (given,) * len(self.channels) if isinstance(given, int) else given

    @nn.compact
    def __call__(
        self,
        latents: Array,
        t: Array,
        context: Array,
        pooled: Array | None = None,
        sizes: Array | None = None,
    ) -> Array:
        """The prediction for noisy latents.

        Args:
            latents: [B, h, w, in_channels] float; `factor` divides h and w.
            t: [B] int or float, steps of the table of 1,000.
            context: [B, T, context_dim], hidden states of the text.
            pooled: [B, pooled_dim], for a network with that field; `init` does without.
            sizes: [B, 6], pixels, with it.
        Returns:
            [B, h, w, out_channels].
        Raises:
            ValueError: for what does not fit the fields.
        """
        self._check(latents, t, context, pooled, sizes)
        condition = nn.silu(self._condition(latents, t, pooled, sizes))  # [B, 4 C]
        h = nn.Conv(self.channels[0], (3, 3), name="stem")(latents)
        skips = [h]
        for level, width in enumerate(self.channels):
            for index in range(self.num_blocks):
                h = self._block(h, condition, context, level, f"down{level}", index)
                skips.append(h)
            if level < len(self.channels) - 1:
                h = nn.Conv(width, (3, 3), (2, 2), ((1, 1), (1, 1)), name=f"down{level}")(h)
                skips.append(h)
        h = self._middle(h, condition, context)
        for level, width in reversed(list(enumerate(self.channels))):
            for index in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(h, condition, context, level, f"up{level}", index)
            if level:
                h = convolutions.ConvOfDoubled(width, name=f"up{level}")(h)
        h = nn.silu(convolutions.GroupNorm(self.num_groups, 1e-5, name="norm")(h))
        zeros = nn.initializers.zeros
        return nn.Conv(self.out_channels, (3, 3), kernel_init=zeros, name="head")(h)

    def _condition(self, latents: Array, t: Array, pooled, sizes) -> Array:
        width = 4 * self.channels[0]
        features = blocks.time_features(t, self.channels[0]).astype(latents.dtype)
        condition = blocks.Embedding(width, name="time")(features)
        if self.pooled_dim is None:
            return condition
        batch = len(latents)
        if self.is_initializing() and pooled is None:
            pooled = jnp.zeros((batch, self.pooled_dim), latents.dtype)
            sizes = jnp.zeros((batch, NUM_SIZES), latents.dtype)
        features = blocks.time_features(sizes.reshape(-1), self.size_dim)
        features = features.reshape(batch, -1).astype(latents.dtype)  # [B, 6 size_dim]
        joined = jnp.concatenate([pooled.astype(latents.dtype), features], axis=-1)
        return condition + blocks.Embedding(width, name="added")(joined)

    def _block(self, h, condition, context, level: int, name: str, index: int) -> Array:
        width, depth = self.channels[level], self.depths[level]
        h = blocks.Residual(width, self.num_groups, name=f"{name}_block{index}")(h, condition)
        if not depth:
            return h
        shape = depth, self.heads[level], self.num_groups
        return blocks.PixelTransformer(*shape, name=f"{name}_attention{index}")(h, context)

    def _middle(self, h: Array, condition: Array, context: Array) -> Array:
        width, shape = self.channels[-1], (self.middle_depth, self.heads[-1], self.num_groups)
        h = blocks.Residual(width, self.num_groups, name="middle_block0")(h, condition)
        h = blocks.PixelTransformer(*shape, name="middle_attention")(h, context)
        return blocks.Residual(width, self.num_groups, name="middle_block1")(h, condition)

    def _check(self, latents, t, context, pooled, sizes) -> None:
        batch = latents.shape[0] if latents.ndim == 4 else 0
        levels = len(self.channels)
        if len(self.depths) != levels or len(self.heads) != levels:
            raise ValueError(
                f"channels={self.channels}, depths={self.depths}, num_heads={self.num_heads}: "
                "expected one of each for every resolution"
            )
        for count in (self.num_groups, *self.heads):
            checks.count("num_groups and num_heads", count)
        for width, heads in zip(self.channels, self.heads):
            if width % self.num_groups or width % heads:
                raise ValueError(
                    f"channels={self.channels}: expected multiples of num_groups="
                    f"{self.num_groups} and of num_heads={self.num_heads}"
                )
        if latents.ndim != 4 or latents.shape[-1] != self.in_channels or not batch:
            raise ValueError(
                f"latents {list(latents.shape)}: expected [B, h, w, {self.in_channels}]"
            )
        if latents.shape[1] % self.factor or latents.shape[2] % self.factor:
            raise ValueError(
                f"latents of {latents.shape[1]} x {latents.shape[2]}: expected multiples of "
                f"{self.factor}, which the network halves {levels - 1} times"
            )
        if t.shape != (batch,):
            raise ValueError(f"t {list(t.shape)}: expected a step for each example, [{batch}]")
        if context.ndim != 3 or context.shape[::2] != (batch, self.context_dim):
            raise ValueError(
                f"context {list(context.shape)}: expected [{batch}, T, {self.context_dim}]"
            )
        self._check_added(batch, pooled, sizes)

    def _check_added(self, batch: int, pooled, sizes) -> None:
        given = [None if x is None else list(x.shape) for x in (pooled, sizes)]
        wanted = [None, None]
        if self.pooled_dim is not None:
            wanted = [[batch, self.pooled_dim], [batch, NUM_SIZES]]
        initial = self.is_initializing() and given == [None, None]
        if given != wanted and not initial:
            raise ValueError(f"pooled and sizes {given}: this network expects {wanted}")
