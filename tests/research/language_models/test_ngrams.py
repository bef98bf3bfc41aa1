"""Counts of characters against the recursion written out."""

import itertools

import numpy as np
import pytest

from research.language_models import ngrams


@pytest.mark.parametrize("offsets", [(), (-2, -1), (-1, 1)])
def test_counts_are_witten_bell_by_hand(offsets):
    """Every law sums to 1 and equals the recursion written out with dictionaries."""
    train = np.random.default_rng(0).integers(0, 4, 300)
    train[train == 3] = 0  # a character that is never seen
    law = ngrams.conditional(train, offsets, 4)
    np.testing.assert_allclose(law.sum(1), 1, rtol=1e-12)

    def by_hand(context):
        if len(context) == 0:
            shorter = np.full(4, 0.25)
        else:
            shorter = by_hand(context[1:])
        mine = offsets[len(offsets) - len(context) :]
        places = [
            i
            for i in range(300)
            if all(0 <= i + o < 300 for o in mine)
            and all(train[i + o] == c for o, c in zip(mine, context))
        ]
        counts = np.bincount(train[places], minlength=4) if places else np.zeros(4)
        kinds = (counts > 0).sum()
        return (counts + kinds * shorter) / (counts.sum() + kinds) if kinds else shorter

    for row, context in enumerate(itertools.product(range(4), repeat=len(offsets))):
        np.testing.assert_allclose(law[row], by_hand(context), rtol=1e-12)
    place = np.array([7])
    row = law[ngrams.contexts(train, place, offsets, 4)[0]]
    np.testing.assert_allclose(row, by_hand([train[7 + o] for o in offsets]), rtol=1e-12)
    if offsets:
        with pytest.raises(IndexError, match="place 0"):
            ngrams.contexts(train, np.array([0]), offsets, 4)


def test_characters_beyond_the_vocabulary_are_named():
    good, bad = np.array([0, 1, 2, 3]), np.array([0, 1, 4, 3])
    for train, validation, message in (
        (bad, good, r"tokens: 4 is outside \[0, 4\)"),
        (good, -bad, "validation tokens: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ngrams.trigram_loss(train, validation, 4)
    with pytest.raises(ValueError, match="2 validation tokens: expected at least 3"):
        ngrams.trigram_loss(np.array([0, 1, 0]), np.array([0, 1]), 2)
