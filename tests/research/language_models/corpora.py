"""A text, what is hard in one, tokenisers learned from it once, and segmentation by brute force."""

import functools

import numpy as np

from library.data import text
from research.language_models import byte_pairs_training, unigram_training

AWKWARD = (
    "I'm   here, you're\tthere: 3.14 x² ½ Ⅷ 中文 naïve e\u0301 \U0001f600\U0001f3fd\n\n  don'T 'S "
    "\u00a0\u2003 \x1c\x1d a\x85b\u200bc \ufeff\ufffd\x00 \U0001d7d8\U00020000 \u0660\u0e01 "
)


@functools.cache
def prose(num_characters=60_000):
    return text.pydoc_topics()[:num_characters]


@functools.cache
def byte_pairs():
    """900 tokens of 120,000 characters."""
    return byte_pairs_training.train(byte_pairs_training.count_words([prose(120_000)]), 900)


@functools.cache
def unigram():
    """500 pieces of 60,000 characters."""
    return unigram_training.train(unigram_training.count_words([prose()]), 500)


def random_pieces(rng, letters="abc", size=14):
    pieces = {"".join(rng.choice(list(letters), rng.integers(2, 5))) for _ in range(size)}
    pieces = sorted(set(letters) | pieces)
    return pieces, np.log(rng.dirichlet(np.ones(len(pieces))))


def segmentations(string, pieces):
    """All ways to write a string as pieces, by brute force."""
    if not string:
        return [[]]
    return [
        [piece, *rest]
        for piece in pieces
        if string.startswith(piece)
        for rest in segmentations(string[len(piece) :], pieces)
    ]
