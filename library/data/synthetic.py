"""Endless synthetic streams whose entropy or exponent is known exactly.

Example i is a pure function of (stream, seed, i): it is made from its own block of a counter-based
generator (Philox, Salmon et al. 2011), so a batch of consecutive examples costs one draw, and
neither the batch size nor the number of processes changes what example i is. Batches come from
`pipeline.stream_batch_at`.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import special

from library.data.pipeline import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Markov:
    """A stationary Markov source of order k over V symbols; examples are {"tokens": [T + 1]}.

    Every example starts from the stationary distribution, so all positions have the same marginal.

    Attributes:
        transition: [V, ..., V] float with k + 1 axes, p(x_t | x_{t-k}, ..., x_{t-1}), the newest
            symbol last; sums to 1 over the last axis.
        length: T, so that an example makes T predictions; at least k.
    Raises:
        ValueError: for axes of unequal size, rows that are no distribution, or a short length.
    """

    transition: np.ndarray
    length: int

    def __post_init__(self) -> None:
        shape = np.shape(self.transition)
        if len(shape) < 2 or len(set(shape)) != 1:
            raise ValueError(f"transition has shape {shape}: expected k + 1 >= 2 equal axes")
        sums = np.sum(self.transition, axis=-1)
        if not (np.min(self.transition) >= 0 and np.abs(sums - 1).max() <= 1e-9):  # nan neither
            raise ValueError("transition: expected probabilities that sum to 1 over the last axis")
        if self.length < self.order:
            raise ValueError(f"length={self.length}: expected at least the order {self.order}")

    @property
    def order(self) -> int:
        """k, the number of symbols that the next one depends on."""
        return np.ndim(self.transition) - 1

    @property
    def vocab_size(self) -> int:
        """V."""
        return np.shape(self.transition)[0]

    @functools.cached_property
    def stationary(self) -> np.ndarray:
        """[V, ..., V] float with k axes: the stationary distribution of k neighbouring symbols.

        Raises:
            ValueError: if the power iteration does not settle (a periodic chain).
        """
        context = np.full((self.vocab_size,) * self.order, float(self.vocab_size) ** -self.order)
        for _ in range(100_000):
            # Shift by one symbol: the oldest is summed out.
            shifted = np.sum(context[..., np.newaxis] * self.transition, axis=0)
            if np.abs(shifted - context).sum() < 1e-14:
                return shifted / shifted.sum()
            context = shifted
        raise ValueError("transition: no stationary distribution found; is the chain periodic?")

    def entropy_rate(self) -> float:
        """Nats per symbol given the k before it: -sum_c pi(c) sum_x p(x | c) log p(x | c)."""
        return float(np.sum(self.stationary * special.entr(self.transition).sum(-1)))

    def conditional_entropies(self) -> np.ndarray:
        """H(x_t | x_0, ..., x_{t-1}) for t = 0 ... T, [T + 1], nats.

        The mean over t >= 1 is the lowest loss that any model of the examples can reach; it lies
        above the entropy rate, because the first k positions see a shorter past.
        """
        blocks = [0.0]  # entropy of the first t symbols
        for num_symbols in range(1, self.order + 1):
            unseen = tuple(range(num_symbols, self.order))
            blocks.append(float(special.entr(self.stationary.sum(axis=unseen)).sum()))
        rest = np.full(self.length + 1 - self.order, self.entropy_rate())
        return np.concatenate([np.diff(blocks), rest])

    def log_prob(self, tokens: np.ndarray) -> np.ndarray:
        """log p(x_t | x_0, ..., x_{t-1}) of tokens [B, k + n], for t >= k only: [B, n], nats."""
        num_known = tokens.shape[1] - self.order
        past_and_next = tuple(tokens[:, lag : lag + num_known] for lag in range(self.order + 1))
        return np.log(self.transition[past_and_next])

    def examples(self, seed: int, start: int, num: int) -> Batch:
        """Examples start ... start + num - 1: {"tokens": [num, T + 1] int32}."""
        draws = uniforms("markov", seed, start, num, self.length + 2 - self.order)
        num_contexts = self.vocab_size**self.order
        context = np.searchsorted(_cdf(self.stationary.ravel()), draws[:, 0], side="right")  # [num]
        table = _cdf(self.transition.reshape(num_contexts, self.vocab_size))  # [V^k, V]
        tokens = np.empty((num, self.length + 1), np.int32)
        tokens[:, : self.order] = np.stack(
            np.unravel_index(context, (self.vocab_size,) * self.order), axis=-1
        )
        for position in range(self.order, self.length + 1):
            draw = draws[:, position - self.order + 1, np.newaxis]
            symbol = (draw >= table[context]).sum(axis=-1)  # [num]
            tokens[:, position] = symbol
            context = (context * self.vocab_size + symbol) % num_contexts
        return {"tokens": tokens}


def random_markov(
    vocab_size: int, order: int, length: int, *, seed: int, concentration: float = 1.0
) -> Markov:
    """A Markov source whose transitions are drawn from a symmetric Dirichlet distribution.

    Args:
        vocab_size, order, length: V, k and T of `Markov`.
        seed: of the transitions (the stream has a seed of its own).
        concentration: > 0; small values make a source of low entropy.
    Raises:
        ValueError: for sizes < 1 or a concentration that is not positive.
    """
    if vocab_size < 1 or order < 1 or not concentration > 0:
        raise ValueError(
            f"vocab_size={vocab_size}, order={order}, concentration={concentration}: "
            "expected positive numbers"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    shape = (vocab_size,) * order
    transition = rng.dirichlet(np.full(vocab_size, concentration), size=shape)
    return Markov(transition, length)


@dataclasses.dataclass(frozen=True, eq=False)
class Zipf:
    """Independent symbols with p(r) proportional to r^-exponent; examples are {"tokens": [T + 1]}.

    Attributes:
        vocab_size: V; token 0 is the most frequent symbol, of rank 1.
        exponent: >= 0; 0 is the uniform distribution.
        length: T, at least 1.
    Raises:
        ValueError: outside these ranges.
    """

    vocab_size: int
    exponent: float
    length: int

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or self.length < 1 or not self.exponent >= 0:
            raise ValueError(
                f"vocab_size={self.vocab_size}, length={self.length}, exponent={self.exponent}: "
                "expected >= 1, >= 1 and >= 0"
            )

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """[V] float, descending."""
        weights = np.arange(1, self.vocab_size + 1, dtype=np.float64) ** -self.exponent
        return weights / weights.sum()

    def entropy(self) -> float:
        """Nats per symbol."""
        return float(special.entr(self.probabilities).sum())

    def examples(self, seed: int, start: int, num: int) -> Batch:
        """Examples start ... start + num - 1: {"tokens": [num, T + 1] int32}."""
        draws = uniforms("zipf", seed, start, num, self.length + 1)
        tokens = np.searchsorted(_cdf(self.probabilities), draws, side="right")
        return {"tokens": tokens.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class PowerLawRegression:
    """Linear regression whose features and target both follow power laws.

    inputs_j = sqrt(lambda_j) z_j with lambda_j = j^-spectrum_exponent and z ~ N(0, I); the target
    is sum_j w_j inputs_j + noise, lambda_j w_j^2 = j^-target_exponent, as in the solvable models
    of neural scaling (Maloney, Roberts and Sully 2022, arXiv:2210.16859).

    Attributes:
        dim: D, number of features.
        spectrum_exponent: >= 0, decay of the variance of feature j.
        target_exponent: >= 0, decay of feature j's share of the target's variance; above 1 the
            truncated risk falls as n^-(target_exponent - 1).
        noise_std: >= 0, standard deviation of the label noise.
    Raises:
        ValueError: outside these ranges.
    """

    dim: int
    spectrum_exponent: float
    target_exponent: float
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.spectrum_exponent, self.target_exponent, self.noise_std)
        if self.dim < 1 or not min(numbers) >= 0:
            raise ValueError(f"{self}: expected dim >= 1 and the others >= 0")

    def spectrum(self) -> np.ndarray:
        """lambda, [D] float, descending."""
        return np.arange(1, self.dim + 1, dtype=np.float64) ** -self.spectrum_exponent

    def coefficients(self) -> np.ndarray:
        """w, [D] float."""
        ranks = np.arange(1, self.dim + 1, dtype=np.float64)
        return ranks ** ((self.spectrum_exponent - self.target_exponent) / 2)

    def truncated_risk(self, num_features: int) -> float:
        """Mean squared error of the best predictor on the first n features.

        The features are independent, so it is sum_{j > n} j^-target_exponent + noise_std^2.
        """
        tail = np.arange(num_features + 1, self.dim + 1, dtype=np.float64)
        return float(np.sum(tail**-self.target_exponent) + self.noise_std**2)

    def examples(self, seed: int, start: int, num: int) -> Batch:
        """Examples: {"inputs": [num, D] float32, "targets": [num] float32}."""
        draws = uniforms("power_law_regression", seed, start, num, self.dim + 1)
        normal = special.ndtri(np.maximum(draws, 2.0**-54))  # a draw of 0 would give -inf
        inputs = normal[:, :-1] * np.sqrt(self.spectrum())  # [num, D]
        targets = np.einsum("nd,d->n", inputs, self.coefficients())
        targets = targets + self.noise_std * normal[:, -1]
        return {"inputs": inputs.astype(np.float32), "targets": targets.astype(np.float32)}


def uniforms(stream: str, seed: int, start: int, num: int, width: int) -> np.ndarray:
    """Uniform numbers [num, width] in [0, 1) of the examples start ... start + num - 1.

    Args:
        stream: a name that keeps different streams of one seed apart.
        seed: >= 0.
        start: >= 0, number of the first example.
    """
    blocks = -(-width // 4)  # Philox makes four 64-bit words per count
    entropy = np.random.SeedSequence([seed, *stream.encode()])
    bits = np.random.Philox(seed=entropy, counter=start * blocks)
    return np.random.Generator(bits).random((num, 4 * blocks))[:, :width]


def _cdf(probabilities: np.ndarray) -> np.ndarray:
    """Cumulative sums along the last axis that end in exactly 1, so that no draw falls outside."""
    cumulative = np.cumsum(probabilities, axis=-1)
    return cumulative / cumulative[..., -1:]
