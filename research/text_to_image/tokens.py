"""CLIP's tokeniser: lower-cased text as rows of numbers of one length, and back.

Radford et al. 2021, arXiv:2103.00020. Byte pairs as in `language_models.tokenizers.byte_pairs`,
but the last byte of a word carries the mark `</w>`, words hold no blank, and digits stand alone.
Texts are cleaned as by the `tokenizers` library (NFC, blanks, lower case), which is transformers'
only form since version 5; the first files were made with ftfy, which repairs broken encodings too.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from library import checks
from library.storage import files
from research.language_models.tokenizers import byte_pairs, pretokens

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_OPENAI_MERGES = 48_894  # CLIP uses the first so many of its file's


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts as rows of tokens: start, the words' tokens, end, padding.

    Attributes:
        vocabulary: token i as `vocab.json` spells it, bytes in GPT-2's printable form.
        merges: pairs of tokens, best first; their concatenations are tokens too.
        start, end, pad: special tokens; the end is kept when a text is cut.
        unknown: what stands for a byte that a small vocabulary lacks.
        max_length: tokens in a row, start and end included.
        added: further words, found in any text whatever surrounds them; their numbers follow
            those of the vocabulary.
    Raises:
        ValueError: for a special token that is missing, a merge without a result, a word twice, or
            a max_length below 2.
    """

    vocabulary: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    start: str = START
    end: str = END
    pad: str = END
    unknown: str = END
    max_length: int = 77
    added: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if checks.count("max_length", self.max_length) < 2:
            raise ValueError(f"max_length={self.max_length}: expected room for start and end, 2")
        names = self.vocabulary + self.added
        if len(self.ids) != len(names):
            twice = next(name for i, name in enumerate(names) if self.ids[name] != i)
            raise ValueError(f"token {twice!r} is in the vocabulary twice")
        for field in ("start", "end", "pad", "unknown"):
            if getattr(self, field) not in self.ids:
                raise ValueError(f"{field}={getattr(self, field)!r} is not in the vocabulary")
        for rank, pair in enumerate(self.merges):
            if len(pair) != 2 or any(part not in self.ids for part in (*pair, "".join(pair))):
                raise ValueError(f"merge {rank} of {pair}: expected two tokens that make a third")

    def __hash__(self) -> int:  # the same as a dataclass has, computed once
        return self._hash

    def __len__(self) -> int:
        return len(self.vocabulary) + len(self.added)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The number of each token."""
        return {name: index for index, name in enumerate(self.vocabulary + self.added)}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of tokens, equal to those of transformers' CLIPTokenizer.

        Args:
            texts: B strings.
        Returns:
            [B, max_length] int32, padded, or cut before the end token.
        Raises:
            TypeError: for one string, or what is none.
            ValueError: for lone surrogates, which no UTF-8 text has.
        """
        if isinstance(texts, str):
            raise TypeError("texts is a str: expected a list of them")
        rows = np.full((len(texts), self.max_length), self.ids[self.pad], np.int32)
        known: dict[str, list[int]] = {}
        for row, text in zip(rows, texts):
            byte_pairs.check_text(text)
            byte_pairs.check_unicode(text)
            inner = self._words(text, known)[: self.max_length - 2]
            row[: len(inner) + 2] = [self.ids[self.start], *inner, self.ids[self.end]]
        return rows

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Texts of rows, in lower case, words apart by one blank, without what follows the end.

        Args:
            tokens: [B, T] int.
        Raises:
            ValueError: for tokens of another shape or type, or outside the vocabulary.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2:
            raise ValueError(f"tokens {list(tokens.shape)}: expected [B, T]")
        return [self._text(byte_pairs.check_tokens(row, len(self)).tolist()) for row in tokens]

    def add_tokens(self, word: str) -> Tokenizer:
        """The tokeniser with one more word, whose number is the last, `len(self)`.

        The text encoder's table then wants one more row (textual inversion).

        Raises:
            ValueError: for a word that is blank, or known already, whatever its case.
        """
        byte_pairs.check_text(word)
        if not _cleaned(word).strip(pretokens.WHITE_SPACE):
            raise ValueError(f"word {word!r}: expected more than blanks")
        taken = {_cleaned(other) for other in self.added} | self.ids.keys()
        if {word, _cleaned(word), _cleaned(word) + WORD_END} & taken:
            raise ValueError(f"word {word!r} is in the vocabulary already")
        return dataclasses.replace(self, added=(*self.added, word))

    def _words(self, text: str, known: dict[str, list[int]]) -> list[int]:
        """All tokens of a text: special words first, then added ones in what is cleaned."""
        tokens: list[int] = []
        for piece in self._special.split(text):
            if piece in self._special_words:
                tokens.append(self.ids[piece])
                continue
            for part in self._added.split(_cleaned(piece)) if self.added else [_cleaned(piece)]:
                if part in self._added_words:
                    tokens.append(self._added_words[part])
                    continue
                for word in _pattern().findall(part):
                    if word not in known:
                        known[word] = self._merged(word)
                    tokens += known[word]
        return tokens

    def _merged(self, word: str) -> list[int]:
        # Only a special word in capitals is still cut here, as by transformers' second step.
        tokens: list[int] = []
        for part in pretokens.split(word):
            letters = list(byte_pairs.shown(part.encode("utf-8")))
            letters[-1] += WORD_END
            unknown = self.ids[self.unknown]
            symbols = [self.ids.get(letter, unknown) for letter in letters]
            tokens += byte_pairs.merge(symbols, self._ranks)
        return tokens

    def _text(self, tokens: list[int]) -> str:
        start, end = self.ids[self.start], self.ids[self.end]
        tokens = tokens[1:] if tokens[:1] == [start] else tokens
        words, letters = [], b""
        for token in tokens[: tokens.index(end)] if end in tokens else tokens:
            if token >= len(self.vocabulary) or self.vocabulary[token] in (self.start, self.pad):
                words += [letters.decode("utf-8", "replace"), (self.vocabulary + self.added)[token]]
                letters = b""
                continue
            name = self.vocabulary[token]
            letters += byte_pairs.unshown(name.removesuffix(WORD_END))
            if name.endswith(WORD_END):
                words, letters = [*words, letters.decode("utf-8", "replace")], b""
        return " ".join(word for word in [*words, letters.decode("utf-8", "replace")] if word)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    @functools.cached_property
    def _ranks(self) -> dict[tuple[int, int], tuple[int, int]]:
        ids = self.ids
        return {
            (ids[left], ids[right]): (rank, ids[left + right])
            for rank, (left, right) in enumerate(self.merges)
        }

    @functools.cached_property
    def _special_words(self) -> set[str]:
        return {self.start, self.end, self.pad, self.unknown}

    @functools.cached_property
    def _special(self) -> re.Pattern:
        return _any_of(self._special_words)

    @functools.cached_property
    def _added_words(self) -> dict[str, int]:
        return {_cleaned(word): self.ids[word] for word in self.added}

    @functools.cached_property
    def _added(self) -> re.Pattern:
        return _any_of(self._added_words)


