"""What the host can check before anything is compiled: tokens, positions and slots in their range.

Under jit numbers are not known, and nothing here looks at them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.attention import cache as caches


def in_range(name: str, values: Any, end: int, counts: Any = True) -> None:
    """Raises ValueError for a concrete value outside [0, end) that counts.

    Args:
        name: of the values, for the message.
        values: int, any shape.
        end: one more than the largest; e.g. the size of the vocabulary.
        counts: bool that broadcasts to `values`.
    """
    if isinstance(values, jax.core.Tracer) or isinstance(counts, jax.core.Tracer):
        return
    values = np.asarray(values)
    wrong = ((values < 0) | (values >= end)) & np.asarray(counts)
    if wrong.any():
        raise ValueError(f"{name}: {values[wrong][0]} is outside [0, {end})")


def tokens(
    name: str,
    given: Array,
    vocab_size: int,
    max_length: int | None = None,
    positions: Array | None = None,
) -> None:
    """Raises ValueError unless they are int [B, T], in the vocabulary, and have a place each.

    Args:
        name: of the tokens, for the message.
        given: a token at a negative position is padding and may be any number.
        vocab_size: V.
        max_length: rows of a table of positions.
        positions: [B or 1, T] int; 0, 1, ... when None.
    """
    if given.ndim != 2 or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"{name} {given.dtype}{list(given.shape)}: expected int [B, T]")
    if max_length is not None and given.shape[1] > max_length:
        raise ValueError(f"{given.shape[1]} tokens: the model has {max_length} positions")
    there = True if positions is None else _filled(positions)
    in_range(name, given, vocab_size, there)
    if max_length is not None and positions is not None:
        in_range("positions", positions, max_length, there)


def cache_slots(cache: Any, slots: Array | None) -> None:
    """Raises ValueError for a cache without slots, or a concrete slot beyond its last one."""
    if cache is None:
        return
    if slots is None:
        raise ValueError("a cache needs the positions of the new tokens")
    capacity = caches.capacity(cache)
    if capacity is not None:
        in_range("slots", slots, capacity, _filled(slots))


def _filled(places: Array) -> Any:
    """Where they are not negative; of NumPy if they are known, also while something is traced."""
    return places >= 0 if isinstance(places, jax.core.Tracer) else np.asarray(places) >= 0
