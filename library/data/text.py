"""Text as tokens: sources, character vocabularies, bytes, splits and windows.

Python's own language reference (`pydoc_topics`) needs no download; every other text is a file,
under `ANSATZ_DATA` or anywhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import zlib

import numpy as np

from library import checks
from library.data import sources
from library.storage import files


def pydoc_topics() -> str:
    """The topics of Python's `help`: about 0.5 MB of technical English.

    The text and its size depend on the Python version, so losses compare on one version only.
    """
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def read(file: sources.PathLike) -> str:
    """The text of a UTF-8 file, plain or gzipped, newlines as they are.

    Args:
        file: a path; one that is not there is looked for under `ANSATZ_DATA`.
    Raises:
        FileNotFoundError: if it is in neither place.
        ValueError: if it is not UTF-8 or a damaged gzip file.
    """
    path = files.local(file)
    if not path.is_file():
        (path,) = sources.require(path.name, [str(file)])
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or damaged gzip file ({error})") from error


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Characters as tokens 0 ... V - 1.

    Attributes:
        symbols: the V characters, each once, in ascending order.
    """

    symbols: str

    def __post_init__(self) -> None:
        if not self.symbols:
            raise ValueError("symbols: expected at least one character, got none")
        if list(self.symbols) != sorted(set(self.symbols)):
            raise ValueError("symbols: expected distinct characters in ascending order")

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of all characters in a text."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Tokens [N] int32 of a text of N characters.

        Raises:
            ValueError: naming the first character that is not in the vocabulary, and its place.
        """
        codes = _codes(text)  # [N]
        tokens = np.searchsorted(self._codes, codes).clip(max=len(self) - 1)
        unknown = self._codes[tokens] != codes
        if unknown.any():
            place = int(unknown.argmax())
            raise ValueError(
                f"character {text[place]!r} (U+{ord(text[place]):04X}) at {place} is not among "
                f"the {len(self)} symbols of the vocabulary"
            )
        return tokens.astype(np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens [N] int.

        Raises:
            ValueError: for a token outside 0 ... V - 1.
        """
        tokens = _check_tokens(tokens, len(self))
        return self._codes[tokens].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        return _codes(self.symbols)  # [V], ascending


def encode_bytes(text: str) -> np.ndarray:
    """The UTF-8 bytes of a text as tokens [N] int32 in 0..255."""
    return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)


def decode_bytes(tokens: np.ndarray) -> str:
    """The text of byte tokens [N]; what is not UTF-8 becomes U+FFFD.

    Raises:
        ValueError: for a token outside 0..255.
    """
    return _check_tokens(tokens, 256).astype(np.uint8).tobytes().decode("utf-8", "replace")


def split(tokens: np.ndarray, validation_fraction: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The first part for training and the rest for validation, without overlap.

    Args:
        tokens: [N].
        validation_fraction: in (0, 1).
    Returns:
        Views [floor((1 - fraction) N)] and the rest.
    Raises:
        ValueError: if the fraction is outside (0, 1) or a part comes out empty.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction}: expected 0 < fraction < 1")
    num_train = int(len(tokens) * (1 - validation_fraction))
    if not 0 < num_train < len(tokens):
        raise ValueError(f"{len(tokens)} tokens are too few to split at {validation_fraction}")
    return tokens[:num_train], tokens[num_train:]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a token sequence as a random-access source of {"tokens": [T + 1]}.

    Inputs are tokens[:-1] and targets tokens[1:]. `pipeline.array_batch_at` gathers a whole batch
    in one call.

    Attributes:
        tokens: [N].
        length: T, predictions per window.
        stride: from one window's start to the next: 1 gives every window, T windows whose targets
            do not overlap (for evaluation).
    Raises:
        ValueError: for a length or stride that is no positive whole number, tokens that are not
            int [N], or fewer than T + 1 of them.
    """

    tokens: np.ndarray
    length: int
    stride: int = 1

    def __post_init__(self) -> None:
        checks.count("length", self.length)
        checks.count("stride", self.stride)
        tokens = np.asarray(self.tokens)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"tokens {tokens.dtype}{list(tokens.shape)}: expected int [N]")
        if len(self.tokens) < self.length + 1:
            raise ValueError(
                f"{len(self.tokens)} tokens make no window of length + 1 = {self.length + 1}"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.stride
        return {"tokens": self.tokens[start : start + self.length + 1]}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The windows at `indices` [B]: {"tokens": [B, T + 1]}.

        Raises:
            IndexError: for an index outside 0 ... len - 1.
        """
        wrong = (indices < 0) | (indices >= len(self))
        if np.any(wrong):
            raise IndexError(f"window {indices[wrong][0]} of {len(self)}")
        return {"tokens": self._view[indices]}

    @functools.cached_property
    def _view(self) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.length + 1)
        return windows[:: self.stride]  # [len(self), T + 1], no copy


def _codes(text: str) -> np.ndarray:
    """Code points [N] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _check_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    tokens = np.asarray(tokens)
    if not tokens.size:
        return tokens.ravel().astype(np.int64)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens of type {tokens.dtype}: expected integers")
    if not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ValueError(
            f"tokens from {tokens.min()} to {tokens.max()}: expected 0 to {vocab_size - 1}"
        )
    return tokens.ravel()