def from_openai(path: str | os.PathLike, max_length: int = 77) -> Tokenizer:
    """CLIP's own tokeniser, from OpenAI's `bpe_simple_vocab_16e6.txt.gz`.

    Raises:
        ValueError: for a file that is not that one.
        FileNotFoundError: if there is none.
    """
    path = files.local(path, "path")
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no gzip file of UTF-8 text: {error}") from None
    merges = tuple(tuple(line.split(" ")) for line in lines[1 : 1 + _OPENAI_MERGES])
    if len(merges) < _OPENAI_MERGES or any(len(pair) != 2 for pair in merges):
        raise ValueError(f"{path}: expected a line of version, then {_OPENAI_MERGES} merges")
    letters = [byte_pairs.shown(bytes([byte])) for byte in byte_pairs.BYTE_ORDER]
    vocabulary = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges)]
    return Tokenizer((*vocabulary, START, END), merges, max_length=max_length)


def read(folder: str | os.PathLike) -> Tokenizer:
    """The tokeniser of a folder with `vocab.json` and `merges.txt`, or with `tokenizer.json`.

    Special tokens and lengths are those of `tokenizer_config.json`. Where that has no field
    `added_tokens_decoder`, as in older folders, special tokens of `special_tokens_map.json` go
    before its own (Stable Diffusion 2's "!" is found there alone), and the added words are those of
    `added_tokens.json`.

    Raises:
        ValueError: naming the file and what is wrong with it.
        FileNotFoundError: if there is no vocabulary.
    """
    folder = files.local(folder, "folder")
    if (folder / "vocab.json").is_file():
        numbers, added = files.read_object(folder / "vocab.json"), {}
        lines = _merge_lines(folder / "merges.txt")
        merges = [tuple(line.split(" ")) for line in lines]
    elif (folder / "tokenizer.json").is_file():
        numbers, merges, added = _from_library(folder / "tokenizer.json")
    else:
        raise FileNotFoundError(f"{folder}: no vocab.json and merges.txt, and no tokenizer.json")
    settings = _optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        added |= {_content(token): int(number) for number, token in decoder.items()}
    else:
        settings |= _optional(folder / "special_tokens_map.json")
        added |= _optional(folder / "added_tokens.json")
    given = {
        ours: _content(settings[theirs])
        for ours, theirs in _SPECIAL.items()
        if settings.get(theirs) is not None
    }
    for word in added.keys() & numbers.keys() - {START, END, *given.values()}:
        raise ValueError(f"{folder}: the added word {word!r} has a number of the vocabulary's own")
    added = {word: number for word, number in added.items() if word not in numbers}
    everything = {**numbers, **added}
    if sorted(everything.values()) != list(range(len(everything))):
        raise ValueError(f"{folder}: expected the token numbers 0 to {len(everything) - 1}, once")
    length = settings.get("model_max_length") or 77
    return Tokenizer(
        tuple(sorted(numbers, key=numbers.__getitem__)),
        tuple(merges),
        max_length=length if length < 2**31 else 77,  # without a limit they write 1e30
        added=tuple(sorted(added, key=added.__getitem__)),
        **given,
    )


