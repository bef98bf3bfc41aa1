"""Pieces that the networks share: the condition, group norm, attention, patches, dropout."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key
from research.attention.multihead import on_rows

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Condition(nn.Module):
    """Time features through a two-layer perceptron, plus an embedding of the label."""

    width: int
    features: Callable[[Array], Array]
    num_classes: int | None = None

    @nn.compact
    def __call__(self, t: Array, labels: Array | None, dtype: jnp.dtype) -> Array:
        """[B] times and [B] labels -> [B, width]."""
        h = nn.Dense(self.width, kernel_init=_init)(self.features(t).astype(dtype))
        h = nn.Dense(self.width, kernel_init=_init)(nn.silu(h))
        if self.num_classes is None:
            return h
        if labels is None:
            labels = jnp.full(t.shape, self.num_classes)
        return h + nn.Embed(self.num_classes + 1, self.width)(labels).astype(dtype)


class GroupNorm(nn.Module):
    """Zero mean and unit variance per example and group of channels, then scale and bias.

    Wu and He 2018, arXiv:1803.08494. Statistics are float32 or wider whatever the input is.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self._over_groups(wide.mean((1, 2)))  # [B, C]
        centred = wide - mean[:, None, None, :]
        variance = self._over_groups(jnp.square(centred).mean((1, 2)))  # [B, C]
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale[None, :]
        affine = centred * gain[:, None, None, :] + bias[None, None, None, :]
        return affine.astype(x.dtype)

    def _over_groups(self, means: Array) -> Array:
        """Means [B, C] of channels, each replaced by that of its group.

        Pixels are summed first, channel by channel: compiled for a CPU that takes half the time of
        a sum over pixels and the channels of a group at once, and a quarter in the gradient.
        """
        batch, channels = means.shape
        groups = means.reshape(batch, self.num_groups, -1).mean(-1)  # [B, G]
        return jnp.repeat(groups, channels // self.num_groups, axis=-1)


def channelwise(dense: Callable[[Array], Array], x: Array) -> Array:
    """A map of vectors on every pixel, [B, H, W, C] -> [B, H, W, F]; on a CPU as one of rows."""
    batch, height, width, channels = x.shape
    mapped = on_rows(dense, x.reshape(batch, height * width, channels))
    return mapped.reshape(batch, height, width, -1)


class ConvOfDoubled(nn.Module):
    """A 3x3 convolution of the image in which every pixel stands for a block of 2x2.

    Equal to a convolution after `resampling.nearest`, for half of the arithmetic: each pixel of a
    block sees no more than 2x2 different pixels, under sums of the kernel's entries.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, width], zero outside."""
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", _init, (3, 3, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        folds = jnp.asarray(_FOLDS, dtype)
        small = jnp.einsum("auk,bvl,klcf->abuvcf", folds, folds, kernel.astype(dtype))

        def pixels(a: int, b: int) -> Array:  # [B, H, W, F], the pixel (a, b) of every block
            return jax.lax.conv_general_dilated(
                x.astype(dtype),
                small[a, b],
                window_strides=(1, 1),
                padding=((1 - a, a), (1 - b, b)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        rows = [jnp.stack([pixels(a, 0), pixels(a, 1)], axis=3) for a in (0, 1)]
        h = jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, self.width)
        return h + bias.astype(dtype)[None, None, None, :]


# [a, u, k]: whether pixel a of a block sees its u-th neighbour under the k-th entry of the kernel.
_FOLDS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def attend(query: Array, key: Array, value: Array) -> Array:
    """Softmax attention, Vaswani et al. 2017, eq. (1), with the softmax in float32 or wider.

    The weights are divided by their sum after the values are mixed: K numbers a token, not S.

    Args:
        query, key, value: [B, T, H, K], [B, S, H, K], [B, S, H, K].
    Returns:
        [B, T, H, K].
    """
    scale = query.shape[-1] ** -0.5
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))  # [B, H, ., K]
    logits = jnp.einsum("bhtk,bhsk->bhts", query, key)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
    weights = jnp.exp(scale * (wide - largest))  # [B, H, T, S], at most 1
    mixed = jnp.einsum("bhts,bhsk->bhtk", weights.astype(value.dtype), value)
    out = mixed / weights.sum(-1, keepdims=True)
    return out.astype(value.dtype).transpose(0, 2, 1, 3)


def to_patches(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, H / size, W / size, size * size * C]: every patch becomes one pixel.

    A reshuffling of the pixels, so a density of one form is a density of the other.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def from_patches(x: Array, size: int) -> Array:
    """The inverse of `to_patches`: [B, H, W, size * size * C] -> [B, H * size, W * size, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, size, size, channels // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * size, width * size, -1)


def dropout(rng: Key, h: Array, rate: float) -> Array:
    """Each example's own mask from its own key [B], so that no mask depends on the batch split."""
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, h.shape[1:]))(rng)
    return jnp.where(keep, h / (1 - rate), jnp.zeros((), h.dtype))
