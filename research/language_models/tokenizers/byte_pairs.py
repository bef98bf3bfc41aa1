"""Byte-level byte-pair encoding: any byte string as tokens and back, without loss.

Sennrich et al. 2016 (arXiv:1508.07909) over bytes, as GPT-2 does it (Radford et al. 2019). This is
the readable form; `to_libraries.to_tokenizers` gives the same encoder as a `tokenizers` object,
which is many times faster.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from research.language_models.tokenizers import pretokens

Split = Callable[[str], list[str]]

# GPT-2 shows a byte as a character: itself where printable, else the next one from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_ORDER = bytes(_PRINTABLE + _OTHERS)  # the first 256 tokens of GPT-2, in their order
_SHOWN = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + index) for index, byte in enumerate(_OTHERS)
}
_BYTE_OF = {character: byte for byte, character in _SHOWN.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class BytePairs:
    """Tokens 0 ... V - 1 as byte strings, and the merges that reach them, best first.

    Attributes:
        tokens: the V byte strings, each once; all 256 single bytes are among them.
        merges: pairs of tokens (by number); the concatenation of a pair is a token too.
        split: text -> pre-tokens, across whose borders nothing merges.
    Raises:
        ValueError: for a missing byte, a token that is there twice, or a merge without a result.
    """

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[int, int], ...]
    split: Split = pretokens.split

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise ValueError(f"token {twice!r} is in the vocabulary twice")
        for byte in range(256):
            if bytes([byte]) not in self.ids:
                raise ValueError(f"byte {byte:#04x} is not in the vocabulary")
        for rank, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(self) and 0 <= right < len(self)):
                raise ValueError(f"merge {rank} of ({left}, {right}): not tokens below {len(self)}")
            if self.tokens[left] + self.tokens[right] not in self.ids:
                raise ValueError(
                    f"merge {rank} of {self.tokens[left]!r} and {self.tokens[right]!r}: "
                    "the result is not in the vocabulary"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def ids(self) -> dict[bytes, int]:
        """The number of each token."""
        return {token: index for index, token in enumerate(self.tokens)}

    def encode(self, text: str | bytes | bytearray) -> np.ndarray:
        """Tokens [N] int32 of a text, or of any byte string.

        Bytes that are not UTF-8 are split off as marks, as a lone surrogate would be.

        Raises:
            ValueError: for a str with lone surrogates, which no UTF-8 text has.
            TypeError: for anything else.
        """
        if isinstance(text, bytes | bytearray | memoryview):
            text = bytes(text).decode("utf-8", "surrogateescape")
        else:
            check_text(text)
            check_unicode(text)
        known: dict[str, list[int]] = {}
        tokens: list[int] = []
        for word in self.split(text):
            if word not in known:
                known[word] = self._encode_word(word.encode("utf-8", "surrogateescape"))
            tokens += known[word]
        return np.array(tokens, np.int32)

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The byte string of tokens [N].

        Raises:
            ValueError: for a token outside 0 ... V - 1.
        """
        tokens = check_tokens(tokens, len(self))
        return b"".join(self.tokens[token] for token in tokens.tolist())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens [N]; what is not UTF-8 becomes U+FFFD. Raises as `decode_bytes`."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def truncated(self, vocab_size: int) -> BytePairs:
        """The tokeniser that training would have stopped at with fewer tokens.

        Raises:
            ValueError: unless 256 <= vocab_size <= V, or for a vocabulary in another order.
        """
        if not 256 <= vocab_size <= len(self):
            raise ValueError(f"vocab_size={vocab_size}: expected 256 to {len(self)}")
        merges = [pair for pair, (_, new) in self._ranks.items() if new < vocab_size]
        return dataclasses.replace(self, tokens=self.tokens[:vocab_size], merges=tuple(merges))

    @functools.cached_property
    def _ranks(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(left, right) -> (rank, result)."""
        return {
            pair: (rank, self.ids[self.tokens[pair[0]] + self.tokens[pair[1]]])
            for rank, pair in enumerate(self.merges)
        }

    def _encode_word(self, word: bytes) -> list[int]:
        return merge([self.ids[word[i : i + 1]] for i in range(len(word))], self._ranks)


def merge(symbols: list[int], ranks: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merges the pair of lowest rank, leftmost first, until none is left: O(n log n).

    Args:
        symbols: tokens of one word.
        ranks: (left, right) -> (rank, the token that replaces both).
    Returns:
        The tokens that are left.
    """
    symbols = list(symbols)
    after, before = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
    heap: list[tuple[int, int, int, int, int]] = []

    def push(i: int, j: int) -> None:
        if 0 <= i and j < len(symbols) and (symbols[i], symbols[j]) in ranks:
            rank, new = ranks[symbols[i], symbols[j]]
            heapq.heappush(heap, (rank, i, symbols[i], symbols[j], new))

    for i in range(len(symbols) - 1):
        push(i, i + 1)
    while heap:
        _, i, left, right, new = heapq.heappop(heap)
        j = after[i]
        if j >= len(symbols) or (symbols[i], symbols[j]) != (left, right):
            continue  # one of the two has merged with another neighbour since
        symbols[i], symbols[j] = new, -1
        after[i] = after[j]
        if after[i] < len(symbols):
            before[after[i]] = i
        push(before[i], i)
        push(i, after[i])
    return [symbol for symbol in symbols if symbol >= 0]


def from_gpt2(encoder_json: str, vocab_bpe: str) -> BytePairs:
    """The tokeniser of GPT-2's two published files, given as their texts.

    Args:
        encoder_json: token string -> number, 0 ... V - 1.
        vocab_bpe: a version line, then one merge a line. A token that no merge reaches, such as
            `<|endoftext|>`, is decoded but never encoded.
    Raises:
        ValueError: for text that is not of these formats, naming the place.
    """
    try:
        encoder = {str(token): int(index) for token, index in json.loads(encoder_json).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"encoder_json is no table of tokens: {error}") from error
    if sorted(encoder.values()) != list(range(len(encoder))):
        raise ValueError(f"encoder_json: expected the numbers 0 to {len(encoder) - 1}, each once")
    names = sorted(encoder, key=encoder.__getitem__)
    merges = []
    for number, line in enumerate(vocab_bpe.split("\n"), 1):
        if not line or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or any(part not in encoder for part in parts):
            raise ValueError(f"vocab_bpe, line {number}: {line!r} is no pair of known tokens")
        merges.append((encoder[parts[0]], encoder[parts[1]]))
    return BytePairs(tuple(unshown(name) for name in names), tuple(merges))


def shown(token: bytes) -> str:
    """GPT-2's printable form of a byte string, one character a byte."""
    return "".join(_SHOWN[byte] for byte in token)


def unshown(name: str) -> bytes:
    """The byte string of a printable form.

    Raises:
        ValueError: naming a character that stands for no byte.
    """
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError as error:
        raise ValueError(f"token {name!r}: {error.args[0]!r} stands for no byte") from None


def check_text(text: str) -> None:
    """Raises TypeError for what is no str."""
    if not isinstance(text, str):
        raise TypeError(f"text of type {type(text).__name__}: expected str")


def check_tokens(tokens: Iterable[int], vocab_size: int) -> np.ndarray:
    """The tokens as an array [N].

    Raises:
        ValueError: if they are no integers, or one lies outside 0 ... vocab_size - 1.
    """
    if not (isinstance(tokens, Sequence) or hasattr(tokens, "shape")):
        tokens = list(tokens)
    array = np.asarray(tokens, np.int64) if len(tokens) == 0 else np.asarray(tokens)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"tokens of type {array.dtype}: expected integers")
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        wrong = array.ravel()[np.argmax((array.ravel() < 0) | (array.ravel() >= vocab_size))]
        raise ValueError(f"token {wrong} is outside the vocabulary of {vocab_size}")
    return array.ravel()


def check_unicode(text: str) -> None:
    """Raises ValueError for a lone surrogate, which no UTF-8 text has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at {error.start}"
        ) from None
