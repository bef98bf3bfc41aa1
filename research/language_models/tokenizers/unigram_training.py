"""Learning a unigram vocabulary: many candidate pieces, EM for their probabilities, pruning.

Kudo 2018, arXiv:1804.10959, section 3.2. All segmentations of all distinct words form one lattice,
kept as flat arrays, so that each pass over a corpus is a few array operations a letter.
"""

from __future__ import annotations

import array
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from research.language_models.tokenizers import unigram

SLACK = 1.1  # pruning stops at this multiple of the vocabulary; the last cut is by probability
CHARACTER_FLOOR = -30.0  # nats, of a character while training
LEAST_EXPECTED = 0.5  # uses in the corpus below which a piece is dropped, as in SentencePiece


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in the texts, with its leading U+2581; TypeError for one text."""
    counts: Counter[str] = Counter()
    if isinstance(texts, str):
        raise TypeError("texts is one str, of which the characters would count: expected [text]")
    for text in texts:
        counts.update(unigram.SPACE + word for word in text.split())
    return counts


def train(
    counts: Mapping[str, int],
    vocab_size: int,
    *,
    max_piece: int = 16,
    num_seeds: int = 100_000,
    shrink: float = 0.75,
    em_steps: int = 2,
) -> unigram.Unigram:
    """A vocabulary for a corpus: all its characters, and the substrings that explain it best.

    Args:
        counts: occurrences of each word, from `count_words`.
        vocab_size: pieces in the end, with the unknown as number 0 and the rest in falling order;
            fewer come out if fewer are of any use.
        max_piece: characters of the longest candidate.
        num_seeds: candidates at the start, those of highest count times length.
        shrink: share of the pieces that one round of pruning keeps, in (0, 1).
        em_steps: of each round, >= 1.
    Raises:
        ValueError: for an empty corpus, or a vocabulary too small for its characters or too large
            for its substrings (both bounds are named).
        TypeError: for counts that are no mapping, such as the text itself.
    """
    if not isinstance(counts, Mapping):
        raise TypeError(
            f"counts of type {type(counts).__name__}: expected a mapping, as `count_words` makes"
        )
    if not counts:
        raise ValueError("counts are empty: there is nothing to learn from")
    if not 0 < shrink < 1 or em_steps < 1 or max_piece < 1:
        raise ValueError(f"shrink={shrink}, em_steps={em_steps}, max_piece={max_piece}: too small")
    pieces, log_probs = seed(counts, max_piece, num_seeds)
    characters = {character for word in counts for character in word}
    if not len(characters) < vocab_size <= len(pieces) + 1:
        raise ValueError(
            f"vocab_size={vocab_size}: expected {len(characters) + 1} (the characters and the "
            f"unknown) to {len(pieces) + 1} (the repeated substrings)"
        )
    lattice = Lattice.of(counts, pieces)
    while True:
        single = np.array([len(piece) == 1 for piece in pieces])
        for _ in range(em_steps):
            log_probs, _, expected = em_step(lattice, log_probs)
            # Characters cover what longer pieces leave over when they are pruned.
            log_probs = np.where(single, np.maximum(log_probs, CHARACTER_FLOOR), log_probs)
        if len(pieces) <= SLACK * vocab_size:
            return _finish(pieces, log_probs, characters, vocab_size)
        rare = ~single & (expected < LEAST_EXPECTED)
        target = max(int(SLACK * vocab_size), int(shrink * len(pieces)))
        kept = _prune(lattice, pieces, log_probs, ~rare, target)
        pieces, log_probs = [pieces[i] for i in kept], log_probs[kept]
        lattice = lattice.restricted(kept)


def seed(counts: Mapping[str, int], max_piece: int, num_seeds: int) -> tuple[list[str], np.ndarray]:
    """Candidates and their first log-probabilities: all characters, and repeated substrings.

    Returns:
        S strings and [S] float, nats; probabilities proportional to count times length.
    """
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + max_piece, len(word)) + 1):
                found[word[start:end]] += count
    weight = {piece: count * len(piece) for piece, count in found.items()}
    longer = [piece for piece, count in found.items() if len(piece) > 1 and count > 1]
    longer = sorted(longer, key=lambda piece: (-weight[piece], piece))[:num_seeds]
    pieces = sorted(piece for piece in found if len(piece) == 1) + longer
    weights = np.array([weight[piece] for piece in pieces], np.float64)
    return pieces, np.log(weights / weights.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """Every place where a piece fits into a word; nodes are the gaps between characters.

    Attributes:
        counts: [W] float, occurrences of each word.
        first, last: [W] int, nodes at the two ends of each word.
        piece, word, source, target: [M] int, an edge's piece, its word and the nodes it joins.
    """

    counts: np.ndarray
    first: np.ndarray
    last: np.ndarray
    piece: np.ndarray
    word: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, counts: Mapping[str, int], pieces: list[str], whole_words: bool = True) -> Lattice:
        """The lattice of some words; without `whole_words` no edge spans one entirely."""
        number = {piece: index for index, piece in enumerate(pieces)}
        longest = max(map(len, pieces))
        edges, first, node = array.array("q"), [], 0
        for index, word in enumerate(counts):
            first.append(node)
            for start in range(len(word)):
                for end in range(start + 1, min(start + longest, len(word)) + 1):
                    token = number.get(word[start:end])
                    if token is not None and (whole_words or end - start < len(word)):
                        edges.extend((token, index, node + start, node + end))
            node += len(word) + 1
        lengths = np.array([len(word) for word in counts])
        return cls(
            np.array(list(counts.values()), np.float64),
            np.array(first),
            np.array(first) + lengths,
            *np.array(edges, np.int64).reshape(-1, 4).T.copy(),
        )

    def restricted(self, kept: np.ndarray) -> Lattice:
        """The lattice of the pieces kept [R], which are numbered anew."""
        number = np.full(max(self.piece.max(), kept.max()) + 1, -1)
        number[kept] = np.arange(len(kept))
        piece = number[self.piece]
        edges = piece >= 0
        return dataclasses.replace(
            self,
            piece=piece[edges],
            word=self.word[edges],
            source=self.source[edges],
            target=self.target[edges],
        )

    @property
    def num_nodes(self) -> int:
        """Nodes of all words together."""
        return int(self.last[-1]) + 1

    @functools.cached_property
    def by_end(self) -> tuple[np.ndarray, ...]:
        """The edges that end at each place of their word in turn."""
        return _groups(self.target - self.first[self.word])

    @functools.cached_property
    def by_start(self) -> tuple[np.ndarray, ...]:
        """The edges that start at each place of their word in turn."""
        return _groups(self.source - self.first[self.word])


def em_step(lattice: Lattice, log_probs: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """One step of expectation and maximisation over all segmentations.

    Args:
        log_probs: [S] float, nats.
    Returns:
        New log-probabilities [S], -inf for pieces that no segmentation uses; the log-likelihood
        of the corpus under the old ones, in nats, which no step lowers; expected uses [S].
    """
    scores = log_probs[lattice.piece]  # [M]
    forward = np.full(lattice.num_nodes, -np.inf)
    forward[lattice.first] = 0.0
    for edges in lattice.by_end:
        _log_sum_at(forward, lattice.target[edges], forward[lattice.source[edges]] + scores[edges])
    backward = np.full(lattice.num_nodes, -np.inf)
    backward[lattice.last] = 0.0
    for edges in reversed(lattice.by_start):
        _log_sum_at(
            backward, lattice.source[edges], backward[lattice.target[edges]] + scores[edges]
        )
    evidence = forward[lattice.last]  # [W]
    posterior = np.exp(
        forward[lattice.source] + scores + backward[lattice.target] - evidence[lattice.word]
    )
    expected = np.bincount(
        lattice.piece, posterior * lattice.counts[lattice.word], minlength=len(log_probs)
    )
    with np.errstate(divide="ignore"):
        updated = np.log(expected / expected.sum())
    return updated, float(lattice.counts @ evidence), expected


def best_paths(lattice: Lattice, log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Viterbi over all words at once.

    Returns:
        Scores [W], nats, -inf where no path exists; and the edges [R] of all best paths.
    """
    scores = log_probs[lattice.piece]
    best = np.full(lattice.num_nodes, -np.inf)
    best[lattice.first] = 0.0
    back = np.full(lattice.num_nodes, -1)
    for edges in lattice.by_end:
        values = best[lattice.source[edges]] + scores[edges]
        np.maximum.at(best, lattice.target[edges], values)
        winners = edges[(values == best[lattice.target[edges]]) & (values > -np.inf)]
        back[lattice.target[winners]] = winners
    node = lattice.last[best[lattice.last] > -np.inf]
    used = [np.zeros(0, np.int64)]
    while len(node):
        edges = back[node]
        edges = edges[edges >= 0]
        used.append(edges)
        node = lattice.source[edges]
    return best[lattice.last], np.concatenate(used)


