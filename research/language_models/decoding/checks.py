"""What is checked on the host before anything is compiled: prompts, vocabulary, room in a cache.

Under jit numbers are not known; then only shapes are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library import checks as counts
from library.types import Array, Params, PyTree
from research.attention import cache as attention_caches
from research.language_models.decoding import caches
from research.transformers import checks


def arrays(*given: Any) -> list[Any]:
    """Lists and numbers as NumPy arrays, arrays as they are: integers keep all of their digits."""
    return [x if hasattr(x, "shape") else np.asarray(x) for x in given]


def prompts(given: Array, lengths: Array, num_tokens: int) -> np.ndarray:
    """How long each row may be, [B] int: its prompt, or T where lengths are not known.

    Raises:
        ValueError: for prompts that are not int [B, T], lengths that are not int [B] in 1 ... T,
            or a number of tokens to add that is no positive whole number.
    """
    if given.ndim != 2 or lengths.shape != given.shape[:1] or not given.size:
        raise ValueError(
            f"prompts {given.shape} with prompt_lengths {lengths.shape}: expected [B, T] and [B]"
        )
    integers("prompts", given)
    integers("prompt_lengths", lengths)
    counts.count("num_tokens", num_tokens)
    if isinstance(lengths, jax.core.Tracer):
        return np.full(given.shape[0], given.shape[1])
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > given.shape[1]:
        raise ValueError(f"prompt_lengths from {low} to {high}: expected 1 to {given.shape[1]}")
    return np.asarray(lengths)


def integers(name: str, given: Array) -> None:
    """Raises ValueError for an array of anything but integers."""
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"{name} of type {given.dtype}: expected integers")


def room(
    step: Any,
    cache: PyTree,
    needed: np.ndarray,
    capacity: int | None = None,
    fed: int = 1,
    taken_back: int = 0,
) -> None:
    """Raises ValueError if a row needs more positions than the cache or the model's table holds.

    Args:
        step: a decoder; of `generation.DecoderStep` table and window are known.
        cache: any; of caches that follow `attention.cache.Cache` the capacity is known.
        needed: [B] int, positions that are written of each row.
        capacity: of what else has one; None for nothing.
        fed: the most tokens that are fed at once.
        taken_back: drafts that may be rejected at once.
    """
    most = int(needed.max())
    places = getattr(step, "max_length", None)
    for size, what in (
        (capacity, "the cache holds"),
        (attention_caches.capacity(cache), "the cache holds"),
        (places, "the model has"),
    ):
        if size is not None and most > size:
            raise ValueError(f"{what} {size} positions: {most} are needed")
    for part in _of_kind(cache, caches.Paged):
        _check_pages(part, needed)
    for part in _of_kind(cache, caches.Ring):
        slots = part.positions.shape[-1]
        if most > slots and hasattr(step, "window"):
            window = step.window
            if window is None:
                raise ValueError(
                    f"a ring of {slots} slots forgets, and the model sees all: {most} are needed"
                )
            least = min(most, window + fed - 1 + taken_back)
            if slots < least:
                raise ValueError(
                    f"a ring of {slots} slots under a window of {window}: {least} are needed to "
                    f"feed {fed} tokens at once"
                )


def vocabulary(
    size: int, tokens: Any, there: Any = True, name: str = "prompts", stop_token: int | None = None
) -> None:
    """Raises ValueError for a token, or a stop token, outside 0 ... V - 1.

    Args:
        size: V.
        tokens: int, any shape.
        there: bool that broadcasts to it: which of them count.
        name: of the tokens, for the message.
        stop_token: None for none.
    """
    checks.in_range(name, tokens, size, there)
    if stop_token is not None:
        if isinstance(stop_token, bool) or not isinstance(stop_token, int | np.integer):
            raise ValueError(f"stop_token={stop_token}: expected one integer, or None")
        checks.in_range("stop_token", stop_token, size)


def vocab_size(step: Callable, params: Params, cache: PyTree, tokens: Array) -> int:
    """V of a decoder, without running it; tokens [B, T]."""
    known = getattr(step, "vocab_size", None)
    if known is not None:
        return known
    shape = jax.ShapeDtypeStruct(tokens.shape, jnp.int32)
    return _run.eval_shape(step, params, cache, shape, shape)[0].shape[-1]


# Of this the shapes are kept, so that a second call with equal ones traces nothing.
_run = jax.jit(
    lambda step, params, cache, tokens, positions: step(params, cache, tokens, positions),
    static_argnums=0,
)


def _check_pages(cache: caches.Paged, needed: np.ndarray) -> None:
    """ValueError for a row that has fewer pages than it needs, where the table is known."""
    if isinstance(cache.table, jax.core.Tracer):
        return
    table, size = np.asarray(cache.table), cache.positions.shape[-1]
    held = size * (table.reshape(-1, *table.shape[-2:]) >= 0).sum(-1).min(0)  # [B]
    short = np.flatnonzero(held < needed)
    if len(short):
        row = short[0]
        raise ValueError(
            f"row {row} has pages for {held[row]} positions: {np.ravel(needed)[row]} are needed"
        )


def _of_kind(cache: PyTree, kind: type) -> list:
    leaves = jax.tree.leaves(cache, is_leaf=lambda leaf: isinstance(leaf, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]
