"""Learning byte pairs: the most frequent pair becomes a token, until there are enough tokens.

Counts of pairs are kept up to date, not recomputed: a merge touches only the words that hold it,
and a heap with lazy deletion finds the next pair.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from library import checks
from research.language_models.tokenizers import byte_pairs, pretokens


def count_words(texts: Iterable[str], split: byte_pairs.Split = pretokens.split) -> Counter[bytes]:
    """How often each pre-token occurs in the texts, as UTF-8; TypeError for one text."""
    counts: Counter[str] = Counter()
    if isinstance(texts, str):
        raise TypeError("texts is one str, of which the characters would count: expected [text]")
    for text in texts:
        counts.update(split(text))
    return Counter({word.encode("utf-8"): count for word, count in counts.items()})


def train(
    counts: Mapping[bytes, int],
    vocab_size: int,
    *,
    min_count: int = 1,
    split: byte_pairs.Split = pretokens.split,
) -> byte_pairs.BytePairs:
    """The merges of a corpus, Sennrich et al. 2016, arXiv:1508.07909, algorithm 1.

    Of pairs that are equally frequent the one with the lower tokens comes first, as in the library
    `tokenizers`; the 256 bytes stand in GPT-2's order.

    Args:
        counts: occurrences of each pre-token, from `count_words`.
        vocab_size: >= 256; fewer tokens come out if no pair is frequent enough.
        min_count: occurrences below which a pair does not merge, >= 1.
        split: what the counts were made with.
    Raises:
        ValueError: for a vocabulary too small for the bytes, or an empty corpus.
        TypeError: for counts that are no mapping, such as the text itself.
    """
    checks.count("vocab_size", vocab_size)
    if vocab_size < 256:
        raise ValueError(f"vocab_size={vocab_size}: the 256 bytes alone need more")
    checks.count("min_count", min_count)
    if not isinstance(counts, Mapping):
        raise TypeError(
            f"counts of type {type(counts).__name__}: expected a mapping, as `count_words` makes"
        )
    if not counts:
        raise ValueError("counts are empty: there is nothing to learn from")
    number = {byte: index for index, byte in enumerate(byte_pairs.BYTE_ORDER)}
    corpus = _Corpus([[number[byte] for byte in word] for word in counts], list(counts.values()))
    tokens = [bytes([byte]) for byte in byte_pairs.BYTE_ORDER]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = []
    while len(tokens) < vocab_size:
        pair = corpus.most_frequent(min_count)
        if pair is None:
            break
        result = tokens[pair[0]] + tokens[pair[1]]
        new = ids.setdefault(result, len(tokens))
        if new == len(tokens):
            tokens.append(result)
        merges.append(pair)
        corpus.merge(pair, new)
    return byte_pairs.BytePairs(tuple(tokens), tuple(merges), split)


class _Corpus:
    """Words as lists of tokens, with the counts of neighbours and the words each pair is in."""

    def __init__(self, words: list[list[int]], counts: list[int]) -> None:
        self.words, self.counts = words, counts
        self.pairs: dict[tuple[int, int], int] = defaultdict(int)
        self.where: dict[tuple[int, int], set[int]] = defaultdict(set)
        for index, word in enumerate(words):
            self._count(index, word)
        self.heap = [(-count, pair) for pair, count in self.pairs.items()]
        heapq.heapify(self.heap)

    def most_frequent(self, min_count: int) -> tuple[int, int] | None:
        """The pair of the highest count, of these the lowest; None below `min_count`."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            if -count != self.pairs[pair]:
                # Merges around it have lowered the count since it was pushed.
                if self.pairs[pair] > 0:
                    heapq.heappush(self.heap, (-self.pairs[pair], pair))
            elif -count >= min_count:
                return pair
            else:
                return None
        return None

    def merge(self, pair: tuple[int, int], new: int) -> None:
        """Replaces the pair everywhere, from the left."""
        changed = set()
        for index in self.where.pop(pair):
            old, count = self.words[index], self.counts[index]
            for neighbours in zip(old, old[1:]):
                self.pairs[neighbours] -= count
            word = self.words[index] = _replace(old, pair, new)
            changed |= self._count(index, word, new)
        for neighbours in changed:
            heapq.heappush(self.heap, (-self.pairs[neighbours], neighbours))

    def _count(self, index: int, word: list[int], new: int = -1) -> set[tuple[int, int]]:
        """Adds the neighbours in a word; returns those that hold `new`, whose counts may grow."""
        grown = set()
        for neighbours in zip(word, word[1:]):
            self.pairs[neighbours] += self.counts[index]
            self.where[neighbours].add(index)
            if new in neighbours:
                grown.add(neighbours)
        return grown


def _replace(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and word[i] == pair[0] and word[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
