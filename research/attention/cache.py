"""Keys and values of earlier tokens, so that decoding costs one token at a time.

A cache is a pytree with one method, `update`, that takes in the keys and values of new tokens and
hands back all that there is to attend to, with positions. So a layer does not know how a cache
stores: contiguous as here, as a ring, in pages, or in int8. Caches of all layers are one pytree
whose leaves have the layers first, [L, ...].

Heads come before slots in what is stored, [B, G, S, K], the order in which attention multiplies: in
the order of the tokens, [B, S, G, K], a CPU would bring all that is stored into this one for each
new token, which took longer than the products. What `update` hands back is a view of it.
"""

from __future__ import annotations

from typing import Any, Protocol

import chex
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
            positions: [B or 1, T] int, each once in a row (slots, where positions start again with
                every document); a token at a negative position is padding and not kept.
        Returns:
            The cache with them; keys and values [B, S, G, K] to attend to; their positions
            [B or 1, S], negative where a slot is empty.
        """

    @property
    def capacity(self) -> int | None:
        """Positions 0, 1, ... that it has a slot for; None if it forgets old ones for new ones."""

    def first(self, length: int) -> Cache:
        """What the cache keeps of positions below `length`, as a smaller cache; of any layers."""

    def with_first(self, part: Cache) -> Cache:
        """The cache with that part put back."""


@flax.struct.dataclass
class Contiguous:
    """Position p lies in slot p; a token beyond the last slot is dropped.

    Attributes:
        key, value: [B, G, S, K].
        positions: [B, S] int32, -1 where a slot is empty.
    """

    key: Array
    value: Array
    positions: Array

    @property
    def length(self) -> int:
        """S, the number of slots."""
        return self.key.shape[-2]

    @property
    def capacity(self) -> int:
        """See `Cache`."""
        return self.length

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Contiguous, Array, Array, Array]:
        """See `Cache`; ValueError for more tokens at once than slots."""
        chex.assert_rank([key, value, positions], [4, 4, 2])
        if key.shape[1] > self.length:
            raise ValueError(f"{key.shape[1]} tokens do not fit into a cache of {self.length}")
        batch = key.shape[0]
        positions = jnp.broadcast_to(positions, (batch, key.shape[1]))
        slots = jnp.where(positions < 0, self.length, positions)  # [B, T], out of range: dropped
        place = (jnp.arange(batch)[:, None], slots)
        new = Contiguous(
            put(self.key, place, key),
            put(self.value, place, value),
            self.positions.at[place].set(positions.astype(jnp.int32), mode="drop"),
        )
        return new, by_slots(new.key), by_slots(new.value), new.positions

    def first(self, length: int) -> Contiguous:
        """See `Cache`."""
        key, value = self.key[..., :length, :], self.value[..., :length, :]
        return Contiguous(key, value, self.positions[..., :length])

    def with_first(self, part: Contiguous) -> Contiguous:
        """See `Cache`."""
        return jax.tree.map(
            lambda whole, new: jax.lax.dynamic_update_slice(whole, new, (0,) * whole.ndim),
            self,
            part,
        )


def contiguous(
    num_layers: int,
    batch: int,
    length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: Any = jnp.float32,
) -> Contiguous:
    """An empty cache of `length` slots for all layers; leaves [L, B, ...].

    It takes 2 L G K bytes_per_value for each token of each sequence, and 4 L for its position.
    """
    shape = (num_layers, batch, num_kv_heads, length, head_dim)
    positions = jnp.full((num_layers, batch, length), -1, jnp.int32)
    return Contiguous(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), positions)


def put(stored: Array, place: tuple[Array, Array], new: Array) -> Array:
    """Stored keys or values [B, G, S, K] with new ones [B, T, G, K] at (rows, slots), each [B, T].

    What lies out of range is dropped.
    """
    chex.assert_rank([stored, new], 4)
    rows, slots = (index[..., None] for index in place)
    # An index for every head: one index alone (a row, a token) becomes a slice update, which XLA
    # fuses on a CPU into each of its readers, with a copy of all that is stored for each.
    heads = jnp.arange(stored.shape[1])
    return stored.at[rows, heads, slots].set(new.astype(stored.dtype), mode="drop")


def by_slots(stored: Array) -> Array:
    """[B, G, S, K] -> [B, S, G, K]."""
    return jnp.swapaxes(stored, 1, 2)


def first(caches: Any, length: int) -> Any:
    """The first positions of every cache of a tree, see `Cache.first`."""
    return jax.tree.map(lambda cache: cache.first(length), caches, is_leaf=_is_cache)


def with_first(caches: Any, parts: Any) -> Any:
    """A tree of caches with such parts put back."""
    return jax.tree.map(
        lambda cache, part: cache.with_first(part), caches, parts, is_leaf=_is_cache
    )


def capacity(caches: Any) -> int | None:
    """Positions that every cache of a tree has a slot for; None where there is no such bound."""
    leaves = jax.tree.leaves(caches, is_leaf=_is_cache)
    known = [getattr(leaf, "capacity", None) for leaf in leaves if _is_cache(leaf)]
    return min((size for size in known if size is not None), default=None)


def nbytes(cache: Any) -> int:
    """Bytes of all arrays in a cache, or of their shapes."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(cache))


def _is_cache(tree: Any) -> bool:
    return hasattr(tree, "with_first")
