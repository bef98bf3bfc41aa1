"""SentencePiece's model file: its pieces, and the text normaliser that is compiled into it.

The file is a protocol buffer (`sentencepiece_model.proto`). Only four wire types occur, so the few
fields that encoding and decoding need are read here without any library; a field that would change
either and is not followed is refused by its name. The others steer training only.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator

import numpy as np

from research.language_models.tokenizers import unigram

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_KINDS = {_USER_DEFINED: "user-defined", _BYTE: "bytes"}
_MODELS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Of trainer_spec (2) and normalizer_spec (3): the number of a field, its name, the only value.
_ONLY = (
    (2, 24, "treat_whitespace_as_suffix", 0),
    (2, 35, "byte_fallback", 0),
    (3, 5, "escape_whitespaces", 1),
)


def parse(content: bytes) -> unigram.Unigram:
    """The tokeniser in a model file.

    Args:
        content: the bytes of a `.model` file of type unigram, with spaces in front of words,
            without byte fallback, user-defined pieces and rules for decoding.
    Raises:
        ValueError: for another or a damaged format, or a model that needs what is missing here.
    """
    try:
        fields = list(_fields(content))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer = dict(_fields(next((v for n, v in fields if n == 2), b"")))
        spec = dict(_fields(next((v for n, v in fields if n == 3), b"")))
        back = dict(_fields(next((v for n, v in fields if n == 5), b"")))
        unknown_text = trainer[44].decode("utf-8") if 44 in trainer else unigram.UNKNOWN_TEXT
        names = tuple(piece[1].decode("utf-8") for piece in pieces)
        scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces]
        kinds = [piece.get(3, _NORMAL) for piece in pieces]
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeError) as error:
        raise ValueError(f"content is no SentencePiece model ({error!r})") from error
    if _UNKNOWN not in kinds:
        raise ValueError(f"content is no SentencePiece model: no unknown among {len(names)} pieces")
    if trainer.get(3, 1) != 1:
        raise ValueError(
            f"model_type {trainer[3]} ({_MODELS.get(trainer[3])}): expected 1 (unigram)"
        )
    for number, index, name, only in _ONLY:
        given = (trainer if number == 2 else spec).get(index, only)
        if given != only:
            raise ValueError(f"{name}={bool(given)} is not supported: expected {bool(only)}")
    if back.get(2):
        raise ValueError("denormalizer_spec: rules for decoding are not supported")
    strange = set(kinds) - {_NORMAL, _UNKNOWN, _CONTROL, _UNUSED}
    if strange:
        kind = min(strange)
        raise ValueError(f"pieces of type {kind} ({_KINDS.get(kind)}) are not supported")
    if kinds.count(_UNKNOWN) > 1:
        raise ValueError(f"{kinds.count(_UNKNOWN)} pieces of type {_UNKNOWN} (unknown): expected 1")
    add_space, remove_extra_spaces = bool(spec.get(3, 1)), bool(spec.get(4, 1))
    return unigram.Unigram(
        pieces=names,
        scores=np.array(scores, np.float64),
        unknown=kinds.index(_UNKNOWN),
        controls=frozenset(i for i, kind in enumerate(kinds) if kind == _CONTROL),
        unused=frozenset(i for i, kind in enumerate(kinds) if kind == _UNUSED),
        normalize=normalizer(spec.get(2, b""), add_space, remove_extra_spaces),
        unknown_text=unknown_text,
        leading_spaces=("drop" if remove_extra_spaces else "drop one" if add_space else "keep"),
    )


def normalizer(
    charsmap: bytes, add_space: bool = True, remove_extra_spaces: bool = True
) -> Callable[[str], str]:
    """text -> normalised text: the longest rule at each place, then the treatment of spaces.

    Args:
        charsmap: the compiled rules: the length of a trie in bytes (uint32), the trie, and the
            replacements, each ended by a zero byte. Empty for none.
        add_space: whether a space goes in front of the text.
        remove_extra_spaces: whether spaces at the ends go and runs of them become one. A U+2581 of
            the text itself stands for a space only at the end.
    Raises:
        ValueError: if the rules are cut short.
    """
    rules = _Rules.parse(charsmap)

    def normalize(text: str) -> str:
        parts = rules.apply(text)
        if remove_extra_spaces:
            while parts and parts[0] == " ":
                parts = parts[1:]
        if not parts:
            return ""
        out, after_space = [" "] if add_space else [], remove_extra_spaces
        for part in parts:
            part = part.lstrip(" ") if after_space else part
            if part:
                out.append(part)
                after_space = remove_extra_spaces and part.endswith(" ")
        text = "".join(out).replace(" ", unigram.SPACE)
        return text.rstrip(unigram.SPACE) if remove_extra_spaces else text

    return normalize


@dataclasses.dataclass(frozen=True)
class _Rules:
    """A double-array trie (Aoe 1989, in darts-clone's layout) from UTF-8 keys to replacements."""

    units: tuple[int, ...]
    replacements: bytes

    @classmethod
    def parse(cls, charsmap: bytes) -> _Rules:
        if not charsmap:
            return cls((), b"")
        size = int.from_bytes(charsmap[:4], "little")
        if size % 4 or size + 4 > len(charsmap):
            raise ValueError(f"charsmap of {len(charsmap)} bytes cannot hold a trie of {size}")
        return cls(struct.unpack(f"<{size // 4}I", charsmap[4 : 4 + size]), charsmap[4 + size :])

    def apply(self, text: str) -> list[str]:
        """The text, cut where one rule or one character ends, each by its replacement."""
        if not self.units:
            return list(text)
        raw, out, i = text.encode("utf-8", "replace"), [], 0
        while i < len(raw):
            length, value = self._longest(raw, i)
            if length:
                out.append(self.replacements[value : self.replacements.index(0, value)])
            else:
                length = 1
                while i + length < len(raw) and raw[i + length] & 0xC0 == 0x80:
                    length += 1
                out.append(raw[i : i + length])
            i += length
        return [part.decode("utf-8") for part in out]

    def _longest(self, raw: bytes, start: int) -> tuple[int, int]:
        """Length and value of the longest key at a place; length 0 for none."""
        found = (0, 0)
        node = _offset(self.units[0])
        for i in range(start, len(raw)):
            node ^= raw[i]
            unit = self.units[node]
            if unit & 0x800000FF != raw[i]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                found = (i + 1 - start, self.units[node] & 0x7FFFFFFF)
        return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of the fields of a message: an int, or the raw bytes of anything else."""
    i = 0
    while i < len(message):
        key, i = _varint(message, i)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, i = _varint(message, i)
            yield number, value
            continue
        if kind == 2:
            length, i = _varint(message, i)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise IndexError(f"wire type {kind} at byte {i}")
        if i + length > len(message):
            raise IndexError(f"field {number} ends after the message")
        yield number, message[i : i + length]
        i += length


def _varint(message: bytes, i: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[i]
        value |= (byte & 0x7F) << shift
        i, shift = i + 1, shift + 7
        if byte < 0x80:
            return value, i
