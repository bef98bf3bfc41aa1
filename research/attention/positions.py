"""Where a token is: added features, rotations, and biases of the logits.

In a row of packed documents each document has positions of its own, from `in_documents`: then every
encoding here, and a learned table, gives it what it would give the document alone.
"""

from __future__ import annotations

import dataclasses
import math

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, at_least_float32


def sinusoidal(positions: Array, dim: int, max_period: float = 10_000.0) -> Array:
    """Sines and cosines of geometric frequencies, Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5.

    PE(t, 2i) = sin(t / max_period^(2i/dim)), PE(t, 2i + 1) = cos(the same).

    Args:
        positions: [..., T] int or float.
        dim: D, even.
        max_period: the longest wave length over 2 pi.
    Returns:
        [..., T, D] float in [-1, 1].
    Raises:
        ValueError: for an odd `dim`, or a period that is not positive and finite.
    """
    _check_even(dim)
    if not 0 < max_period < math.inf:
        raise ValueError(f"max_period={max_period}: expected a positive number")
    angles = _angles(positions, inverse_frequencies(dim, max_period))  # [..., T, D/2]
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # [..., T, D/2, 2]
    return pairs.reshape(*positions.shape, dim)


def in_documents(ids: Array) -> Array:
    """Positions in a row of packed documents: 0 at the first token of each, then 1, 2, ...

    Args:
        ids: [B, T] int, the document of each token; a document ends where the next number differs.
    Returns:
        [B, T] int32.
    """
    chex.assert_rank(ids, 2)
    slots = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    begins = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return slots - jax.lax.cummax(jnp.where(begins, slots, 0), axis=1)  # [B, T]


