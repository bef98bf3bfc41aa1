"""Perplexity of a token stream: each token predicted once, with as much context as is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import checks as counts
from library.types import Array, Params, at_least_float32
from research.transformers import checks

Apply = Callable[[Params, Array], Array]  # (params, tokens [B, T]) -> logits [B, T, V]


def token_log_probs(
    apply: Apply,
    params: Params,
    tokens: np.ndarray,
    *,
    window: int,
    stride: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Log-probabilities of tokens 1 ... N - 1 of a stream, each given those before it.

    Windows of T inputs start every `stride` tokens; of each but the first only the last `stride`
    predictions count, so that each has at least T - stride + 1 tokens of context.

    Args:
        apply: a causal model; the same function object shares its compiled code.
        params: of the model.
        tokens: [N] int in [0, V), N >= 2.
        window: T >= 1, inputs at once.
        stride: in 1 ... T; None is T, the cheapest, with the least context.
        batch_size: windows at once.
    Returns:
        [N - 1] float64, nats.
    Raises:
        ValueError: for fewer than two tokens, one outside the vocabulary, a stride above T, or a
            count that is no positive whole number.
    """
    stride = window if stride is None else stride
    for name, count in (("window", window), ("stride", stride), ("batch_size", batch_size)):
        counts.count(name, count)
    if stride > window:
        raise ValueError(f"window={window}, stride={stride}: expected 1 <= stride <= window")
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens of shape {tokens.shape}: expected [N] with N >= 2")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens of type {tokens.dtype}: expected integers")
    shape = jax.ShapeDtypeStruct((batch_size, window), jnp.int32)
    checks.in_range("tokens", tokens, _logits.eval_shape(apply, params, shape).shape[-1])
    num_targets = len(tokens) - 1
    starts = np.arange(0, max(num_targets - window, 0) + stride, stride)
    padded = np.append(tokens, np.zeros(window + stride, tokens.dtype))
    out = np.empty(num_targets + window + stride)
    for first in range(0, len(starts), batch_size):
        chunk = starts[first : first + batch_size]
        rows = np.resize(chunk, batch_size)  # the last batch repeats rows: one compiled shape
        values = np.asarray(
            _log_probs(apply, params, padded[rows[:, None] + np.arange(window + 1)])
        )
        for start, row in zip(chunk, values):
            skipped = window - stride if start else 0
            out[start + skipped : start + window] = row[skipped:]
    return out[:num_targets]


def perplexity(log_probs: np.ndarray) -> float:
    """exp of the mean negative log-probability of [N] tokens.

    Raises:
        ValueError: for no tokens.
    """
    log_probs = np.asarray(log_probs, np.float64)
    if not log_probs.size:
        raise ValueError("log_probs are empty: expected at least one token")
    return float(np.exp(-np.mean(log_probs)))


# Traced once, for its shape and for the program.
_logits = jax.jit(lambda apply, params, tokens: apply(params, tokens), static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(apply: Apply, params: Params, tokens: Array) -> Array:
    """[B, T + 1] tokens -> [B, T] log-probabilities of the last T."""
    logits = _logits(apply, params, tokens[:, :-1])
    log_probs = jax.nn.log_softmax(logits.astype(at_least_float32(logits.dtype)))
    return jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
