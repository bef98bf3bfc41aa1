"""A diffusion transformer that attends to text: smaller than a U-Net, for trainings of our own.

Peebles and Xie 2022, arXiv:2212.09748, with adaLN-Zero for the time; between its two branches each
block attends to the context, as in PixArt (Chen et al. 2023, arXiv:2310.00426, figure 4).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array
from research.attention import multihead
from research.diffusion.networks import dit
from research.text_to_image import blocks
from research.transformers import layers
from research.vision import patches

_xavier = nn.initializers.xavier_uniform()
_zeros = nn.initializers.zeros
_FEATURES = 256  # of the time


class DiT(nn.Module):
    """`apply(params, latents, t, context)` -> what the schedule says it predicts; zero at init.

    Attributes:
        in_channels, out_channels: of the latents; one that inpaints reads 2 C + 1.
        context_dim: of the text's hidden states.
        patch: height and width of a token's patch of latents.
        depth, width, num_heads: blocks, token size D, attention heads.
        mlp_ratio: hidden size of the perceptrons over width.
    """

    in_channels: int = 4
    out_channels: int = 4
    context_dim: int = 768
    patch: int = 2
    depth: int = 12
    width: int = 384
    num_heads: int = 6
    mlp_ratio: int = 4

    pooled_dim = None  # no pooled text and no sizes, unlike a U-Net of version XL

    @property
    def factor(self) -> int:
        """What must divide the height and width of latents."""
        return self.patch

    @nn.compact
    def __call__(
        self, latents: Array, t: Array, context: Array, pooled: None = None, sizes: None = None
    ) -> Array:
        """The prediction for noisy latents.

        Args:
            latents: [B, h, w, in_channels] float; `patch` divides h and w.
            t: [B] int or float, steps of the table of 1,000.
            context: [B, T, context_dim], hidden states of the text.
            pooled, sizes: None, taken for a common signature.
        Returns:
            [B, h, w, out_channels].
        Raises:
            ValueError: for what does not fit the fields.
        """
        self._check(latents, t, context, pooled, sizes)
        batch, rows, columns = len(latents), *(n // self.patch for n in latents.shape[1:3])
        features = blocks.time_features(t, _FEATURES).astype(latents.dtype)
        condition = nn.silu(blocks.Embedding(self.width, name="time")(features))  # [B, D]
        h = patches.to_patches(latents, self.patch)  # [B, N, p p C]
        h = nn.Dense(self.width, kernel_init=_xavier, name="patches")(h)  # [B, N, D]
        h = h + jnp.asarray(dit.grid_features(rows, columns, self.width), h.dtype)[None]
        for index in range(self.depth):
            h = Block(self.num_heads, self.mlp_ratio, name=f"block{index}")(h, condition, context)
        shift, scale = _modulation(2, self.width, condition)
        h = _normed(h) * (1 + scale) + shift
        h = nn.Dense(self.patch**2 * self.out_channels, kernel_init=_zeros, name="head")(h)
        return patches.from_patch_grid(h.reshape(batch, rows, columns, -1), self.patch)

    def _check(self, latents, t, context, pooled, sizes) -> None:
        if self.width % 4 or self.width % self.num_heads:
            raise ValueError(
                f"width={self.width}: expected a multiple of 4 and of num_heads={self.num_heads}"
            )
        if latents.ndim != 4 or latents.shape[-1] != self.in_channels:
            raise ValueError(
                f"latents {list(latents.shape)}: expected [B, h, w, {self.in_channels}]"
            )
        height, width = latents.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"latents of {height} x {width}: expected multiples of patch={self.patch}"
            )
        batch = len(latents)
        if t.shape != (batch,):
            raise ValueError(f"t {list(t.shape)}: expected a step for each example, [{batch}]")
        if context.ndim != 3 or context.shape[::2] != (batch, self.context_dim):
            raise ValueError(
                f"context {list(context.shape)}: expected [{batch}, T, {self.context_dim}]"
            )
        if pooled is not None or sizes is not None:
            raise ValueError("pooled and sizes are given: this network has no use for them")


class Block(nn.Module):
    """Attention among patches, to the context, a perceptron; the identity at init.

    The time sets shift, scale and gate of the first and the last branch.
    """

    num_heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, h: Array, condition: Array, context: Array) -> Array:
        """[B, N, D], [B, D], [B, T, C] -> [B, N, D]."""
        width = h.shape[-1]
        modulation = _modulation(6, width, condition)
        shift, scale, gate = modulation[:3]
        x = _normed(h) * (1 + scale) + shift
        h = h + gate * blocks.Attention(self.num_heads, name="attention")(x, x)
        x = layers.Norm(epsilon=1e-6)("cross_norm")(h)
        h = h + blocks.Attention(self.num_heads, _zeros, name="cross")(x, context)
        shift, scale, gate = modulation[3:]
        return h + gate * multihead.on_rows(self._perceptron, _normed(h) * (1 + scale) + shift)

    def _perceptron(self, x: Array) -> Array:
        width = x.shape[-1]
        hidden = nn.Dense(self.mlp_ratio * width, kernel_init=_xavier, name="up")(x)
        return nn.Dense(width, kernel_init=_xavier, name="down")(layers.gelu_tanh(hidden))


def _modulation(count: int, width: int, condition: Array) -> list[Array]:
    """`count` maps of the condition, each [B, 1, D], zero at init."""
    dense = nn.Dense(count * width, kernel_init=_zeros, name="modulation")
    return jnp.split(dense(condition)[:, None], count, -1)


def _normed(h: Array) -> Array:
    """Zero mean and unit variance of every token."""
    # Flax's fast variance, E[x^2] - E[x]^2, has no digits left where the mean is large.
    norm = nn.LayerNorm(epsilon=1e-6, use_scale=False, use_bias=False, use_fast_variance=False)
    return norm(h)
