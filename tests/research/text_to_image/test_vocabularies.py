"""Vocabularies of small worlds: whole words as tokens, the published algorithm's merges."""

import numpy as np
import pytest

from library.data import shapes
from research.text_to_image import tokens, vocabularies


def test_every_word_of_the_scenes_is_one_token():
    texts = [shapes.caption(shapes.scene(index)) for index in range(400)]
    tokenizer = vocabularies.learn(texts, max_length=20)
    words = {word.strip(",") for text in texts for word in text.split()}
    assert len(words) > 25
    for word in words:
        (row,) = tokenizer.encode([word])
        assert row.tolist()[:3] == [
            tokenizer.ids[tokens.START], tokenizer.ids[word + "</w>"], tokenizer.ids[tokens.END],
        ]  # fmt: skip
    assert tokenizer.max_length == 20
    assert tokenizer.decode(tokenizer.encode(["A Red circle, unheard of"])) == [
        "a red circle , unheard of"
    ]


def test_merges_are_those_of_the_published_example():
    """Sennrich et al. 2016, section 3.2's words; ties go by the alphabet."""
    texts = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    tokenizer = vocabularies.learn(texts, most=4)
    # e s 9, es t</w> 9, then l o 7, lo w 2 + lo w</w> 5: n e and w est</w> tie at 6
    assert tokenizer.merges == (("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w"))
    assert len(tokenizer) == 512 + 4 + 2
    whole = vocabularies.learn(texts)
    for word in ("low", "lower", "newest", "widest"):
        assert whole.encode([word])[0, 1] == whole.ids[word + "</w>"]


def test_one_token_reached_in_two_ways_is_there_once():
    tokenizer = vocabularies.learn(["abc", "abd", "xbc"] * 2 + ["abc"])
    assert len(set(tokenizer.vocabulary)) == len(tokenizer.vocabulary)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vocabularies.learn([]), "texts hold no word"),
        (lambda: vocabularies.learn([" "]), "texts hold no word"),
        (lambda: vocabularies.learn(["a"], most=0), "most=0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bytes_that_no_text_had():
    tokenizer = vocabularies.learn(["a"])
    np.testing.assert_array_equal(tokenizer.decode(tokenizer.encode(["日本 é"])), ["日本 é"])
