"""SentencePiece's files: its own model and library, and messages written here byte by byte."""

import io
import json
import pydoc_data.topics
import struct

import numpy as np
import pytest
import sentencepiece

from research.language_models import sentencepiece_file, unigram


@pytest.fixture(scope="module")
def published(ansatz_data):
    folder = ansatz_data / "tokenizers" / "sentencepiece"
    return (
        sentencepiece_file.parse((folder / "test_model.model").read_bytes()),
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "test_model.model")),
        json.loads((folder / "test_vectors.json").read_text(encoding="utf-8"))["vectors"],
    )


def test_sentencepiece_vectors(published):
    ours, _, vectors = published
    assert (len(ours), len(vectors)) == (1000, 26)
    for vector in vectors:
        path = ours.segment(vector["text"])
        assert [token for token, _ in path] == vector["ids"]
        assert [piece for _, piece in path] == vector["pieces"]
        assert ours.decode(vector["ids"]) == vector["decoded"]


def test_sentencepiece_normalisation(published):
    """Every assigned character of the basic plane alone, compatibility forms and control codes."""
    ours, library, _ = published
    for code in [*range(1, 0xD800, 7), *range(0xF900, 0x10000), 0x1F600, 0x1D400, 0x2F800]:
        sample = f"a{chr(code)} b"
        assert ours.encode(sample).tolist() == library.encode(sample), hex(code)
        assert ours.normalize(sample) == library.normalize(sample).replace(" ", unigram.SPACE), hex(
            code
        )


def trained(**options):
    """A model of 120 pieces by the library: ours and the library's reading, and its bytes."""
    out = io.BytesIO()
    lines = pydoc_data.topics.topics["assignment"].split("\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, minloglevel=2,
        **{"model_type": "unigram", "vocab_size": 120, **options},
    )  # fmt: skip
    return out.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"unk_surface": "??"},
        {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
        {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
        {"add_dummy_prefix": False, "normalization_rule_name": "nmt_nfkc_cf", "unk_surface": ""},
    ],
)
def test_what_a_file_may_say_is_what_the_library_does(options):
    """Random texts of spaces, U+2581 itself and compatibility forms; random tokens back."""
    content = trained(**options)
    ours = sentencepiece_file.parse(content)
    library = sentencepiece.SentencePieceProcessor(model_proto=content)
    rng, letters = np.random.default_rng(0), [*"ab eT", " ", "\u2581", "\u3000", "\ufb01", "\u2603"]
    space = library.piece_to_id("\u2581")
    for _ in range(300):
        sample = "".join(rng.choice(letters, rng.integers(10)))
        assert ours.encode(sample).tolist() == library.encode(sample), sample
        tokens = [space] * rng.integers(3) + rng.integers(0, 120, rng.integers(6)).tolist()
        assert ours.decode(tokens) == library.decode(tokens), tokens


def test_a_block_character_at_an_end_is_a_space():
    ours = sentencepiece_file.parse(trained(normalization_rule_name="identity"))
    assert ours.normalize("x\u2581") == "\u2581x" and ours.normalize("\u2581x") == "\u2581\u2581x"
    assert ours.normalize("a\u2581\u2581b") == "\u2581a\u2581\u2581b"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix=True is not supported"),
        ({"byte_fallback": True, "vocab_size": 400}, "byte_fallback=True is not supported"),
        ({"user_defined_symbols": ["<sep>"]}, r"type 4 \(user-defined\)"),
        ({"model_type": "bpe"}, r"model_type 2 \(bpe\)"),
        ({"model_type": "char", "vocab_size": 60, "hard_vocab_limit": False}, r"4 \(char\)"),
    ],
)
def test_flags_that_are_not_followed_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        sentencepiece_file.parse(trained(**options))


def field(number, value):
    """One field of a protocol buffer: an int, a float or bytes (all lengths below 128)."""
    key = number << 3 | (0 if isinstance(value, int) else 5 if isinstance(value, float) else 2)
    key = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    if isinstance(value, int):
        return key + bytes([value])
    if isinstance(value, float):
        return key + struct.pack("<f", value)
    return key + bytes([len(value)]) + value


def model_file(kinds=(2, 1, 3), model_type=1, spaces=(1, 1), escape=1, end=b""):
    names = ("<unk>", "\u2581a", "</s>")
    pieces = [
        field(1, field(1, name.encode()) + field(2, -float(index)) + field(3, kind))
        for index, (name, kind) in enumerate(zip(names, kinds))
    ]
    spec = field(3, spaces[0]) + field(4, spaces[1]) + field(5, escape)
    return b"".join(pieces) + field(2, field(3, model_type)) + field(3, spec) + end


def test_a_message_written_by_hand():
    made = sentencepiece_file.parse(model_file())
    assert made.pieces == ("<unk>", "\u2581a", "</s>") and made.scores.tolist() == [0, -1, -2]
    assert made.unknown == 0 and made.controls == {2}
    assert made.normalize("  a  b ") == "\u2581a\u2581b"
    plain = sentencepiece_file.parse(model_file(spaces=(0, 0))).normalize
    assert plain(" a  b ") == "\u2581a\u2581\u2581b\u2581"


def test_unused_pieces_are_read_but_never_written():
    made = sentencepiece_file.parse(model_file(kinds=(2, 5, 3)))
    library = sentencepiece.SentencePieceProcessor(model_proto=model_file(kinds=(2, 5, 3)))
    assert made.controls == {2} and made.unused == {1}
    assert made.encode("a").tolist() == library.encode("a") == [0]
    assert made.decode([0, 1, 2]) == library.decode([0, 1, 2]) == " \u2047  a"


def test_treatment_of_spaces_and_an_empty_text():
    normalize = sentencepiece_file.normalizer
    assert normalize(b"")(" a  b ") == "\u2581a\u2581b"
    assert normalize(b"", add_space=False)(" a  b ") == "a\u2581b"
    assert normalize(b"", remove_extra_spaces=False)("a  b") == "\u2581a\u2581\u2581b"
    assert normalize(b"")("") == ""


def test_bad_files_are_named():
    parse = sentencepiece_file.parse
    for broken, message in [
        (lambda: parse(model_file()[:-1]), "no SentencePiece model"),
        (lambda: parse(b"\x00\x01\x02"), "no SentencePiece model"),
        (lambda: parse(b"\x0b\x01"), "wire type 3 at byte 1"),
        (lambda: parse(b""), "no SentencePiece model"),
        (lambda: parse(model_file(kinds=(1, 1, 1))), "no unknown among 3 pieces"),
        (lambda: parse(model_file(model_type=2)), "model_type 2"),
        (lambda: parse(model_file(kinds=(2, 4, 3))), "pieces of type 4"),
        (lambda: parse(model_file(kinds=(2, 6, 3))), r"pieces of type 6 \(bytes\)"),
        (lambda: parse(model_file(kinds=(2, 2, 3))), r"2 pieces of type 2 \(unknown\)"),
        (lambda: parse(model_file(escape=0)), "escape_whitespaces=False is not supported"),
        (lambda: parse(model_file(end=field(5, field(2, b"abc")))), "denormalizer_spec"),
        (lambda: sentencepiece_file.normalizer(b"\xff\xff\xff\x00ab"), "cannot hold a trie"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_a_file_cut_short_is_none(ansatz_data):
    raw = (ansatz_data / "tokenizers/sentencepiece/test_model.model").read_bytes()
    with pytest.raises(ValueError, match="no SentencePiece model"):
        sentencepiece_file.parse(raw[:-1])
