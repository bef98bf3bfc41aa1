"""Tokenisers handed to the library `tokenizers` encode there as they do here."""

import dataclasses

import numpy as np
import pytest

from research.language_models.tokenizers import to_libraries, unigram
from tests.research.language_models import corpora
from tests.research.language_models.corpora import AWKWARD


def test_byte_pairs_encode_and_decode_the_same():
    trained, corpus = corpora.byte_pairs(), corpora.prose(120_000)
    library = to_libraries.to_tokenizers(trained)
    for sample in (corpus[:20_000], AWKWARD, "a" * 3001, " " * 17, ""):
        assert trained.encode(sample).tolist() == library.encode(sample).ids
        assert library.decode(trained.encode(sample).tolist()) == sample


def test_unigram_pieces_encode_the_same():
    trained, corpus = corpora.unigram(), corpora.prose()
    library = to_libraries.unigram_to_tokenizers(trained)
    for sample in (corpus[:3000], "unseen é中文 characters", ""):
        assert trained.encode(sample).tolist() == library.encode(trained.normalize(sample)).ids


def test_a_split_that_the_library_does_not_know_is_refused():
    other = dataclasses.replace(corpora.byte_pairs(), split=str.split)
    with pytest.raises(ValueError, match="expected pretokens.split"):
        to_libraries.to_tokenizers(other)


def test_controls_and_unused_pieces_are_in_no_text():
    """As here, so there: a text that spells the name of a control is cut into other pieces."""
    pieces = ("<unk>", "<s>", "\u2581", "a", "<", "s", ">", "unu", "n", "u")
    scores = np.array([0, 0, -1, -2, -3, -3, -3, -0.5, -3, -3.0])
    given = unigram.Unigram(pieces, scores, controls=frozenset({1}), unused=frozenset({7}))
    library = to_libraries.unigram_to_tokenizers(given)
    for text, tokens in [("a<s>", [2, 3, 4, 5, 6]), ("unu", [2, 9, 8, 9]), ("zz", [2, 0])]:
        assert given.encode(text).tolist() == tokens
        assert library.encode(given.normalize(text)).ids == tokens
