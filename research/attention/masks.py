"""Who sees whom: masks as small pytrees, called with slots.

A slot is the place of a token in its row: 0, 1, ... from the first, each once. A position says what
encodings (tables, rotations, biases) make of it, and may start again with every packed document.
Masks go by slots. Where a row holds one text the two are the same numbers.

Every mask is called as `mask(i, j)` with query slots i [B or 1, T, 1] and key slots j
[B or 1, 1, S], both int, and returns a bool that broadcasts to [B, T, S], True where query i may
look at key j. Masks compose by `Every`; whatever is called the same way is a mask too.

A negative key slot says that there is no key at all (padding of a block, an empty slot of a
cache): `visible` hides it whatever the mask says.
"""

from __future__ import annotations

from typing import Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array


class Mask(Protocol):
    """A pytree that says which keys a query sees."""

    def __call__(self, i: Array, j: Array) -> Array:
        """[B or 1, T, 1], [B or 1, 1, S] int slots -> bool that broadcasts to [B, T, S]."""


@flax.struct.dataclass
class Causal:
    """A query sees itself and what came before."""

    def __call__(self, i: Array, j: Array) -> Array:
        return j <= i


@flax.struct.dataclass
class Window:
    """A query sees keys less than `width` away, on both sides (with `Causal`: on the left).

    Together with `Causal` this is the sliding window of Mistral 7B (Jiang et al. 2023,
    arXiv:2310.06825, section 2): `width` keys, the query's own among them.
    """

    width: int = flax.struct.field(pytree_node=False)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width={self.width}: expected a window of at least 1 key")

    def __call__(self, i: Array, j: Array) -> Array:
        return jnp.abs(i - j) < self.width


@flax.struct.dataclass
class Padding:
    """Only the first `lengths` keys of each sequence are there.

    Attributes:
        lengths: [B] int >= 0; 0 hides everything.
    """

    lengths: Array

    def __call__(self, i: Array, j: Array) -> Array:
        return j < self.lengths[:, None, None]


@flax.struct.dataclass
class Prefix:
    """Causal, but all see the first `lengths` keys: a prefix language model (arXiv:1910.10683).

    Attributes:
        lengths: [B] int >= 0.
    """

    lengths: Array

    def __call__(self, i: Array, j: Array) -> Array:
        return (j <= i) | (j < self.lengths[:, None, None])


@flax.struct.dataclass
class Documents:
    """Packed sequences: a query sees keys of its own document only.

    Ids are looked up by slot, never by position, so that positions may start again with every
    document; `positions.in_documents` makes such positions.

    Attributes:
        ids: [B, T] int, the document of each slot of the queries' row.
        key_ids: [B, S] int, of the keys' row where that is another one (attention to a memory of
            packed sources); None for one row.
    """

    ids: Array
    key_ids: Array | None = None

    def __call__(self, i: Array, j: Array) -> Array:
        """See `Mask`; ValueError for concrete j in which a slot comes twice."""
        _check_slots(j)
        key_ids = self.ids if self.key_ids is None else self.key_ids
        return _at(self.ids, i[:, :, 0])[:, :, None] == _at(key_ids, j[:, 0, :])[:, None, :]


@flax.struct.dataclass
class Every:
    """What all of several masks let see.

    Attributes:
        masks: tuple of masks; the empty tuple lets see everything.
    """

    masks: tuple[Mask, ...]

    def __call__(self, i: Array, j: Array) -> Array:
        seen = jnp.ones((1, 1, 1), bool)
        for mask in self.masks:
            seen = seen & mask(i, j)
        return seen


def every(*masks: Mask | None) -> Mask | None:
    """The masks that are not None as one; None if there is none."""
    given = tuple(mask for mask in masks if mask is not None)
    return Every(given) if len(given) > 1 else (given[0] if given else None)


def visible(mask: Mask | None, i: Array, j: Array) -> Array:
    """Which keys each query sees, those at negative slots never.

    Args:
        mask: None lets see all keys.
        i: [B or 1, T] int, slots of the queries.
        j: [B or 1, S] int, slots of the keys; negative where there is none.
    Returns:
        [B or 1, T, S] bool.
    """
    chex.assert_rank([i, j], 2)
    i, j = i[:, :, None], j[:, None, :]
    seen = (j >= 0) & (i == i)  # [B or 1, T, S]
    return seen if mask is None else seen & mask(i, j)


def holds(mask: Mask | None, kind: type) -> bool:
    """Whether a mask is of this kind, or one of several masks is."""
    leaves = jax.tree.leaves(mask, is_leaf=lambda leaf: isinstance(leaf, kind))
    return any(isinstance(leaf, kind) for leaf in leaves)


def check(mask: Mask | None, batch: int, num_queries: int | None, num_keys: int | None) -> None:
    """Raises ValueError for lengths or ids whose shape does not fit the queries and keys.

    A number of None is not compared: slots of these are no longer 0, 1, ..., so ids may be of more.
    """
    kinds = (Documents, Padding, Prefix)
    for part in jax.tree.leaves(mask, is_leaf=lambda leaf: isinstance(leaf, kinds)):
        if isinstance(part, Padding | Prefix) and part.lengths.shape not in ((batch,), (1,)):
            name = type(part).__name__
            raise ValueError(f"{name}: lengths {part.lengths.shape}: expected ({batch},)")
        if not isinstance(part, Documents):
            continue
        key_name = "ids" if part.key_ids is None else "key_ids"
        for name, length in (("ids", num_queries), (key_name, num_keys)):
            ids = getattr(part, name)
            shape = (batch, ids.shape[-1] if length is None else length)
            if ids.shape not in (shape, (1, shape[1])):
                raise ValueError(f"Documents: {name} {ids.shape}: expected {shape}")


def _at(ids: Array, slots: Array) -> Array:
    """Ids [B, T] at slots [B or 1, S], [B, S]."""
    slots = jnp.broadcast_to(slots, (ids.shape[0], slots.shape[1]))
    return jnp.take_along_axis(ids, slots, axis=1)


def _check_slots(j: Array) -> None:
    if isinstance(j, jax.core.Tracer):
        return
    for row in np.asarray(j)[:, 0]:
        values, counts = np.unique(row[row >= 0], return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"Documents: slot {values[counts > 1][0]} comes twice in a row of keys: masks go "
                "by slots (0, 1, ... along a row), not by positions that start again"
            )
