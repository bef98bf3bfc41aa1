"""CLIP's tokens against frozen numbers of transformers, and against merging written out."""

import gzip
import json
import random
import unicodedata

import numpy as np
import pytest

from research.language_models.tokenizers import byte_pairs
from research.text_to_image import tokens

FILE = "tokenizers/clip/bpe_simple_vocab_16e6.txt.gz"
# Without start, end and padding; transformers 5.24.0, CLIPTokenizer on the vocabulary of OpenAI's
# file: with <|endoftext|> as padding, and with "!", which then is a token wherever it stands.
FROZEN = {
    "a red circle": ([320, 736, 7117],) * 2,
    "Café!! it's 12 o'clock 😀": (
        [15304, 748, 585, 568, 272, 273, 334, 262, 6716, 7334],
        [15304, 0, 0, 585, 568, 272, 273, 334, 262, 6716, 7334],
    ),
    "hello ! wow!!": ([3306, 256, 2781, 748], [3306, 0, 2781, 0, 0]),
    "a <|endoftext|> b": ([320, 49407, 321],) * 2,
    "a<|ENDOFTEXT|>b": ([320, 27, 347, 40786, 4160, 91, 285, 321],) * 2,
    "<|EndOfText|>!?": (
        [27, 347, 40786, 4160, 91, 285, 6004],
        [27, 347, 40786, 4160, 91, 285, 0, 286],
    ),
    "cafe\u0301": ([15304],) * 2,
    "ΟΔΟΣ": ([138, 123, 138, 112, 138, 123, 139, 481],) * 2,
    "İstanbul": ([328, 16384, 11231],) * 2,
    "it's we'Re ''s": ([585, 568, 649, 982, 8445, 338],) * 2,
    "12 3": ([272, 273, 274],) * 2,
    "a\x85b\x1cb\u00a0 \t": ([320, 321, 472, 321],) * 2,
    "": ([],) * 2,
}


@pytest.fixture(scope="module")
def clip(ansatz_data):
    if not (ansatz_data / FILE).is_file():
        pytest.skip(f"no {FILE}")
    return tokens.from_openai(ansatz_data / FILE)


def small(**options):
    """Letters of a word "hello world", three merges, the special words."""
    letters = "!delhorw"
    merges = (("h", "e"), ("l", "l"), ("he", "ll"), ("l", "d</w>"))
    vocabulary = [*letters, *(x + "</w>" for x in letters), *map("".join, merges)]
    return tokens.Tokenizer((*vocabulary, tokens.START, tokens.END), merges, **options)


@pytest.mark.parametrize("pad", [tokens.END, "!"])
def test_frozen_tokens_of_transformers(clip, pad):
    own = tokens.Tokenizer(clip.vocabulary, clip.merges, pad=pad)
    rows = own.encode(list(FROZEN))
    assert rows.shape == (len(FROZEN), 77) and rows.dtype == np.int32 and len(own) == 49408
    for row, expected in zip(rows, FROZEN.values()):
        inner = expected[pad == "!"]
        padding = [own.ids[pad]] * (75 - len(inner))
        assert row.tolist() == [49406, *inner, 49407, *padding]


def merged_by_hand(word, tokenizer):
    """OpenAI's own loop: the best pair of the whole word, everywhere, until none is left."""
    parts = list(byte_pairs.shown(word.encode()))
    parts[-1] += "</w>"
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    while len(parts) > 1:
        best = min(zip(parts, parts[1:]), key=lambda pair: ranks.get(pair, np.inf))
        if best not in ranks:
            break
        joined, i = [], 0
        while i < len(parts):
            two = tuple(parts[i : i + 2]) == best
            joined.append("".join(best) if two else parts[i])
            i += 1 + two
        parts = joined
    return [tokenizer.ids[part] for part in parts]


def test_words_of_many_scripts_merge_as_written_out(clip):
    rng = random.Random(0)
    alphabet = "aeiouhtsnrlüñжф学語😀$-_"
    for _ in range(200):
        word = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9)))
        kinds = [unicodedata.category(c)[0] == "L" for c in word]
        if len(set(kinds)) == 1:
            row = clip.encode([word])[0]
            assert row[1 : 1 + len(merged_by_hand(word, clip))].tolist() == merged_by_hand(
                word, clip
            )


