"""The baseline that a language model must beat: interpolated character trigrams."""

from __future__ import annotations

import numpy as np


def trigram_loss(train: np.ndarray, validation: np.ndarray, vocab_size: int) -> float:
    """Mean loss of a trigram model with Witten-Bell smoothing, in nats a character.

    p(c | h) = (n(h, c) + u(h) p(c | shorter h)) / (n(h) + u(h)), with u(h) the number of different
    characters seen after h (Witten and Bell 1991), down to the uniform law.

    Args:
        train, validation: [N], [M] int tokens in [0, vocab_size).
        vocab_size: V; V^3 counts are held.
    """
    law = np.full((1, vocab_size), 1 / vocab_size)  # [contexts, V], of the shorter context
    for order in (1, 2, 3):
        counts = _counts(train, order, vocab_size)  # [V^(order-1), V]
        seen = (counts > 0).sum(1, keepdims=True)
        shorter = np.tile(law, (len(counts) // len(law), 1))  # by h without its first
        total = counts.sum(1, keepdims=True) + seen
        law = np.where(total > 0, (counts + seen * shorter) / np.maximum(total, 1), shorter)
    context = validation[:-2].astype(np.int64) * vocab_size + validation[1:-1]
    return float(-np.log(law[context, validation[2:]]).mean())


def _counts(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    index = np.zeros(len(tokens) - order + 1, np.int64)
    for offset in range(order):
        index = index * vocab_size + tokens[offset : len(tokens) - order + 1 + offset]
    counts = np.bincount(index, minlength=vocab_size**order)
    return counts.reshape(-1, vocab_size)
