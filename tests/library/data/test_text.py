"""Text: round trips, unknown symbols, splits, windows, files and their errors."""

import gzip

import numpy as np
import pytest

from library.data import text

SAMPLE = "Zoë's naïve café — 東京, 𝛼 and\ttabs\r\nand\n"


def test_vocabulary_round_trip():
    vocabulary = text.Vocabulary.of(SAMPLE)
    tokens = vocabulary.encode(SAMPLE)
    assert tokens.dtype == np.int32 and tokens.shape == (len(SAMPLE),)
    assert (tokens.min(), tokens.max()) == (0, len(vocabulary) - 1)
    assert vocabulary.decode(tokens) == SAMPLE
    assert [vocabulary.symbols[token] for token in tokens] == list(SAMPLE)


def test_byte_round_trip():
    tokens = text.encode_bytes(SAMPLE)
    assert tokens.dtype == np.int32 and len(tokens) == len(SAMPLE.encode())
    assert text.decode_bytes(tokens) == SAMPLE
    assert text.decode_bytes(np.array([0x41, 0xC3])) == "A\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("stranger", ["a", "z", "5", "é", "𝛼"])
def test_unknown_symbols_are_named(stranger):
    """Below, between and above the known ones."""
    vocabulary = text.Vocabulary("bcxy")
    place = f"U\\+{ord(stranger):04X}\\) at 3 is not among the 4 symbols"
    with pytest.raises(ValueError, match=f"character '{stranger}' \\({place}"):
        vocabulary.encode(f"bcx{stranger}y{stranger}")


def test_tokens_out_of_range_are_named():
    vocabulary = text.Vocabulary("abc")
    for tokens in ([0, 3], [-1, 2]):
        with pytest.raises(ValueError, match="expected 0 to 2"):
            vocabulary.decode(np.array(tokens))
    with pytest.raises(ValueError, match="tokens from 5 to 256: expected 0 to 255"):
        text.decode_bytes(np.array([5, 256]))
    assert vocabulary.decode(np.array([], int)) == ""


@pytest.mark.parametrize("symbols", ["", "ba", "aab"])
def test_a_vocabulary_needs_distinct_ascending_symbols(symbols):
    with pytest.raises(
        ValueError, match="distinct characters in ascending order|at least one character"
    ):
        text.Vocabulary(symbols)


def test_pydoc_topics_are_embedded_english():
    topics = text.pydoc_topics()
    assert 300_000 < len(topics) < 2_000_000  # the size depends on the Python version
    assert "The assert statement" in topics.replace('"', "") and topics == text.pydoc_topics()
    vocabulary = text.Vocabulary.of(topics)
    assert vocabulary.decode(vocabulary.encode(topics)) == topics


def test_split_is_a_partition():
    tokens = np.arange(101)
    train, validation = text.split(tokens, 0.1)
    assert len(train) == 90
    np.testing.assert_array_equal(np.concatenate([train, validation]), tokens)
    for fraction in (0, 1, -0.5):
        with pytest.raises(ValueError, match="0 < fraction < 1"):
            text.split(tokens, fraction)
    with pytest.raises(ValueError, match="1 tokens are too few"):
        text.split(tokens[:1])


@pytest.mark.parametrize("stride", [1, 3, 5, 12])
def test_windows(stride):
    tokens = np.random.default_rng(0).integers(0, 9, 40).astype(np.int32)
    windows = text.Windows(tokens, length=5, stride=stride)
    starts = [start for start in range(0, 40, stride) if start + 6 <= 40]
    assert len(windows) == len(starts)
    everything = windows.take(np.arange(len(windows)))["tokens"]
    for index, start in enumerate(starts):
        np.testing.assert_array_equal(windows[index]["tokens"], tokens[start : start + 6])
        np.testing.assert_array_equal(everything[index], tokens[start : start + 6])
    with pytest.raises(IndexError):
        windows[len(starts)]


def test_windows_of_stride_t_predict_every_token_once():
    windows = text.Windows(np.arange(31), length=5, stride=5)
    targets = np.concatenate([windows[index]["tokens"][1:] for index in range(len(windows))])
    np.testing.assert_array_equal(targets, np.arange(1, 31))


def test_bad_windows_are_named():
    with pytest.raises(ValueError, match=r"5 tokens make no window of length \+ 1 = 6"):
        text.Windows(np.arange(5), length=5)
    with pytest.raises(ValueError, match="length=0: expected a positive whole number"):
        text.Windows(np.arange(5), length=0)


def test_files_plain_and_gzipped_keep_their_newlines(tmp_path, monkeypatch):
    (tmp_path / "plain.txt").write_bytes(SAMPLE.encode())
    (tmp_path / "zipped.txt.gz").write_bytes(gzip.compress(SAMPLE.encode()))
    assert text.read(tmp_path / "plain.txt") == text.read(tmp_path / "zipped.txt.gz") == SAMPLE
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    assert text.read("plain.txt") == SAMPLE


def test_missing_and_damaged_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("ANSATZ_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="'novel.txt' not found: ANSATZ_DATA is not set"):
        text.read("text/novel.txt")
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"not in ANSATZ_DATA={tmp_path}; .*text/novel.txt"):
        text.read("text/novel.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(ValueError, match="latin.txt is not UTF-8: byte 0xe9 at 3"):
        text.read("latin.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(SAMPLE.encode() * 50)[:-12])
    with pytest.raises(ValueError, match="cut.txt.gz is a truncated or damaged gzip file"):
        text.read("cut.txt.gz")


def test_tiny_shakespeare(ansatz_data, monkeypatch):
    monkeypatch.setenv("ANSATZ_DATA", str(ansatz_data))
    play = text.read("text/tinyshakespeare.txt")
    vocabulary = text.Vocabulary.of(play)
    assert (len(play), len(vocabulary)) == (1_115_394, 65)
    train, validation = text.split(vocabulary.encode(play), 0.1)
    assert (len(train), len(validation)) == (1_003_854, 111_540)


def test_tokens_and_windows_that_are_none_are_named():
    windows = text.Windows(np.arange(10), 3)
    for index in (-1, 7):  # NumPy's -1 would be the last window
        with pytest.raises(IndexError, match=f"window {index} of 7"):
            windows.take(np.array([0, index]))
    for options, message in [
        ({"length": 3.0}, "length=3.0: expected a positive whole number"),
        ({"stride": 0}, "stride=0: expected a positive whole number"),
        ({"tokens": np.arange(10.0)}, r"tokens float64\[10\]: expected int \[N\]"),
        ({"tokens": np.zeros((4, 5), int)}, r"tokens int64\[4, 5\]: expected int \[N\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            text.Windows(**{"tokens": np.arange(10), "length": 3, **options})
    with pytest.raises(ValueError, match="tokens of type float64: expected integers"):
        text.decode_bytes([65.5])
    with pytest.raises(ValueError, match="tokens of type float64: expected integers"):
        text.Vocabulary("ab").decode([0.5])
    with pytest.raises(ValueError, match="at least one character, got none"):
        text.Vocabulary.of("")
    assert text.decode_bytes([]) == "" and text.Vocabulary("ab").decode([]) == ""
