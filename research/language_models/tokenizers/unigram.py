"""The unigram language model of subwords: a text as its most probable sequence of pieces.

Kudo 2018, arXiv:1804.10959. A piece has a log-probability; the probability of a segmentation is the
product over its pieces, and Viterbi's recursion finds the best one. Spaces are written as U+2581,
so that pieces join to the text without further rules (Kudo and Richardson 2018, arXiv:1808.06226).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from research.language_models.tokenizers import byte_pairs

SPACE = "\u2581"
UNKNOWN_PENALTY = 10.0  # nats below the worst piece, as in SentencePiece
UNKNOWN_TEXT = " \u2047 "  # what SentencePiece decodes the unknown token to


def mark_spaces(text: str) -> str:
    """The plain normaliser: runs of white space become one U+2581, another goes in front."""
    return "".join(SPACE + word for word in text.split())


@dataclasses.dataclass(frozen=True, eq=False)
class Unigram:
    """Pieces 0 ... V - 1 with their log-probabilities.

    Attributes:
        pieces: V strings, each once.
        scores: [V] float, log-probabilities in nats; those of unknown and controls are unused.
        unknown: the token of what no piece covers.
        controls: tokens that no text contains and that decode to nothing, such as `<s>`.
        normalize: text -> the string that is cut into pieces, spaces as U+2581.
        unused: tokens that no text is cut into, but that decode to their piece.
        unknown_text: what the unknown token decodes to.
        leading_spaces: of a decoded text: "drop one" (that which `normalize` puts in front), "drop"
            one of every piece before the first that holds more, or "keep".
    Raises:
        ValueError: for a piece that is empty or there twice, scores of another number, used ones
            that are not finite, or an unknown, control or unused token that is not there.
    """

    pieces: tuple[str, ...]
    scores: np.ndarray
    unknown: int = 0
    controls: frozenset[int] = frozenset()
    normalize: Callable[[str], str] = mark_spaces
    unused: frozenset[int] = frozenset()
    unknown_text: str = UNKNOWN_TEXT
    leading_spaces: Literal["drop one", "drop", "keep"] = "drop one"

    def __post_init__(self) -> None:
        if np.shape(self.scores) != (len(self.pieces),):
            raise ValueError(
                f"scores of shape {np.shape(self.scores)} for {len(self.pieces)} pieces"
            )
        if self.leading_spaces not in ("drop one", "drop", "keep"):
            raise ValueError(
                f"leading_spaces={self.leading_spaces!r}: expected 'drop one', 'drop' or 'keep'"
            )
        for name, tokens in (
            ("unknown", [self.unknown]),
            ("controls", self.controls),
            ("unused", self.unused),
        ):
            wrong = [token for token in tokens if not 0 <= token < len(self)]
            if wrong:
                raise ValueError(f"{name}={wrong[0]}: expected a token below {len(self)}")
        used = [token for token in self._tokens.values() if not np.isfinite(self.scores[token])]
        if used:
            raise ValueError(f"score {self.scores[used[0]]} of token {used[0]}: expected a number")
        twice = {p for p in self.pieces if not p} or _repeated(self.pieces)
        if twice:
            raise ValueError(f"piece {min(twice)!r} is empty or in the vocabulary twice")

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> np.ndarray:
        """Tokens [N] int32 of a text; a run of unknown characters is one unknown token."""
        return np.array([token for token, _ in self.segment(text)], np.int32)

    def segment(self, text: str) -> list[tuple[int, str]]:
        """The best segmentation of the normalised text, as (token, string).

        Raises:
            TypeError: for what is no str.
        """
        byte_pairs.check_text(text)
        text = self.normalize(text)
        known: dict[str, list[tuple[int, str]]] = {}
        path: list[tuple[int, str]] = []
        for word in self._words(text):
            if word not in known:
                known[word] = self.viterbi(word)[0]
            path += known[word]
        merged: list[tuple[int, str]] = []
        for token, string in path:
            if token == self.unknown and merged and merged[-1][0] == self.unknown:
                merged[-1] = (token, merged[-1][1] + string)
            else:
                merged.append((token, string))
        return merged

    def viterbi(self, string: str) -> tuple[list[tuple[int, str]], float]:
        """The best path over the pieces of a string that is normalised already.

        Of equal paths the one whose last piece is longest wins, as in SentencePiece.

        Returns:
            [(token, string), ...] and its log-probability, in nats.
        """
        best = [0.0] + [-np.inf] * len(string)
        back: list[tuple[int, int]] = [(0, 0)] * (len(string) + 1)  # (start, token)
        for start in range(len(string)):
            covered = False
            for end in range(start + 1, min(start + self._longest, len(string)) + 1):
                token = self._tokens.get(string[start:end])
                if token is None:
                    continue
                covered |= end == start + 1
                score = best[start] + self._score_list[token]
                if score > best[end]:
                    best[end], back[end] = score, (start, token)
            if not covered and best[start] + self._unknown_score > best[start + 1]:
                best[start + 1] = best[start] + self._unknown_score
                back[start + 1] = (start, self.unknown)
        path, end = [], len(string)
        while end:
            start, token = back[end]
            path.append((token, string[start:end]))
            end = start
        return path[::-1], best[-1]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens [N]: unknown as `unknown_text`, controls as nothing.

        Raises:
            ValueError: for a token outside 0 ... V - 1.
        """
        tokens = byte_pairs.check_tokens(tokens, len(self)).tolist()
        out, leading = [], self.leading_spaces != "keep"
        for token in tokens:
            if token in self.controls:
                continue
            if token == self.unknown:
                string = self.unknown_text
                leading = leading and not string
            else:
                string = self.pieces[token]
                if leading and string.startswith(SPACE):
                    string, leading = string[1:], self.leading_spaces == "drop"
                leading = leading and not string
                string = string.replace(SPACE, " ")
            out.append(string)
        return "".join(out)

    @functools.cached_property
    def _tokens(self) -> dict[str, int]:
        never = {self.unknown, *self.controls, *self.unused}
        return {piece: index for index, piece in enumerate(self.pieces) if index not in never}

    @functools.cached_property
    def _score_list(self) -> list[float]:
        return np.asarray(self.scores, np.float64).tolist()

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self._tokens), default=1)

    @functools.cached_property
    def _unknown_score(self) -> float:
        scores = [self._score_list[token] for token in self._tokens.values()]
        return min(scores, default=0.0) - UNKNOWN_PENALTY

    @functools.cached_property
    def _separable(self) -> bool:
        """Whether a space can only begin a piece, so that words are cut apart exactly."""
        return not any(SPACE in piece[1:] for piece in self._tokens)

    def _words(self, text: str) -> list[str]:
        if not self._separable:
            return [text] if text else []
        head, *rest = text.split(SPACE)
        return ([head] if head else []) + [SPACE + word for word in rest]


def _repeated(pieces: tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    return {piece for piece in pieces if piece in seen or seen.add(piece)}
