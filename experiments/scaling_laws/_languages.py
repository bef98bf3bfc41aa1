"""The two languages of the sweep: one whose entropy is known, and English novels."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from library.data import synthetic, text

CHUNK = 1 << 15  # windows made in one call
BLOCK = 4096  # characters of a block of text, whole in training or held out


@dataclasses.dataclass(frozen=True)
class Known:
    """A Markov language whose rarer symbols are learned later; its entropy is exact.

    p(x | a, b) = w_0 z(x) + w_1 q_b(x) + w_2 r_a(x), with Zipf's law z and a distribution of its
    own for every last symbol b and every last but one a, over `support` symbols drawn by z.
    Frequencies spread over decades, so what is left to learn falls gradually. The last part needs
    attention to one symbol: all runs stay on a plateau until it has formed, and no power law
    describes that. It is off unless asked for.

    Attributes:
        vocab_size: V symbols.
        length: T, predictions a window.
        seed: of the table; streams have seeds of their own.
        weights: of the three parts.
        exponent: of Zipf's law.
        support: symbols of each q and r.
    """

    vocab_size: int
    length: int
    seed: int = 0
    weights: tuple[float, float, float] = (0.2, 0.8, 0.0)
    exponent: float = 1.0
    support: int = 4

    @functools.cached_property
    def source(self) -> synthetic.Markov:
        """The table as a stationary source, of order two where the last but one matters."""
        rng, size = np.random.default_rng(self.seed), self.vocab_size
        zipf = np.arange(1, size + 1) ** -self.exponent
        zipf = zipf / zipf.sum()

        def sparse() -> np.ndarray:  # [V, V]
            scores = np.log(zipf) + rng.gumbel(size=(size, size))  # draws without replacement
            chosen = np.argsort(-scores, 1)[:, : self.support]
            table = np.zeros((size, size))
            np.put_along_axis(table, chosen, rng.dirichlet(np.ones(self.support), size), 1)
            return table

        table = self.weights[0] * zipf + self.weights[1] * sparse()
        if self.weights[2]:
            table = table + self.weights[2] * sparse()[:, np.newaxis]  # [V, V, V]
        return synthetic.Markov(table, self.length)

    @property
    def num_windows(self) -> float:
        """How many windows there are for training: no end."""
        return float("inf")

    def entropy(self) -> float:
        """Nats a symbol that the best predictor of a window's symbols after the first pays."""
        return float(self.source.conditional_entropies()[1:].mean())

    def windows(self, seed: int, num: int) -> np.ndarray:
        """[num, T + 1] int32, new ones for each seed."""
        parts = [
            self.source.examples(seed, start, min(CHUNK, num - start))["tokens"]
            for start in range(0, num, CHUNK)
        ]
        return np.concatenate(parts)

    def held_out(self, num: int) -> np.ndarray:
        """[num, T + 1] of a stream that no training run sees."""
        return self.windows(1 << 20, num)


@dataclasses.dataclass(frozen=True)
class Written:
    """A text by characters: the commonest ones, and one symbol for all others.

    Attributes:
        file: a path, perhaps under ANSATZ_DATA; empty: Python's own help texts.
        vocab_size: V, the symbol for the rest included.
        length: T, predictions a window.
        held_out_every: one block of BLOCK characters of so many is held out.
    """

    file: str
    vocab_size: int
    length: int
    held_out_every: int = 32

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """[N] int32."""
        characters = text.read(self.file) if self.file else text.pydoc_topics()
        codes = np.frombuffer(characters.encode("utf-32-le"), "<u4")
        kinds, counts = np.unique(codes, return_counts=True)
        common = np.sort(kinds[np.argsort(-counts, kind="stable")[: self.vocab_size - 1]])
        place = np.searchsorted(common, codes).clip(max=len(common) - 1)
        return np.where(common[place] == codes, place, len(common)).astype(np.int32)

    @property
    def num_windows(self) -> float:
        """How many windows there are for training."""
        return len(self._parts()[0])

    def windows(self, seed: int, num: int) -> np.ndarray:
        """[num, T + 1] int32 in an order of the seed's own, none twice.

        Raises:
            ValueError: if the text has fewer.
        """
        train = self._parts()[0]
        if num > len(train):
            raise ValueError(f"{num} windows of {self.file}: it has {len(train)} for training")
        return train[np.random.default_rng(seed).permutation(len(train))[:num]]

    def held_out(self, num: int) -> np.ndarray:
        """[num, T + 1], spread over the text, of blocks that no training run sees."""
        held = self._parts()[1]
        if num > len(held):
            raise ValueError(f"{num} windows of {self.file}: {len(held)} are held out")
        return held[np.linspace(0, len(held) - 1, num).astype(int)]

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        size = self.length + 1
        blocks = self.tokens[: len(self.tokens) // BLOCK * BLOCK].reshape(-1, BLOCK)
        held = np.arange(len(blocks)) % self.held_out_every == 0
        cut = blocks[:, : BLOCK // size * size]
        return cut[~held].reshape(-1, size), cut[held].reshape(-1, size)
