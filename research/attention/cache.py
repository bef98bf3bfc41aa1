"""Keys and values of earlier tokens, so that decoding costs one token at a time.

A cache is a pytree with one method, `update`, that takes in the keys and values of new tokens and
hands back all that there is to attend to, with positions. So a layer does not know how a cache
stores: contiguous as here, as a ring, in pages, or in int8. Caches of all layers are one pytree
whose leaves have the layers first, [L, ...].
"""

from __future__ import annotations

from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array


class Cache(Protocol):
    """What a layer of attention asks of a cache."""

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Cache, Array, Array, Array]:
        """Takes in new tokens and hands back all.

        Args:
            key, value: [B, T, G, K] of the new tokens.
            positions: [B or 1, T] int; a token at a negative position is padding and not kept.
        Returns:
            The cache with them; keys and values [B, S, G, K] to attend to; their positions
            [B or 1, S], negative where a slot is empty.
        """


@flax.struct.dataclass
class Contiguous:
    """Position p lies in slot p; a token beyond the last slot is dropped.

    Attributes:
        key, value: [B, S, G, K].
        positions: [B, S] int32, -1 where a slot is empty.
    """

    key: Array
    value: Array
    positions: Array

    @property
    def length(self) -> int:
        """S, the number of slots."""
        return self.key.shape[-3]

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Contiguous, Array, Array, Array]:
        """See `Cache`; ValueError for more tokens at once than slots."""
        if key.shape[1] > self.length:
            raise ValueError(f"{key.shape[1]} tokens do not fit into a cache of {self.length}")
        batch = key.shape[0]
        positions = jnp.broadcast_to(positions, (batch, key.shape[1]))
        slots = jnp.where(positions < 0, self.length, positions)  # [B, T], out of range: dropped
        rows = jnp.arange(batch)[:, None]

        def put(old: Array, new: Array) -> Array:
            return old.at[rows, slots].set(new.astype(old.dtype), mode="drop")

        new = Contiguous(put(self.key, key), put(self.value, value), put(self.positions, positions))
        return new, new.key, new.value, new.positions


def contiguous(
    num_layers: int,
    batch: int,
    length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: Any = jnp.float32,
) -> Contiguous:
    """An empty cache of `length` slots for all layers; leaves [L, B, S, ...].

    It takes 2 L G K bytes_per_value for each token of each sequence, and 4 L for its position.
    """
    shape = (num_layers, batch, length, num_kv_heads, head_dim)
    return Contiguous(
        jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.full(shape[:3], -1, jnp.int32)
    )


def nbytes(cache: Any) -> int:
    """Bytes of all arrays in a cache, or of their shapes."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(cache))