def test_long_texts_keep_their_end(clip):
    full = clip.encode(["word " * 75, "word " * 76, "word " * 500])
    assert (full[:, 0] == 49406).all() and (full[:, -1] == 49407).all()
    assert (full[:, 1:-1] == 2653).all() and clip.decode(full[:1]) == [" ".join(["word"] * 75)]
    short = small(max_length=5).encode(["hello world", "he", "w"])
    ids = small().ids
    start, end = ids[tokens.START], ids[tokens.END]
    assert short.tolist() == [
        [start, ids["hell"], ids["o</w>"], ids["w"], end],
        [start, ids["h"], ids["e</w>"], end, end],  # "he" merges only before more letters
        [start, ids["w</w>"], end, end, end],
    ]


def test_text_comes_back_in_lower_case(clip):
    texts = ["A  red\tcafé, it's  12 😀!", "x" * 300, ""]
    back = ["a red café , it 's 1 2 😀!", "x" * 300, ""]
    assert clip.decode(clip.encode(texts)) == back
    bang = tokens.Tokenizer(clip.vocabulary, clip.merges, pad="!", added=("<Cat>",))
    assert bang.decode(bang.encode(["Hi! <CAT>s!"])) == ["hi ! <Cat> s !"]


def test_an_unknown_letter_is_the_unknown_token():
    own = small(unknown="!")
    assert own.encode(["hey"])[0, 1:4].tolist() == [own.ids["he"], own.ids["!"], own.ids[own.end]]
    assert small().encode(["hey"])[0, 2] == own.ids[tokens.END]


def test_other_special_words():
    special = {"start": "<s>", "end": "</s>", "pad": "b", "unknown": "</s>"}
    own = tokens.Tokenizer(("<s>", "</s>", "a</w>", "b"), (), max_length=6, **special)
    rows = own.encode(["a", "</s> A", "ab"])  # "b" is a special word wherever it stands
    assert rows.tolist() == [[0, 2, 1, 3, 3, 3], [0, 1, 2, 1, 3, 3], [0, 2, 3, 1, 3, 3]]
    assert own.decode(rows[::2]) == ["a", "a b"]


def test_an_added_word_is_found_anywhere_in_any_case():
    own = small().add_tokens("<Cat>").add_tokens("<cat><hell>")
    number = own.ids["<Cat>"]
    assert (number, own.ids["<cat><hell>"], len(own)) == (len(small()), number + 1, number + 2)
    row = own.encode(["hell<CAT>o <cat><Hell>"])[0].tolist()
    hell = [own.ids["he"], own.ids["l"], own.ids["l</w>"]]  # "ll" is none at the end of a word
    assert row[1:7] == [*hell, number, own.ids["o</w>"], number + 1]
    assert small().encode(["hello"]).tolist() == own.encode(["hello"]).tolist()
    for word in ("<cat>", "<CAT>", "hell", "H", tokens.END):
        with pytest.raises(ValueError, match="is in the vocabulary already"):
            own.add_tokens(word)


def test_folders_round_trip(tmp_path):
    options = {"pad": "!", "unknown": "!", "max_length": 9, "added": ("<Cat>", "new word")}
    for own in (small(), small(**options)):
        tokens.write(tmp_path, own)
        back = tokens.read(tmp_path)
        assert back == own and hash(back) == hash(own) and back != small(max_length=8)
    assert (tmp_path / "merges.txt").read_text().split("\n")[:2] == ["#version: 0.2", "h e"]