def _prune(
    lattice: Lattice, pieces: list[str], log_probs: np.ndarray, allowed: np.ndarray, target: int
) -> np.ndarray:
    """The pieces to keep: all characters, then those whose loss would cost most likelihood.

    SentencePiece's estimate: without a piece its uses go to the best segmentation of itself.
    """
    single = np.array([len(piece) == 1 for piece in pieces])
    usable = np.where(allowed, log_probs, -np.inf)
    _, edges = best_paths(lattice, usable)
    weights = lattice.counts[lattice.word[edges]]
    uses = np.bincount(lattice.piece[edges], weights, minlength=len(pieces))
    total = uses.sum()
    # Each piece as a word of its own, cut into other pieces.
    others = Lattice.of(dict.fromkeys(pieces, 1), pieces, whole_words=False)
    scores, alternatives = best_paths(others, usable)
    owner = others.word[alternatives]
    length = np.bincount(owner, minlength=len(pieces))
    with np.errstate(divide="ignore", invalid="ignore"):
        # The uses of the piece are added to each of its parts, and the sum grows by as many.
        parts = np.log(uses[others.piece[alternatives]] + uses[owner])
        log_total = np.log(total + uses * (length - 1))
        without = np.bincount(owner, parts, minlength=len(pieces)) - length * log_total
        loss = uses / total * (np.log(uses) - np.log(total) - without)
    keep = allowed & (uses > 0) & (scores <= usable) & ~single
    order = np.flatnonzero(keep)[np.argsort(-loss[keep], kind="stable")]
    return np.concatenate([np.flatnonzero(single), order[: max(target - int(single.sum()), 0)]])


