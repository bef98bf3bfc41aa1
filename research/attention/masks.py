"""Who sees whom: masks as small pytrees, called with positions.

Every mask is called as `mask(i, j)` with query positions i [B or 1, T, 1] and key positions j
[B or 1, 1, S], both int, and returns a bool that broadcasts to [B, T, S], True where query i may
look at key j. Masks compose by `Every`; whatever is called the same way is a mask too.

A negative key position says that there is no key at all (padding of a block, an empty slot of a
cache): `visible` hides it whatever the mask says.
"""

from __future__ import annotations

from typing import Protocol

import chex
import flax.struct
import jax.numpy as jnp

from library.types import Array


class Mask(Protocol):
    """A pytree that says which keys a query sees."""

    def __call__(self, i: Array, j: Array) -> Array:
        """[B or 1, T, 1], [B or 1, 1, S] int positions -> bool that broadcasts to [B, T, S]."""


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

    Attributes:
        ids: [B, T] int, the document that each position belongs to. Positions index it, so queries
            and keys are one sequence that starts at position 0.
    """

    ids: Array

    def __call__(self, i: Array, j: Array) -> Array:
        return self._at(i[:, :, 0])[:, :, None] == self._at(j[:, 0, :])[:, None, :]

    def _at(self, positions: Array) -> Array:
        positions = jnp.broadcast_to(positions, (self.ids.shape[0], positions.shape[1]))
        return jnp.take_along_axis(self.ids, positions, axis=1)  # [B, T]


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
    """Which keys each query sees, those at negative positions never.

    Args:
        mask: None lets see all keys.
        i: [B or 1, T] int, positions of the queries.
        j: [B or 1, S] int, positions of the keys; negative where there is none.
    Returns:
        [B or 1, T, S] bool.
    """
    chex.assert_rank([i, j], 2)
    i, j = i[:, :, None], j[:, None, :]
    seen = (j >= 0) & (i == i)  # [B or 1, T, S]
    return seen if mask is None else seen & mask(i, j)
