"""Pieces that the networks share: the condition, attention without masks, dropout."""

from __future__ import annotations

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, at_least_float32

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Condition(nn.Module):
    """Time features through a two-layer perceptron, plus an embedding of the label."""

    width: int
    features: Callable[[Array], Array]
    num_classes: int | None = None

    @nn.compact
    def __call__(self, t: Array, labels: Array | None, dtype: jnp.dtype) -> Array:
        """[B] times and [B] labels -> [B, width]; raises as `checked_labels`."""
        h = nn.Dense(self.width, kernel_init=_init)(self.features(t).astype(dtype))
        h = nn.Dense(self.width, kernel_init=_init)(nn.silu(h))
        if self.num_classes is None:
            return h
        labels = checked_labels(labels, self.num_classes, t)
        return h + nn.Embed(self.num_classes + 1, self.width)(labels).astype(dtype)


def checked_labels(labels: Array | None, num_classes: int, t: Array) -> Array:
    """Labels [B] for a table of num_classes + 1 rows, the last of the null class.

    Args:
        labels: [B] int in [0, num_classes], or None for the null class throughout.
        num_classes: number of labels.
        t: [B] times.
    Returns:
        [B] int; under jit, where none can be refused, a label outside is sent to where the table
        has nan.
    Raises:
        ValueError: for labels that are no integers, of another number, or outside, where known.
    """
    if labels is None:
        return jnp.full(t.shape, num_classes)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != t.shape:
        raise ValueError(f"labels {labels.dtype}{list(labels.shape)}: expected int {list(t.shape)}")
    if not isinstance(labels, jax.core.Tracer):
        known = np.asarray(labels)
        wrong = known[(known < 0) | (known > num_classes)]
        if len(wrong):
            raise ValueError(
                f"label {wrong[0]}: expected 0 to {num_classes}, the last one for no class"
            )
    return jnp.where(labels < 0, num_classes + 1, labels)  # -1 would be the last row


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
