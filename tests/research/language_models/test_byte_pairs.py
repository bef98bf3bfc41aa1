"""Byte pairs: exact round trips, GPT-2's published vectors and counts, bad vocabularies."""

import hashlib
import json

import numpy as np
import pytest

from library.data import text
from research.language_models import byte_pairs, byte_pairs_training
from tests.research.language_models import corpora
from tests.research.language_models.corpora import AWKWARD


@pytest.fixture(scope="module")
def gpt2(ansatz_data):
    folder = ansatz_data / "tokenizers" / "gpt2"
    return byte_pairs.from_gpt2(text.read(folder / "encoder.json"), text.read(folder / "vocab.bpe"))


def test_every_byte_string_comes_back():
    trained = corpora.byte_pairs()
    rng = np.random.default_rng(1)
    for size in (0, 1, 2, 3, 50, 3000):
        raw = rng.integers(0, 256, size).astype(np.uint8).tobytes()
        assert trained.decode_bytes(trained.encode(raw)) == raw
    for raw in [bytes([byte]) for byte in range(256)] + ["é😀".encode()[i:] for i in range(6)]:
        assert trained.decode_bytes(trained.encode(raw)) == raw
    assert trained.decode(trained.encode(AWKWARD)) == AWKWARD
    assert trained.encode(AWKWARD).tolist() == trained.encode(AWKWARD.encode()).tolist()


def test_fewer_tokens_are_a_prefix():
    counts = byte_pairs_training.count_words([corpora.prose(120_000)])
    small = byte_pairs_training.train(counts, 400)
    cut = corpora.byte_pairs().truncated(400)
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


def test_printable_forms_are_one_character_a_byte():
    every = bytes(range(256))
    assert byte_pairs.unshown(byte_pairs.shown(every)) == every
    assert len(byte_pairs.shown(every)) == len(set(byte_pairs.shown(every))) == 256
    assert byte_pairs.shown(b" a\n") == "\u0120a\u010a"  # as in GPT-2's files


def test_tokens_from_any_iterable_and_text_from_any_bytes():
    trained = corpora.byte_pairs()
    for tokens in (iter([70, 71]), (n for n in (70, 71)), {70: 0, 71: 0}, np.array([70, 71])):
        assert trained.decode(tokens) == trained.decode([70, 71])
    assert trained.decode(iter([])) == trained.decode(np.zeros(0)) == ""
    for given in (bytearray(b"a \xff"), memoryview(b"a \xff")):
        np.testing.assert_array_equal(trained.encode(given), trained.encode(b"a \xff"))
    with pytest.raises(TypeError, match="text of type int: expected str"):
        trained.encode(7)


def test_bad_input():
    trained = corpora.byte_pairs()
    for broken, message in [
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
