"""The baselines that a language model must beat: interpolated counts of characters in context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from research.transformers import checks


def trigram_loss(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> float:
    """Mean loss of a trigram model with Witten-Bell smoothing, in nats a character.

    Args:
        train, validation: [N], [M] int tokens in [0, vocab_size).
        vocab_size: V; V^3 counts are held.
    Raises:
        ValueError: for a token outside [0, V), or fewer than three to predict one of.
    """
    checks.in_range("validation tokens", validation, vocab_size)
    if len(validation) < 3:
        raise ValueError(f"{len(validation)} validation tokens: expected at least 3")
    law = conditional(train, (-2, -1), vocab_size)
    places = np.arange(2, len(validation))
    context = contexts(validation, places, (-2, -1), vocab_size)
    return float(-np.log(law[context, validation[places]]).mean())


def conditional(train: np.ndarray, offsets: Sequence[int], vocab_size: int) -> np.ndarray:
    """p(character | those at the offsets from it), e.g. (-2, -1) or, from both sides, (-1, 1).

    p(c | h) = (n(h, c) + u(h) p(c | shorter h)) / (n(h) + u(h)), with u(h) the number of different
    characters seen in h (Witten and Bell 1991); the shorter h lacks the first offset; the last is
    the uniform law.

    Args:
        train: [N] int tokens in [0, vocab_size).
        offsets: n of them, none 0; none at all is the unigram law.
        vocab_size: V; V^(n + 1) counts are held.
    Returns:
        [V^n, V] float64, rows in the order of `contexts`.
    Raises:
        ValueError: for a token outside [0, V).
    """
    checks.in_range("tokens", train, vocab_size)
    law = np.full((1, vocab_size), 1 / vocab_size)
    for count in range(len(offsets) + 1):
        counts = _counts(train, tuple(offsets)[len(offsets) - count :], vocab_size)
        seen = (counts > 0).sum(1, keepdims=True)
        shorter = np.tile(law, (len(counts) // len(law), 1))  # by h without its first
        total = counts.sum(1, keepdims=True) + seen
        law = np.where(total > 0, (counts + seen * shorter) / np.maximum(total, 1), shorter)
    return law


def contexts(
    tokens: np.ndarray, places: np.ndarray, offsets: Sequence[int], vocab_size: int
) -> np.ndarray:
    """Which row of `conditional` each place [M] of a text [N] reads; the first offset counts most.

    Raises:
        IndexError: if an offset leads out of the text.
    """
    if len(places) and not 0 <= min(offsets, default=0) + places.min():
        raise IndexError(f"place {places.min()} has nothing at {min(offsets)}")
    index = np.zeros(len(places), np.int64)
    for offset in offsets:
        index = index * vocab_size + tokens[places + offset]
    return index


def _counts(tokens: np.ndarray, offsets: Sequence[int], vocab_size: int) -> np.ndarray:
    """[V^n, V], over all places whose context is there."""
    first, last = max(0, -min(offsets, default=0)), max(0, max(offsets, default=0))
    places = np.arange(first, len(tokens) - last)
    index = contexts(tokens, places, offsets, vocab_size) * vocab_size + tokens[places]
    counts = np.bincount(index, minlength=vocab_size ** (len(offsets) + 1))
    return counts.reshape(-1, vocab_size)
