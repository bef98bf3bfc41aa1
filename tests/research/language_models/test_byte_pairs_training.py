"""Learning byte pairs: the plain algorithm, and the merges of the library `tokenizers`."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from research.language_models import byte_pairs, byte_pairs_training
from tests.research.language_models import corpora


@pytest.mark.parametrize("seed", range(8))
def test_training_is_the_plain_algorithm(seed):
    """All counts anew before each merge; few letters, so that ties and overlaps abound."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("ab"), rng.integers(1, 9))) for _ in range(40)]
    counts = byte_pairs_training.count_words([" ".join(words)])
    tokenizer = byte_pairs_training.train(counts, 280)
    number = {byte: index for index, byte in enumerate(byte_pairs.BYTE_ORDER)}
    split = [([number[byte] for byte in word], count) for word, count in counts.items()]
    for merge in tokenizer.merges:
        pairs = {}
        for word, count in split:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + count
        assert merge == min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = tokenizer.ids[tokenizer.tokens[merge[0]] + tokenizer.tokens[merge[1]]]
        for word, _ in split:
            for i in range(len(word) - 1):
                if tuple(word[i : i + 2]) == merge:
                    word[i : i + 2] = [new]


def test_merges_are_those_of_the_library():
    trained, corpus = corpora.byte_pairs(), corpora.prose(120_000)
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([corpus], trainer)
    names = [byte_pairs.shown(token) for token in trained.tokens]
    learned = json.loads(library.to_str())["model"]
    assert learned["vocab"] == {name: index for index, name in enumerate(names)}
    assert [tuple(pair) for pair in learned["merges"]] == [
        (names[left], names[right]) for left, right in trained.merges
    ]


def test_pairs_below_the_least_count_do_not_merge_and_the_split_is_kept():
    """With words by white space alone: "ab" occurs 3 times, "abc" twice, "de" once."""
    counts = byte_pairs_training.count_words(["ab abc", "abc de"], split=str.split)
    assert counts == {b"ab": 1, b"abc": 2, b"de": 1}
    made = {
        least: byte_pairs_training.train(counts, 300, min_count=least, split=str.split)
        for least in (1, 2, 3, 4)
    }
    new = {least: tokenizer.tokens[256:] for least, tokenizer in made.items()}
    assert new == {1: (b"ab", b"abc", b"de"), 2: (b"ab", b"abc"), 3: (b"ab",), 4: ()}
    assert made[1].split is str.split
    assert made[1].decode(made[1].encode("de abc")) == "deabc"  # this split leaves spaces out


def test_bad_input():
    for broken, message in [
        (lambda: byte_pairs_training.train({b"a": 1}, 255), "vocab_size=255"),
        (lambda: byte_pairs_training.train({}, 300), "counts are empty"),
        (lambda: byte_pairs_training.train({b"a": 1}, 300, min_count=0), "min_count=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_a_text_in_place_of_its_counts_is_named():
    with pytest.raises(TypeError, match="counts of type str: expected a mapping"):
        byte_pairs_training.train("a text", 300)


def test_one_text_is_not_many():
    """Its characters would be counted, each alone, and nothing would merge."""
    with pytest.raises(TypeError, match="texts is one str"):
        byte_pairs_training.count_words("a text")


def test_counts_are_whole_numbers():
    counts = byte_pairs_training.count_words(["abab"])
    with pytest.raises(ValueError, match="vocab_size=300.0: expected a positive whole number"):
        byte_pairs_training.train(counts, 300.0)
    with pytest.raises(ValueError, match="min_count=1.5: expected a positive whole number"):
        byte_pairs_training.train(counts, 300, min_count=1.5)
