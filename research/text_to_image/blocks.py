"""Parts of Stable Diffusion's U-Net: residual blocks, transformers over pixels, time features."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.attention import dot_product, multihead
from research.transformers import layers
from research.vision import convolutions

_NORM = layers.Norm(epsilon=1e-5)
_zeros = nn.initializers.zeros


def time_features(t: Array, dim: int) -> Array:
    """Cosines, then sines, of t times dim/2 frequencies from 1 down to nearly 1/10,000.

    Frequencies and angles are float32 whatever the network is in: they are part of the published
    networks, and 1e-7 of a frequency is 1e-4 of an angle at step 1,000.

    Args:
        t: [B] int or float, steps.
        dim: number of features, even.
    Returns:
        [B, dim] float32.
    """
    half = dim // 2
    exponents = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]  # [B, dim/2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Embedding(nn.Module):
    """Two linear maps with a swish between them: features of time or size as a condition."""

    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """[B, F] -> [B, width]."""
        h = nn.silu(nn.Dense(self.width, name="dense0")(features))
        return nn.Dense(self.width, name="dense1")(h)


class Residual(nn.Module):
    """shortcut(x) + f(x, condition), f two convolutions after group norms; f is 0 at init."""

    width: int
    num_groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """[B, h, w, C], [B, E] after its swish -> [B, h, w, width]."""
        h = nn.silu(convolutions.GroupNorm(self.num_groups, self.epsilon, name="norm0")(x))
        bias = nn.Dense(self.width, name="time")(condition)  # [B, width]
        h = nn.Conv(self.width, (3, 3), name="conv0")(h) + bias[:, None, None, :]
        h = nn.silu(convolutions.GroupNorm(self.num_groups, self.epsilon, name="norm1")(h))
        h = nn.Conv(self.width, (3, 3), kernel_init=_zeros, name="conv1")(h)
        if x.shape[-1] != self.width:
            x = convolutions.channelwise(nn.Dense(self.width, name="short"), x)
        return x + h


class PixelTransformer(nn.Module):
    """x + layers over the pixels of x, each of which attends to the context; x at init."""

    depth: int
    num_heads: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """[B, h, w, C], [B, T, D] -> [B, h, w, C]."""
        batch, height, width, channels = x.shape
        h = convolutions.GroupNorm(self.num_groups, 1e-6, name="norm")(x)
        h = h.reshape(batch, height * width, channels)
        h = multihead.on_rows(nn.Dense(channels, name="into"), h)
        for index in range(self.depth):
            h = Layer(self.num_heads, name=f"layer{index}")(h, context)
        h = multihead.on_rows(nn.Dense(channels, kernel_init=_zeros, name="out"), h)
        return x + h.reshape(x.shape)


class Layer(nn.Module):
    """Attention among pixels, attention to the context, a gated perceptron; each is added."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        """[B, N, C], [B, T, D] -> [B, N, C]."""
        h = _NORM("attention_norm")(x)
        x = x + Attention(self.num_heads, name="attention")(h, h)
        x = x + Attention(self.num_heads, name="cross")(_NORM("cross_norm")(x), context)
        return x + GatedPerceptron(name="mlp")(_NORM("mlp_norm")(x))


class Attention(nn.Module):
    """Attention of x to a memory; only the last of its four maps has a bias."""

    num_heads: int
    out_init: nn.initializers.Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        """[B, N, C], [B, T, D] -> [B, N, C]."""
        channels = x.shape[-1]
        heads = []
        for name, source in (("query", x), ("key", memory), ("value", memory)):
            dense = nn.Dense(channels, use_bias=False, name=name)
            mapped = multihead.on_rows(dense, source)
            heads.append(mapped.reshape(*mapped.shape[:2], self.num_heads, -1))  # [B, ., H, K]
        mixed = dot_product.attend(*heads).reshape(x.shape)
        return multihead.on_rows(nn.Dense(channels, kernel_init=self.out_init, name="out"), mixed)


class GatedPerceptron(nn.Module):
    """(a * gelu(g)) down with a, g = x up, 4 C numbers each: GEGLU, arXiv:2002.05202."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, N, C] -> [B, N, C]."""
        return multihead.on_rows(self._rows, x)

    def _rows(self, x: Array) -> Array:
        channels = x.shape[-1]
        hidden, gate = jnp.split(nn.Dense(8 * channels, name="up")(x), 2, axis=-1)
        return nn.Dense(channels, name="down")(hidden * layers.gelu_exact(gate))
