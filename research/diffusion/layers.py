"""Pieces that the networks share: the condition, group norm, attention, patches, dropout."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key

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
        batch, height, width, channels = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        groups = wide.reshape(batch, height * width, self.num_groups, channels // self.num_groups)
        mean = groups.mean((1, 3), keepdims=True)
        variance = jnp.square(groups - mean).mean((1, 3), keepdims=True)
        normal = ((groups - mean) * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        affine = normal * scale[None, None, None, :] + bias[None, None, None, :]
        return affine.astype(x.dtype)


def attend(query: Array, key: Array, value: Array) -> Array:
    """Softmax attention, Vaswani et al. 2017, eq. (1), with the softmax in float32 or wider.

    Args:
        query, key, value: [B, T, H, K], [B, S, H, K], [B, S, H, K].
    Returns:
        [B, T, H, K].
    """
    logits = jnp.einsum("bthk,bshk->bhts", query, key) * query.shape[-1] ** -0.5  # [B, H, T, S]
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    weights = jax.nn.softmax(wide, axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


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
