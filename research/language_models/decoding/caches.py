"""Key-value caches beyond the contiguous one of `research.attention.cache`: ring, paged, int8.

All follow its protocol: `update(key, value, positions)` takes in new tokens and hands back all keys
and values with the position of each, negative where a slot is empty, and attention masks by
positions alone. A token at a negative position is padding and is not kept. What lies at a later
position than a query, such as rejected drafts, is masked until it is overwritten: taking tokens
back costs nothing.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.attention import cache as caches

EMPTY = -1  # position of a slot that holds nothing


@flax.struct.dataclass
class Ring:
    """The last S positions: p lies in slot p mod S.

    A sliding window of w tokens that is fed T tokens at a time needs S >= w + T - 1; one that takes
    back up to G drafts needs G more.

    Attributes:
        key, value: [B, G, S, K].
        positions: [B, S] int32, -1 where a slot is empty.
    """

    key: Array
    value: Array
    positions: Array

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Ring, Array, Array, Array]:
        """See `attention.cache.Cache`; ValueError for more tokens at once than slots."""
        size = self.positions.shape[1]
        positions = _check_update(key, value, positions, self.key.shape)
        slots = jnp.where(positions < 0, size, positions % size)
        place = (jnp.arange(len(slots))[:, None], slots)
        new = Ring(
            caches.put(self.key, place, key),
            caches.put(self.value, place, value),
            self.positions.at[place].set(positions.astype(jnp.int32), mode="drop"),
        )
        return new, caches.by_slots(new.key), caches.by_slots(new.value), new.positions

    @property
    def capacity(self) -> None:
        """See `attention.cache.Cache`."""
        return None

    def first(self, length: int) -> Ring:
        """All of it: slots are no positions."""
        return self

    def with_first(self, part: Ring) -> Ring:
        """See `attention.cache.Cache`."""
        return part


@flax.struct.dataclass
class Int8:
    """Any cache in bytes: codes in one, a float32 scale a head and token in another.

    Symmetric rounding: an entry errs by at most 1/254 of the largest of its head.
    """

    codes: caches.Cache
    scales: caches.Cache

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Int8, Array, Array, Array]:
        """See `attention.cache.Cache`; float32 keys and values."""
        (key_codes, key_scales), (value_codes, value_scales) = _to_int8(key), _to_int8(value)
        codes, keys, values, stored = self.codes.update(key_codes, value_codes, positions)
        scales, key_scales, value_scales, _ = self.scales.update(
            key_scales, value_scales, positions
        )
        return Int8(codes, scales), keys * key_scales, values * value_scales, stored

    @property
    def capacity(self) -> int | None:
        """See `attention.cache.Cache`."""
        return self.codes.capacity

    def first(self, length: int) -> Int8:
        """See `attention.cache.Cache`."""
        return Int8(self.codes.first(length), self.scales.first(length))

    def with_first(self, part: Int8) -> Int8:
        """See `attention.cache.Cache`."""
        return Int8(self.codes.with_first(part.codes), self.scales.with_first(part.scales))


@flax.struct.dataclass
class Paged:
    """Rows as lists of pages of one shared pool, Kwon et al. 2023, arXiv:2309.06180.

    Rows of any lengths share memory: a row holds only the pages it has come to use. A token whose
    page is not assigned is dropped.

    Attributes:
        key, value: [N, G, page, K], the pool of N pages.
        positions: [N, page] int32, -1 for empty slots.
        table: [B, M] int32, the pages of each row in the order of positions; -1 for none yet.
    """

    key: Array
    value: Array
    positions: Array
    table: Array

    def assign(self, row: Array | int, pages: Array) -> Paged:
        """Gives a row these pages [M], -1 at the end for fewer; their old contents are hidden.

        Works on one layer or on all at once. The caller keeps the list of free pages: no page may
        belong to two rows.

        Raises:
            ValueError: for pages that are not int [M], or, where they are known, a row or a page
                that is not there, or a page that is given twice.
        """
        self._check_pages(row, pages)
        if self.table.ndim == 3:
            return jax.vmap(lambda layer: layer.assign(row, pages))(self)
        freed = jnp.where(pages < 0, len(self.positions), pages)
        return self.replace(
            table=self.table.at[row].set(pages.astype(jnp.int32)),
            positions=self.positions.at[freed].set(EMPTY, mode="drop"),
        )

    def _check_pages(self, row: Array | int, pages: Array) -> None:
        num_rows, per_row = self.table.shape[-2:]
        num_pages = self.positions.shape[-2]
        if pages.shape != (per_row,) or not jnp.issubdtype(pages.dtype, jnp.integer):
            raise ValueError(f"pages {pages.dtype}{list(pages.shape)}: expected int [{per_row}]")
        if not isinstance(row, jax.core.Tracer) and not 0 <= int(row) < num_rows:
            raise ValueError(f"row={row}: the table has {num_rows}")
        if not isinstance(pages, jax.core.Tracer):
            given = np.asarray(pages)
            given = given[given >= 0]
            if len(set(given.tolist())) < len(given) or (given >= num_pages).any():
                raise ValueError(f"pages={given}: expected different ones below {num_pages}")

    def update(
        self, key: Array, value: Array, positions: Array
    ) -> tuple[Paged, Array, Array, Array]:
        """See `attention.cache.Cache`; S is M times the page size."""
        (rows, per_row), (_, heads, size, width) = self.table.shape, self.key.shape
        shape = (rows, heads, per_row * size, width)
        positions = _check_update(key, value, positions, shape)
        index = jnp.where(positions < 0, per_row, positions // size)  # [B, T]
        pages = jnp.take_along_axis(self.table, index, axis=1, mode="fill", fill_value=EMPTY)
        place = (jnp.where(pages < 0, len(self.key), pages), positions % size)
        new = Paged(
            caches.put(self.key, place, key),
            caches.put(self.value, place, value),
            self.positions.at[place].set(positions.astype(jnp.int32), mode="drop"),
            self.table,
        )
        owned = jnp.maximum(self.table, 0)
        stored = jnp.where((self.table >= 0)[..., None], new.positions[owned], EMPTY)
        return new, _rows(new.key, owned), _rows(new.value, owned), stored.reshape(rows, -1)

    @property
    def capacity(self) -> int:
        """See `attention.cache.Cache`; of rows all whose pages are assigned."""
        return self.table.shape[-1] * self.positions.shape[-1]

    def first(self, length: int) -> Paged:
        """The same pool, with the pages of those positions only."""
        num_pages = -(-length // self.positions.shape[-1])
        return self.replace(table=self.table[..., :num_pages])

    def with_first(self, part: Paged) -> Paged:
        """See `attention.cache.Cache`."""
        return part.replace(table=self.table)


def ring(
    num_layers: int,
    batch: int,
    length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: Any = jnp.float32,
) -> Ring:
    """An empty ring of `length` slots for all layers; leaves [L, B, ...]."""
    return Ring(*_empty((num_layers, batch), length, num_kv_heads, head_dim, dtype))


def int8(
    num_layers: int,
    batch: int,
    length: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: Any = None,
    make: Any = caches.contiguous,
) -> Int8:
    """An empty cache in bytes for all layers; `make` builds what holds the codes and the scales."""
    del dtype  # of the caches that keep floats
    sizes = (num_layers, batch, length, num_kv_heads)
    return Int8(make(*sizes, head_dim, jnp.int8), make(*sizes, 1, jnp.float32))


def paged(
    num_layers: int,
    batch: int,
    pages_per_row: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: Any = jnp.float32,
    *,
    num_pages: int,
    page_size: int,
) -> Paged:
    """An empty pool of `num_pages` pages for all layers; a row holds up to `pages_per_row`.

    Raises:
        ValueError: if a size is below 1.
    """
    if min(num_layers, batch, pages_per_row) < 1:
        raise ValueError(
            f"num_layers={num_layers}, batch={batch}, pages_per_row={pages_per_row}: "
            "expected all at least 1"
        )
    pool = _empty((num_layers, num_pages), page_size, num_kv_heads, head_dim, dtype)
    return Paged(*pool, jnp.full((num_layers, batch, pages_per_row), EMPTY, jnp.int32))


def bytes_per_token(
    num_layers: int, num_kv_heads: int, head_dim: int, bytes_per_value: float
) -> float:
    """Memory that one more token needs: keys and values of all layers."""
    return 2 * num_layers * num_kv_heads * head_dim * bytes_per_value


def _empty(
    front: tuple[int, int], length: int, num_kv_heads: int, head_dim: int, dtype: Any
) -> tuple[Array, Array, Array]:
    shape = (*front, num_kv_heads, length, head_dim)
    if min(shape) < 1:
        raise ValueError(f"a cache of shape {shape}: expected sizes of at least 1")
    positions = jnp.full((*front, length), EMPTY, jnp.int32)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), positions


def _rows(pool: Array, table: Array) -> Array:
    """The pages [N, G, page, K] that a table [B, M] names, as keys or values [B, M page, G, K]."""
    pages = jnp.swapaxes(pool[table], 1, 2)  # [B, G, M, page, K]
    batch, heads, _, _, width = pages.shape
    return caches.by_slots(pages.reshape(batch, heads, -1, width))


def _to_int8(x: Array) -> tuple[Array, Array]:
    """Codes [..., K] int8 and scales [..., 1]."""
    scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-1, keepdims=True) / 127
    codes = jnp.round(x / jnp.where(scale > 0, scale, 1.0))
    return codes.astype(jnp.int8), scale


def _check_update(key: Array, value: Array, positions: Array, shape: tuple[int, ...]) -> Array:
    """The positions as [B, T]; ValueError unless the shapes fit a cache of [B, G, S, K]."""
    batch, heads, slots, width = shape
    length = key.shape[1]
    expected = (batch, length, heads, width)
    if key.shape != expected or value.shape != expected or length > slots:
        raise ValueError(
            f"keys {key.shape}, values {value.shape}: expected [{batch}, T, {heads}, {width}] "
            f"with T <= {slots}"
        )
    return jnp.broadcast_to(positions, (batch, length))