def write(folder: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """Writes what `read`, and transformers' CLIPTokenizer, make the same tokeniser of."""
    folder = files.local(folder, "folder")
    names = enumerate(tokenizer.vocabulary)
    files.write_json(folder / "vocab.json", {name: number for number, name in names})
    lines = ["#version: 0.2", *map(" ".join, tokenizer.merges)]
    files.write_atomic(folder / "merges.txt", "\n".join(lines) + "\n")
    special = {theirs: getattr(tokenizer, ours) for ours, theirs in _SPECIAL.items()}
    files.write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.max_length}
    files.write_json(folder / "tokenizer_config.json", settings | special)
    if tokenizer.added:
        numbers = {word: tokenizer.ids[word] for word in tokenizer.added}
        files.write_json(folder / "added_tokens.json", numbers)
    else:
        (folder / "added_tokens.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").unlink(missing_ok=True)  # which theirs reads before all others


# Our special tokens by the names that their files have.
_SPECIAL = {"start": "bos_token", "end": "eos_token", "pad": "pad_token", "unknown": "unk_token"}


def _content(token: Any) -> str:
    """A token of a settings file: a string, or an object around one."""
    token = token if isinstance(token, Mapping) else {"content": token}
    if token.get("single_word"):
        raise ValueError(f"token {token['content']!r}: single_word is not supported")
    return token["content"]


def _optional(path: pathlib.Path) -> dict[str, Any]:
    return files.read_object(path) if path.is_file() else {}


def _merge_lines(path: pathlib.Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there: expected it beside vocab.json") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from None
    return [line for line in lines[lines[0].startswith("#version") :] if line]


def _from_library(path: pathlib.Path) -> tuple[dict[str, int], list, dict[str, int]]:
    """Numbers, merges and added words of a file of the `tokenizers` library."""
    content = files.read_object(path)
    model = content.get("model", {})
    kind = model.get("type"), model.get("end_of_word_suffix")
    if kind != ("BPE", WORD_END):
        raise ValueError(f"{path}: a model of type and word end {kind}: expected BPE, {WORD_END}")
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    return model["vocab"], merges, {_content(t): t["id"] for t in content.get("added_tokens", ())}


def _cleaned(text: str) -> str:
    """NFC, every run of blanks as one, lower case of each character by itself."""
    text = re.sub(f"[{pretokens.WHITE_SPACE}]+", " ", unicodedata.normalize("NFC", text))
    return text.replace("\u03a3", "\u03c3").lower()  # Python alone ends words with another sigma


def _any_of(words: Iterable[str]) -> re.Pattern:
    """The longest of the words that starts at a place; `split` keeps it."""
    longest = sorted(words, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest))})")


@functools.cache
def _pattern() -> re.Pattern:
    letter, number = pretokens.character_class("L"), pretokens.character_class("N")
    return re.compile(
        rf"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[{letter}]+|[{number}]"
        f"|[^{pretokens.WHITE_SPACE}{letter}{number}]+"
    )
