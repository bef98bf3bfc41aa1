"""Pieces that the networks share: the condition, attention without masks, dropout."""

from __future__ import annotations

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key, at_least_float32

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


def attend(query: Array, key: Array, value: Array) -> Array:
    """Softmax attention, Vaswani et al. 2017, eq. (1), with the softmax in float32 or wider.

    The weights are divided by their sum after the values are mixed: K numbers a token, not S.

    Args:
        query, key, value: [B, T, H, K], [B, S, H, K], [B, S, H, K].
    Returns:
        [B, T, H, K].
    """
    chex.assert_rank([query, key, value], 4)
    scale = query.shape[-1] ** -0.5
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))  # [B, H, ., K]
    logits = jnp.einsum("bhtk,bhsk->bhts", query, key)
    wide = logits.astype(at_least_float32(logits.dtype))
    largest = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
    weights = jnp.exp(scale * (wide - largest))  # [B, H, T, S], at most 1
    mixed = jnp.einsum("bhts,bhsk->bhtk", weights.astype(value.dtype), value)
    out = mixed / weights.sum(-1, keepdims=True)
    return out.astype(value.dtype).transpose(0, 2, 1, 3)


def dropout(rng: Key, h: Array, rate: float) -> Array:
    """Each example's own mask from its own key [B], so that no mask depends on the batch split."""
    chex.assert_shape(rng, h.shape[:1])
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, h.shape[1:]))(rng)
    return jnp.where(keep, h / (1 - rate), jnp.zeros((), h.dtype))
