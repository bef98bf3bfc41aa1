"""Key-value caches as pytrees: contiguous, ring, paged, and int8, behind one pair of methods.

`write` puts the keys and values of new tokens at their positions and returns the new cache; `read`
gives all keys and values with the position of each, -1 where a slot is empty. Attention then masks
by positions alone, `mask`, and knows no cache. A token at position -1 is padding and is not
written. What lies at a later position than a query, such as rejected drafts, is masked out until it
is overwritten: taking tokens back costs nothing.

A cache here serves one layer; models stack them along a leading axis and scan.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import flax.struct
import jax.numpy as jnp

from library.types import Array

EMPTY = -1  # position of a slot that holds nothing


class Cache(Protocol):
    """What a decoder needs of a cache."""

    def write(self, keys: Array, values: Array, positions: Array) -> Self:
        """Keys and values [B, T, H, K] at positions [B, T] int; -1 marks padding."""

    def read(self) -> tuple[Array, Array, Array]:
        """Keys and values [B, S, H, K] and positions [B, S]."""


def mask(queries: Array, keys: Array, window: int | None = None) -> Array:
    """Which slots each query sees: those up to its own position.

    Args:
        queries: [B, T] int, positions of the queries.
        keys: [B, S] int, positions of the slots, -1 for empty ones.
        window: number of last positions that are seen, its own included; None for all.
    Returns:
        [B, T, S] bool.
    """
    gap = queries[:, :, None] - keys[:, None, :]  # [B, T, S]
    seen = (gap >= 0) & (keys != EMPTY)[:, None, :]
    return seen if window is None else seen & (gap < window)


@flax.struct.dataclass
class Contiguous:
    """One slot a position: [B, S, H, K] for S positions. Positions from S on are not written.

    With `ring` a position p has the slot p mod S, so that the last S are kept: a sliding window of
    w tokens that is fed T tokens at a time needs S >= w + T - 1.
    """

    keys: Array
    values: Array
    positions: Array
    ring: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def create(
        cls,
        batch_size: int,
        capacity: int,
        num_heads: int,
        head_dim: int,
        dtype: Any = jnp.float32,
        ring: bool = False,
    ) -> Contiguous:
        """An empty cache of `capacity` positions a row.

        Raises:
            ValueError: if a size is below 1.
        """
        shape = _check_sizes(
            batch_size=batch_size, capacity=capacity, num_heads=num_heads, head_dim=head_dim
        )
        zeros = jnp.zeros(shape, dtype)
        return cls(zeros, zeros, jnp.full(shape[:2], EMPTY, jnp.int32), ring)

    def write(self, keys: Array, values: Array, positions: Array) -> Contiguous:
        """See `Cache`. Raises ValueError for more tokens at once than a ring has slots."""
        _check_write(self.keys.shape, keys, values, positions)
        slots = _slots(positions, self.keys.shape[1], self.ring)
        rows = jnp.arange(len(slots))[:, None]
        return self.replace(
            keys=self.keys.at[rows, slots].set(keys.astype(self.keys.dtype), mode="drop"),
            values=self.values.at[rows, slots].set(values.astype(self.values.dtype), mode="drop"),
            positions=self.positions.at[rows, slots].set(positions.astype(jnp.int32), mode="drop"),
        )

    def read(self) -> tuple[Array, Array, Array]:
        """See `Cache`."""
        return self.keys, self.values, self.positions


@flax.struct.dataclass
class Int8:
    """A contiguous (or ring) cache in bytes, one float32 scale a head and position.

    Symmetric rounding: an entry errs by at most 1/254 of the largest in its head.
    """

    codes: Contiguous
    scales: Contiguous

    @classmethod
    def create(
        cls, batch_size: int, capacity: int, num_heads: int, head_dim: int, ring: bool = False
    ) -> Int8:
        """An empty cache of `capacity` positions a row. Raises as `Contiguous.create`."""
        sizes = (batch_size, capacity, num_heads)
        return cls(
            Contiguous.create(*sizes, head_dim, jnp.int8, ring),
            Contiguous.create(*sizes, 1, jnp.float32, ring),
        )

    def write(self, keys: Array, values: Array, positions: Array) -> Int8:
        """See `Cache`."""
        (key_codes, key_scales), (value_codes, value_scales) = _to_int8(keys), _to_int8(values)
        return Int8(
            self.codes.write(key_codes, value_codes, positions),
            self.scales.write(key_scales, value_scales, positions),
        )

    def read(self) -> tuple[Array, Array, Array]:
        """See `Cache`; float32."""
        keys, values, positions = self.codes.read()
        key_scales, value_scales, _ = self.scales.read()
        return keys * key_scales, values * value_scales, positions


@flax.struct.dataclass
class Paged:
    """Rows as lists of pages of one shared pool, Kwon et al. 2023, arXiv:2309.06180.

    Rows of any lengths share memory: a row holds only the pages it has come to use.

    Attributes:
        keys, values: [N, page, H, K], the pool of N pages.
        positions: [N, page] int, -1 for empty slots.
        table: [B, M] int, the pages of each row in the order of positions; -1 for none yet.
    """

    keys: Array
    values: Array
    positions: Array
    table: Array

    @classmethod
    def create(
        cls,
        batch_size: int,
        pages_per_row: int,
        num_pages: int,
        page_size: int,
        num_heads: int,
        head_dim: int,
        dtype: Any = jnp.float32,
    ) -> Paged:
        """An empty pool of `num_pages` pages, of which a row can hold up to `pages_per_row`.

        Raises:
            ValueError: if a size is below 1.
        """
        table = jnp.full(
            _check_sizes(batch_size=batch_size, pages_per_row=pages_per_row), EMPTY, jnp.int32
        )
        pool = _check_sizes(
            num_pages=num_pages, page_size=page_size, num_heads=num_heads, head_dim=head_dim
        )
        zeros = jnp.zeros(pool, dtype)
        return cls(zeros, zeros, jnp.full(pool[:2], EMPTY, jnp.int32), table)

    def assign(self, row: Array | int, pages: Array) -> Paged:
        """Gives a row these pages [M], -1 at the end for fewer; their old contents are hidden.

        The caller keeps the list of free pages: no page may belong to two rows.
        """
        freed = jnp.where(pages == EMPTY, len(self.positions), pages)
        return self.replace(
            table=self.table.at[row].set(pages),
            positions=self.positions.at[freed].set(EMPTY, mode="drop"),
        )

    def write(self, keys: Array, values: Array, positions: Array) -> Paged:
        """See `Cache`; a token whose page is not assigned is not written."""
        size = self.keys.shape[1]
        shape = (len(self.table), self.table.shape[1] * size, *self.keys.shape[2:])
        _check_write(shape, keys, values, positions)
        index = jnp.where(positions == EMPTY, self.table.shape[1], positions // size)  # [B, T]
        pages = jnp.take_along_axis(self.table, index, axis=1, mode="fill", fill_value=EMPTY)
        pages = jnp.where(pages == EMPTY, len(self.keys), pages)
        slots = positions % size
        return self.replace(
            keys=self.keys.at[pages, slots].set(keys.astype(self.keys.dtype), mode="drop"),
            values=self.values.at[pages, slots].set(values.astype(self.values.dtype), mode="drop"),
            positions=self.positions.at[pages, slots].set(positions.astype(jnp.int32), mode="drop"),
        )

    def read(self) -> tuple[Array, Array, Array]:
        """See `Cache`; S is pages_per_row times the page size."""

        def gather(pool: Array) -> Array:
            rows = pool[jnp.maximum(self.table, 0)]  # [B, M, page, ...]
            return rows.reshape(len(self.table), -1, *pool.shape[2:])

        assigned = jnp.repeat(self.table != EMPTY, self.keys.shape[1], axis=1)
        positions = jnp.where(assigned, gather(self.positions), EMPTY)
        return gather(self.keys), gather(self.values), positions


def bytes_per_token(
    num_layers: int, num_kv_heads: int, head_dim: int, bytes_per_value: float
) -> float:
    """Memory that one more token needs: keys and values of all layers."""
    return 2 * num_layers * num_kv_heads * head_dim * bytes_per_value


def _slots(positions: Array, capacity: int, ring: bool) -> Array:
    """The slot of each position; `capacity`, which no slot has, for what is not written."""
    if not ring:
        return jnp.where(positions == EMPTY, capacity, positions)
    return jnp.where(positions == EMPTY, capacity, positions % capacity)


def _to_int8(x: Array) -> tuple[Array, Array]:
    """Codes [..., K] int8 and scales [..., 1]."""
    scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1, keepdims=True) / 127
    codes = jnp.round(x / jnp.where(scale > 0, scale, 1.0))
    return codes.astype(jnp.int8), scale


def _check_sizes(**sizes: int) -> tuple[int, ...]:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: expected at least 1")
    return tuple(sizes.values())


def _check_write(shape: tuple[int, ...], keys: Array, values: Array, positions: Array) -> None:
    batch, capacity, heads, width = shape
    length = positions.shape[1] if positions.ndim == 2 else -1
    expected = (batch, length, heads, width)
    if keys.shape != expected or values.shape != expected or length > capacity:
        raise ValueError(
            f"keys {keys.shape}, values {values.shape} at positions {positions.shape}: expected "
            f"[{batch}, T, {heads}, {width}] at [{batch}, T] with T <= {capacity}"
        )