def test_other_spellings_of_the_same_folder(tmp_path):
    """Settings as objects, added words with their settings, one file of the library tokenizers."""
    own = small(pad="!", max_length=9, added=("<cat>",))
    numbers = {name: i for i, name in enumerate(own.vocabulary)}
    added = [{"id": own.ids[word], "content": word} for word in ("<cat>", tokens.END, "!")]
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": numbers}
    for merges in (own.merges, [" ".join(pair) for pair in own.merges]):
        content = {"model": {**model, "merges": merges}, "added_tokens": added}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        settings = {"pad_token": {"content": "!"}, "model_max_length": 9, "unk_token": None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert tokens.read(tmp_path) == own
    tokens.write(tmp_path, own)
    assert not (tmp_path / "tokenizer.json").exists() and tokens.read(tmp_path) == own
    (tmp_path / "added_tokens.json").unlink()
    settings |= {"model_max_length": 1e30, "added_tokens_decoder": {str(len(own) - 1): "<cat>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokens.read(tmp_path) == small(pad="!", added=("<cat>",))


@pytest.mark.parametrize(
    ("config", "special", "pad"),
    [
        ({"pad_token": tokens.END}, {"pad_token": "!"}, "!"),  # as in Stable Diffusion 2
        ({"pad_token": "!"}, {"pad_token": tokens.END}, tokens.END),
        ({"pad_token": "!"}, {}, "!"),
        ({}, {"pad_token": "!"}, "!"),
        ({"pad_token": tokens.END, "added_tokens_decoder": {}}, {"pad_token": "!"}, tokens.END),
        ({"pad_token": "!", "added_tokens_decoder": {}}, {"pad_token": tokens.END}, "!"),
        ({}, {}, tokens.END),
    ],
)
def test_which_file_says_what_pads(tmp_path, config, special, pad):
    """As transformers 5.24.0 reads the same files."""
    tokens.write(tmp_path, small())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    assert tokens.read(tmp_path).pad == pad


def test_openais_file(tmp_path):
    with pytest.raises(ValueError, match="is no gzip file"):
        (tmp_path / "plain").write_text("a b")
        tokens.from_openai(tmp_path / "plain")
    (tmp_path / "short").write_bytes(gzip.compress(b"version\na b\n"))
    with pytest.raises(ValueError, match="then 48894 merges"):
        tokens.from_openai(tmp_path / "short")


def test_lengths_of_openais_tokeniser(clip, ansatz_data):
    assert clip.max_length == 77
    own = tokens.from_openai(ansatz_data / FILE, max_length=12)
    assert own.encode([""]).shape == (1, 12) and own.vocabulary == clip.vocabulary


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: small(max_length=1), ValueError, "max_length=1: expected room for start and end"),
        (lambda: small(max_length=2.5), ValueError, "max_length=2.5"),
        (lambda: small(pad="?"), ValueError, r"pad='\?' is not in the vocabulary"),
        (lambda: small(added=("h",)), ValueError, "token 'h' is in the vocabulary twice"),
        (lambda: tokens.Tokenizer((tokens.START, tokens.END, "a"), (("a", "b"),)), ValueError,
         "merge 0 of .*: expected two tokens that make a third"),
        (lambda: small().encode("hello"), TypeError, "texts is a str: expected a list"),
        (lambda: small().encode([3]), TypeError, "text of type int"),
        (lambda: small().encode(["a\ud800"]), ValueError, r"lone surrogate U\+D800"),
        (lambda: small().add_tokens(" \t"), ValueError, "expected more than blanks"),
        (lambda: small().decode(np.zeros(3, int)), ValueError, r"tokens \[3\]: expected \[B, T\]"),
        (lambda: small().decode([[99]]), ValueError, "token 99 is outside the vocabulary"),
    ],
)  # fmt: skip
def test_bad_values(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("vocab.json", None, FileNotFoundError, "no vocab.json and merges.txt, and no tokenizer"),
        ("merges.txt", None, FileNotFoundError, "merges.txt is not there"),
        ("merges.txt", b"\xff", ValueError, "merges.txt is no UTF-8 text"),
        ("vocab.json", b"{", ValueError, "vocab.json is not valid JSON"),
        ("vocab.json", b'{"a": 1}', ValueError, "expected the token numbers 0 to 0, once"),
        ("added_tokens.json", b'{"h": 4}', ValueError, "the added word 'h' has a number of the"),
        ("added_tokens.json", b'{"<a>": 90}', ValueError, "expected the token numbers"),
        ("special_tokens_map.json", b'{"pad_token": {"content": "!", "single_word": true}}',
         ValueError, "single_word is not supported"),
    ],
)  # fmt: skip
def test_bad_folders(tmp_path, name, content, error, message):
    tokens.write(tmp_path, small())
    (tmp_path / "tokenizer_config.json").unlink()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        tokens.read(tmp_path)


def test_another_kind_of_library_tokeniser(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(ValueError, match="expected BPE, </w>"):
        tokens.read(tmp_path)
