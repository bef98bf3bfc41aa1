"""SentencePiece's model file: its pieces, and the text normaliser that is compiled into it.

The file is a protocol buffer (`sentencepiece_model.proto`). Only four wire types occur, so the few
fields that encoding needs are read here without any library.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator

import numpy as np

from research.language_models.tokenizers import unigram

_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
_UNIGRAM = 1


def parse(content: bytes) -> unigram.Unigram:
    """The tokeniser in a model file.

    Args:
        content: the bytes of a `.model` file of type unigram, without byte fallback.
    Raises:
        ValueError: for another or a damaged format, or a model that needs what is missing here.
    """
    try:
        fields = list(_fields(content))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer = dict(_fields(next((v for n, v in fields if n == 2), b"")))
        spec = dict(_fields(next((v for n, v in fields if n == 3), b"")))
        names = tuple(piece[1].decode("utf-8") for piece in pieces)
        scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces]
        kinds = [piece.get(3, _NORMAL) for piece in pieces]
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeError) as error:
        raise ValueError(f"content is no SentencePiece model ({error!r})") from error
    if _UNKNOWN not in kinds:
        raise ValueError(f"content is no SentencePiece model: no unknown among {len(names)} pieces")
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError(f"model type {trainer[3]}: expected {_UNIGRAM} (unigram)")
    strange = set(kinds) - {_NORMAL, _UNKNOWN, _CONTROL, _UNUSED}
    if strange:
        raise ValueError(f"pieces of type {min(strange)} (user-defined or bytes) are not supported")
    return unigram.Unigram(
        pieces=names,
        scores=np.array(scores, np.float64),
        unknown=kinds.index(_UNKNOWN),
        controls=frozenset(i for i, kind in enumerate(kinds) if kind in (_CONTROL, _UNUSED)),
        normalize=normalizer(
            spec.get(2, b""),
            add_space=bool(spec.get(3, 1)),
            remove_extra_spaces=bool(spec.get(4, 1)),
        ),
    )


def normalizer(
    charsmap: bytes, add_space: bool = True, remove_extra_spaces: bool = True
) -> Callable[[str], str]:
    """text -> normalised text: the longest rule at each place, then the treatment of spaces.

    Args:
        charsmap: the compiled rules: the length of a trie in bytes (uint32), the trie, and the
            replacements, each ended by a zero byte. Empty for none.
        add_space: whether a space goes in front of the text.
        remove_extra_spaces: whether spaces at the ends go and runs of them become one.
    Raises:
        ValueError: if the rules are cut short.
    """
    rules = _Rules.parse(charsmap)

    def normalize(text: str) -> str:
        text = rules.apply(text)
        if remove_extra_spaces:
            text = " ".join(word for word in text.split(" ") if word)
        if add_space and text:
            text = " " + text
        return text.replace(" ", unigram.SPACE)

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

    def apply(self, text: str) -> str:
        if not self.units:
            return text
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
        return b"".join(out).decode("utf-8")

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