def inverse_frequencies(dim: int, base: float = 10_000.0) -> np.ndarray:
    """base^(-2i/dim) for i = 0 ... dim/2 - 1, [dim/2] float64: radians per position."""
    return base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions, Su et al. 2021, arXiv:2104.09864: scores depend on i - j only.

    Feature k is paired with k + K/2 (the layout of LLaMA weights on Hugging Face). A scaling
    stretches a trained model to longer texts; `llama3_factor` is Llama 3.1's (its
    `rope_type: llama3`): waves longer than `original_length / low` are slowed by the factor, those
    shorter than `original_length / high` are kept, between them it is interpolated.

    Attributes:
        base: ratio of the frequencies' range; LLaMA 10,000, Llama 3 500,000.
        linear_factor: positions are divided by it (Chen et al. 2023, arXiv:2306.15595).
        ntk_factor: the base is multiplied by factor^(K/(K-2)), so that the slowest wave is slowed
            by it and the fastest is kept.
        llama3_factor, original_length, low, high: see above; a factor of 1 changes nothing.
    """

    base: float = 10_000.0
    linear_factor: float = 1.0
    ntk_factor: float = 1.0
    llama3_factor: float = 1.0
    original_length: int = 8192
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self) -> None:
        for name in ("base", "linear_factor", "ntk_factor", "llama3_factor", "original_length"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: expected low < high")

    def frequencies(self, dim: int) -> np.ndarray:
        """[dim/2] float64, radians per position."""
        _check_even(dim)
        base = self.base * self.ntk_factor ** (dim / max(dim - 2, 1))
        frequencies = inverse_frequencies(dim, base) / self.linear_factor
        turns = self.original_length * frequencies / (2 * math.pi)  # within the trained length
        keep = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return frequencies * (keep + (1 - keep) / self.llama3_factor)

    def __call__(self, x: Array, positions: Array) -> Array:
        """Rotates x [B, T, H, K] by its positions [B or 1, T]; norms are kept."""
        chex.assert_rank([x, positions], [4, 2])
        angles = _angles(positions, self.frequencies(x.shape[-1]))[:, :, None, :]  # [B, T, 1, K/2]
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        wide = x.astype(at_least_float32(x.dtype))
        left, right = jnp.split(wide, 2, axis=-1)
        turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
        return turned.astype(x.dtype)


@flax.struct.dataclass
class Alibi:
    """The bias -slope |i - j|, Press et al. 2021, arXiv:2108.12409; under a causal mask theirs.

    Attributes:
        slopes: [H] float > 0, from `alibi_slopes`.
    """

    slopes: Array

    def __call__(self, i: Array, j: Array) -> Array:
        """[B or 1, T, 1], [B or 1, 1, S] -> [B or 1, H, T, S]."""
        chex.assert_rank([self.slopes, i, j], [1, 3, 3])
        # bfloat16 holds no odd distance above 256.
        distance = jnp.abs(i - j).astype(at_least_float32(self.slopes.dtype))
        return -self.slopes[None, :, None, None] * distance[:, None]


def alibi_slopes(num_heads: int) -> np.ndarray:
    """2^(-8h/H) for h = 1 ... H if H is a power of two; [H] float64.

    Otherwise those of the next smaller power of two, then every other one of the next larger, as in
    the authors' code (github.com/ofirpress/attention_with_linear_biases).

    Raises:
        ValueError: for a number of heads that is no positive whole number.
    """
    checks.count("num_heads", num_heads)
    power = 2 ** int(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8.0 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([slopes, between[: num_heads - power]])


@flax.struct.dataclass
class Buckets:
    """A learned bias by bucket of j - i, Raffel et al. 2019, arXiv:1910.10683, section 2.1.

    Attributes:
        table: [num_buckets, H] float, the parameters.
        bidirectional: half of the buckets for keys after the query; else those share bucket 0.
        max_distance: distances from here on share the last bucket.
    """

    table: Array
    bidirectional: bool = flax.struct.field(pytree_node=False, default=True)
    max_distance: int = flax.struct.field(pytree_node=False, default=128)

    def __call__(self, i: Array, j: Array) -> Array:
        """[B or 1, T, 1], [B or 1, 1, S] -> [B or 1, H, T, S]."""
        chex.assert_rank([self.table, i, j], [2, 3, 3])
        index = bucket(j - i, self.table.shape[0], self.bidirectional, self.max_distance)
        return jnp.moveaxis(jnp.take(self.table, index, axis=0), -1, 1)


def bucket(offset: Array, num_buckets: int, bidirectional: bool, max_distance: int) -> Array:
    """The bucket of each offset key - query: exact when near, logarithmic when far.

    Args:
        offset: int, any shape.
        num_buckets: as many buckets in all.
        bidirectional: see `Buckets`.
        max_distance: the distance from which on all share the last bucket.
    Returns:
        int32 in [0, num_buckets), the shape of `offset`.
    Raises:
        ValueError: for too few buckets to have one that is exact, or a distance that these cover.
    """
    num_side = num_buckets // 2 if bidirectional else num_buckets
    distance = jnp.abs(offset) if bidirectional else jnp.maximum(-offset, 0)
    num_exact = num_side // 2
    if num_exact < 1 or max_distance <= num_exact:
        raise ValueError(
            f"num_buckets={num_buckets}, max_distance={max_distance}: expected at least "
            f"{4 if bidirectional else 2} buckets and a distance above {max(num_exact, 1)}"
        )
    # The distance at which each bucket after the first begins: comparing integers leaves no doubt
    # at the edges, which logarithms in float32 do.
    steps = np.arange(num_side - num_exact) / (num_side - num_exact)
    far = np.ceil(num_exact * (max_distance / num_exact) ** steps - 1e-9).astype(int)
    starts = jnp.asarray(np.concatenate([np.arange(1, num_exact), far]), offset.dtype)
    index = jnp.searchsorted(starts, distance, side="right").astype(jnp.int32)
    return index + jnp.where(offset > 0, num_side, 0) if bidirectional else index


def _angles(positions: Array, frequencies: np.ndarray) -> Array:
    """[..., T] -> [..., T, D/2], in float32, or float64 under x64."""
    dtype = jnp.result_type(float)
    return jnp.einsum("...t,d->...td", positions.astype(dtype), jnp.asarray(frequencies, dtype))


def _check_even(dim: int) -> None:
    if dim < 2 or dim % 2:
        raise ValueError(f"dim={dim}: expected an even number of features >= 2")
