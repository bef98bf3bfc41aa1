"""Unigram pieces: Viterbi against brute force, what is unknown, how spaces come back."""

import functools

import numpy as np
import pytest

from research.language_models import unigram
from tests.research.language_models import corpora


@pytest.mark.parametrize("seed", range(5))
def test_viterbi_is_the_best_of_all_segmentations(seed):
    rng = np.random.default_rng(seed)
    pieces, scores = corpora.random_pieces(rng)
    score = dict(zip(pieces, scores))
    tokenizer = unigram.Unigram(("<unk>", *pieces), np.append(0, scores), normalize=lambda t: t)
    for _ in range(20):
        string = "".join(rng.choice(list("abc"), rng.integers(1, 9)))
        values = [sum(score[p] for p in way) for way in corpora.segmentations(string, pieces)]
        path, value = tokenizer.viterbi(string)
        assert "".join(part for _, part in path) == string
        np.testing.assert_allclose(value, max(values), rtol=1e-12)
        np.testing.assert_allclose(sum(score[part] for _, part in path), value, rtol=1e-12)


def test_what_no_piece_covers_is_one_unknown_token_and_controls_are_never_met():
    """Number 2 is unknown, 3 a control: its letters are unknown to the text, and decode to none."""
    pieces = ("\u2581a", "b", "?", "<s>", "\u2581")
    tokenizer = unigram.Unigram(pieces, np.log([0.4, 0.2, 0.1, 0.1, 0.2]), 2, frozenset({3}))
    assert tokenizer.segment("ab zzb") == [
        (0, "\u2581a"), (1, "b"), (4, "\u2581"), (2, "zz"), (1, "b"),
    ]  # fmt: skip
    assert tokenizer.encode("<s>").tolist() == [4, 2]
    assert tokenizer.decode([3, 0, 1, 4, 2, 1]) == "ab  \u2047 b"
    assert tokenizer.decode(iter([0, 1])) == "ab"


def test_leading_spaces_unused_pieces_and_what_stands_for_the_unknown():
    """One space less, all that stand alone less, none less; number 2 is unknown, 3 unused."""
    pieces = ("\u2581a", "\u2581", "?", "b")
    make = functools.partial(
        unigram.Unigram, pieces, np.zeros(4), 2, unused=frozenset({3}), unknown_text="!"
    )
    for leading, text in (("drop one", " a b! a"), ("drop", "a b! a"), ("keep", "  a b! a")):
        assert make(leading_spaces=leading).decode([1, 0, 1, 3, 2, 0]) == text
    assert make().segment("b") == [(1, "\u2581"), (2, "b")]


def test_bad_input():
    for broken, message in [
        (lambda: corpora.unigram().decode([500]), "token 500 is outside the vocabulary of 500"),
        (lambda: unigram.Unigram(("a", "a"), np.zeros(2)), "'a' is empty or in the vocabulary tw"),
        (lambda: unigram.Unigram(("a",), np.zeros(2)), r"shape \(2,\) for 1 pieces"),
        (lambda: unigram.Unigram(("a",), np.zeros(1), unknown=1), "unknown=1"),
        (
            lambda: unigram.Unigram(("a",), np.zeros(1), leading_spaces="all"),
            "leading_spaces='all'",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
    with pytest.raises(TypeError, match="text of type bytes: expected str"):
        corpora.unigram().encode(b"a")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scores": np.array([0.0, np.nan])}, "score nan of token 1: expected a number"),
        ({"scores": np.array([0.0, np.inf])}, "score inf of token 1: expected a number"),
        ({"controls": frozenset({2})}, "controls=2: expected a token below 2"),
        ({"unused": frozenset({-1})}, "unused=-1: expected a token below 2"),
    ],
)
def test_scores_and_kinds_of_pieces_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        unigram.Unigram(**{"pieces": ("<unk>", "a"), "scores": np.array([0.0, -1.0]), **options})
    unigram.Unigram(("<unk>", "a"), np.array([np.nan, -1.0]))  # that of the unknown is unused
