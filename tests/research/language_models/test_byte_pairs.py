"""Byte pairs: exact round trips, the plain algorithm, the library's merges, GPT-2's vectors."""

import hashlib
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from library.data import text
from research.language_models import byte_pairs, byte_pairs_training, pretokens
from research.language_models.tokenizers import to_libraries

AWKWARD = (
    "I'm   here, you're\tthere: 3.14 x² ½ Ⅷ 中文 naïve e\u0301 \U0001f600\U0001f3fd\n\n  don'T 'S "
    "\u00a0\u2003 \x1c\x1d a\x85b\u200bc \ufeff\ufffd\x00 \U0001d7d8\U00020000 \u0660\u0e01 "
)


@pytest.fixture(scope="module")
def corpus():
    return text.pydoc_topics()[:120_000]


@pytest.fixture(scope="module")
def trained(corpus):
    return byte_pairs_training.train(byte_pairs_training.count_words([corpus]), 900)


@pytest.fixture(scope="module")
def gpt2(ansatz_data):
    folder = ansatz_data / "tokenizers" / "gpt2"
    return byte_pairs.from_gpt2(text.read(folder / "encoder.json"), text.read(folder / "vocab.bpe"))


def test_pretokens_are_those_of_the_library():
    """Code points that this Python and the library both know, in six surroundings each."""
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(0x3000), rng.choice(0x20000, 4000, replace=False)])
    known = [chr(c) for c in codes if not 0xD800 <= c < 0xE000 and _is_old(chr(c))]
    sample = AWKWARD + "".join(f"{c}a {c}{c}1 {c}\n{c}" for c in known)
    theirs = [sample[i:j] for _, (i, j) in library.pre_tokenize_str(sample)]
    assert pretokens.split(sample) == theirs
    assert "".join(pretokens.split(sample)) == sample


def _is_old(character):
    """Whether Unicode 3.2 had the character already in its present category."""
    import unicodedata

    old = unicodedata.ucd_3_2_0.category(character)
    return old != "Cn" and old[0] == unicodedata.category(character)[0]


def test_every_byte_string_comes_back(trained):
    rng = np.random.default_rng(1)
    for size in (0, 1, 2, 3, 50, 3000):
        raw = rng.integers(0, 256, size).astype(np.uint8).tobytes()
        assert trained.decode_bytes(trained.encode(raw)) == raw
    for raw in [bytes([byte]) for byte in range(256)] + ["é😀".encode()[i:] for i in range(6)]:
        assert trained.decode_bytes(trained.encode(raw)) == raw
    assert trained.decode(trained.encode(AWKWARD)) == AWKWARD
    assert trained.encode(AWKWARD).tolist() == trained.encode(AWKWARD.encode()).tolist()


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


def test_merges_are_those_of_the_library(trained, corpus):
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


def test_encodings_are_those_of_the_library(trained, corpus):
    library = to_libraries.to_tokenizers(trained)
    for sample in (corpus[:20_000], AWKWARD, "a" * 3001, " " * 17, ""):
        assert trained.encode(sample).tolist() == library.encode(sample).ids
        assert library.decode(trained.encode(sample).tolist()) == sample


def test_fewer_tokens_are_a_prefix(trained, corpus):
    small = byte_pairs_training.train(byte_pairs_training.count_words([corpus]), 400)
    cut = trained.truncated(400)
    assert (cut.tokens, cut.merges) == (small.tokens, small.merges)


def test_gpt2_vectors(gpt2, ansatz_data):
    assert (len(gpt2), len(gpt2.merges)) == (50_257, 50_000)
    vectors = json.loads((ansatz_data / "tokenizers/gpt2/test_vectors.json").read_text())["vectors"]
    assert len(vectors) == 40
    for vector in vectors:
        assert gpt2.encode(vector["text"]).tolist() == vector["ids"]
        assert gpt2.decode(vector["ids"]) == vector["text"]
    assert gpt2.tokens[:256] == tuple(bytes([byte]) for byte in byte_pairs.BYTE_ORDER)
    assert gpt2.encode("<|endoftext|>").tolist() != [50_256]
    assert gpt2.decode([50_256]) == "<|endoftext|>"


def test_gpt2_on_tiny_shakespeare(gpt2, ansatz_data):
    whole = text.read(ansatz_data / "text/tinyshakespeare.txt")
    published = json.loads((ansatz_data / "tokenizers/gpt2/test_vectors.json").read_text())
    ids = gpt2.encode(whole)
    cut = len(whole) * 9 // 10
    assert [len(ids), *(len(gpt2.encode(part)) for part in (whole[:cut], whole[cut:]))] == [
        338_025,
        301_966,
        36_059,
    ]
    digest = hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
    assert digest == published["tinyshakespeare"]["sha256_of_int32_little_endian_ids"]


def test_bad_input(trained):
    for broken, message in [
        (lambda: byte_pairs_training.train({b"a": 1}, 255), "vocab_size=255"),
        (lambda: byte_pairs_training.train({}, 300), "counts are empty"),
        (lambda: byte_pairs_training.train({b"a": 1}, 300, min_count=0), "min_count=0"),
        (lambda: trained.decode([3, 900]), "token 900 is outside the vocabulary of 900"),
        (lambda: trained.decode([-1]), "token -1 is outside"),
        (lambda: trained.decode([0.5]), "expected integers"),
        (lambda: trained.encode("a\ud800"), r"lone surrogate U\+D800 at 1"),
        (lambda: trained.truncated(255), "vocab_size=255"),
        (lambda: byte_pairs.BytePairs(trained.tokens[1:], ()), "byte 0x21 is not in"),
        (lambda: byte_pairs.BytePairs((*trained.tokens, b"a"), ()), "b'a' is in the vocabulary tw"),
        (lambda: byte_pairs.BytePairs(trained.tokens[:256], ((0, 1),)), "result is not in"),
        (lambda: byte_pairs.BytePairs(trained.tokens, ((0, 900),)), "not tokens below 900"),
        (lambda: byte_pairs.from_gpt2("[1]", ""), "no table of tokens"),
        (lambda: byte_pairs.from_gpt2('{"a": 0, "b": 2}', ""), "numbers 0 to 1"),
        (lambda: byte_pairs.from_gpt2('{"a": 0}', "#version\na b"), "line 2: 'a b'"),
        (lambda: byte_pairs.from_gpt2('{" ": 0}', ""), "stands for no byte"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
