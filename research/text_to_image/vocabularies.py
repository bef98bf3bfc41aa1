"""A small vocabulary for a small world of texts: every word of it becomes one token."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from library import checks
from research.language_models.tokenizers import byte_pairs
from research.text_to_image import tokens

Symbols = tuple[str, ...]


def learn(texts: Iterable[str], max_length: int = 77, most: int | None = None) -> tokens.Tokenizer:
    """The tokeniser of CLIP's kind whose merges make whole words of those in the texts.

    Sennrich et al. 2016, arXiv:1508.07909, algorithm 1: the commonest pair of symbols is merged
    until every word is one, ties by the alphabet. All bytes are tokens too, so that any text has
    tokens.

    Args:
        texts: what is to be said, e.g. all captions.
        max_length: of a row, start and end included.
        most: merges at most; None for no limit.
    Raises:
        ValueError: for no words, or a `most` that is no positive whole number.
    """
    if most is not None:
        checks.count("most", most)
    letters = [byte_pairs.shown(bytes([byte])) for byte in byte_pairs.BYTE_ORDER]
    ends = [letter + tokens.WORD_END for letter in letters]
    counts = _words(texts, tokens.Tokenizer((*letters, *ends, tokens.START, tokens.END), ()))
    if not counts:
        raise ValueError("texts hold no word: expected at least one")
    merges: list[tuple[str, str]] = []
    while most is None or len(merges) < most:
        pairs = collections.Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        counts = collections.Counter({_merged(word, best): n for word, n in counts.items()})
    joined = dict.fromkeys("".join(pair) for pair in merges)  # two ways may lead to one token
    vocabulary = (*letters, *ends, *joined, tokens.START, tokens.END)
    return tokens.Tokenizer(vocabulary, tuple(merges), max_length=max_length)


def _words(texts: Iterable[str], plain: tokens.Tokenizer) -> collections.Counter[Symbols]:
    """How often each word occurs, as symbols that nothing has merged yet."""
    counts: collections.Counter[Symbols] = collections.Counter()
    for text, times in collections.Counter(texts).items():
        longest = 2 + 4 * len(text.encode())  # composing a text makes it no longer than this
        (row,) = dataclasses.replace(plain, max_length=longest).encode([text])
        word: list[str] = []
        for number in row[1 : row.tolist().index(plain.ids[plain.end])]:
            word.append(plain.vocabulary[number])
            if word[-1].endswith(tokens.WORD_END):
                counts[tuple(word)] += times
                word = []
    return counts


def _merged(word: Symbols, pair: tuple[str, str]) -> Symbols:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)
