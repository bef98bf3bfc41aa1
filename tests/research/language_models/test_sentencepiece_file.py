"""SentencePiece's files: its own model and library, and messages written here byte by byte."""

import json
import struct

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


def field(number, value):
    """One field of a protocol buffer: an int, a float or bytes (all lengths below 128)."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3 | 2, len(value)]) + value


def model_file(kinds=(2, 1, 3), model_type=1, spaces=(1, 1)):
    names = ("<unk>", "\u2581a", "</s>")
    pieces = [
        field(1, field(1, name.encode()) + field(2, -float(index)) + field(3, kind))
        for index, (name, kind) in enumerate(zip(names, kinds))
    ]
    spec = field(3, spaces[0]) + field(4, spaces[1])
    return b"".join(pieces) + field(2, field(3, model_type)) + field(3, spec)


def test_a_message_written_by_hand():
    made = sentencepiece_file.parse(model_file())
    assert made.pieces == ("<unk>", "\u2581a", "</s>") and made.scores.tolist() == [0, -1, -2]
    assert made.unknown == 0 and made.controls == {2}
    assert made.normalize("  a  b ") == "\u2581a\u2581b"
    plain = sentencepiece_file.parse(model_file(spaces=(0, 0))).normalize
    assert plain(" a  b ") == "\u2581a\u2581\u2581b\u2581"


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
        (lambda: parse(b""), "no SentencePiece model"),
        (lambda: parse(model_file(kinds=(1, 1, 1))), "no unknown among 3 pieces"),
        (lambda: parse(model_file(model_type=2)), "model type 2"),
        (lambda: parse(model_file(kinds=(2, 4, 3))), "pieces of type 4"),
        (lambda: sentencepiece_file.normalizer(b"\xff\xff\xff\x00ab"), "cannot hold a trie"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_a_file_cut_short_is_none(ansatz_data):
    raw = (ansatz_data / "tokenizers/sentencepiece/test_model.model").read_bytes()
    with pytest.raises(ValueError, match="no SentencePiece model"):
        sentencepiece_file.parse(raw[:-1])