def _finish(
    pieces: list[str], log_probs: np.ndarray, characters: set[str], vocab_size: int
) -> unigram.Unigram:
    """Cuts to size by probability, keeps every character, sorts, puts the unknown in front."""
    order = sorted(range(len(pieces)), key=lambda i: (-log_probs[i], pieces[i]))
    longer = [i for i in order if len(pieces[i]) > 1][: vocab_size - 1 - len(characters)]
    chosen = set(longer) | {i for i in order if len(pieces[i]) == 1}
    order = [i for i in order if i in chosen]
    return unigram.Unigram(
        ("<unk>", *(pieces[i] for i in order)), np.append(0.0, log_probs[order]), unknown=0
    )


def _groups(place: np.ndarray) -> tuple[np.ndarray, ...]:
    """The edges at each place in turn, as index arrays."""
    order = np.argsort(place, kind="stable")
    borders = np.flatnonzero(np.diff(place[order])) + 1
    return tuple(np.split(order, borders)) if len(order) else ()


def _log_sum_at(values: np.ndarray, index: np.ndarray, terms: np.ndarray) -> None:
    """values[i] = log of the sum of exp(terms) over all places where index == i."""
    nodes, place = np.unique(index, return_inverse=True)
    top = np.full(len(nodes), -np.inf)
    np.maximum.at(top, place, terms)
    safe = np.where(np.isfinite(top), top, 0.0)  # a node that nothing reaches stays at -inf
    with np.errstate(divide="ignore"):
        values[nodes] = safe + np.log(np.bincount(place, np.exp(terms - safe[place])))
