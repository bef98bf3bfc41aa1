"""Averages and sums over positions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

from library.types import Array, Params
from research.ntk.layers import positions
from research.ntk.layers import state as states
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.positions import Window
from research.ntk.layers.state import Needs, Pairs, State


@dataclasses.dataclass(frozen=True)
class Pool(Layer):
    """Sums over windows, divided by the window's size if `mean`.

    A mean counts the positions of the window that exist: padding and masked positions do not.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str
    mean: bool

    def windows(self, space: Shape) -> tuple[Window, ...]:
        """Of inputs with these positions."""
        ones = (1,) * len(space)
        return positions.make_windows(space, self.sizes, self.strides, ones, self.padding)

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*S', C)."""
        positions.require_space(shape, len(self.sizes), "pool")
        if len(shape) != len(self.sizes) + 1:
            raise ValueError(f"pool with window {self.sizes} does not fit inputs {shape}")
        space = positions.output_space(shape[:-1], self.windows(shape[:-1]), "pool")
        return (*space, shape[-1])

    def needs(self, needs: Needs) -> Needs:
        """Different positions; of one example too, if its variance is read."""
        return pooled_needs(needs)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        windows = self.windows(signal.x.shape[1:-1])
        axes = [(axis,) for axis in range(1, signal.x.ndim - 1)]
        y = positions.sum_windows(signal.x, axes, windows)
        if self.mean:
            y = y / self._counts(signal.mask, signal.x.shape[1:-1], y.dtype)[..., None]
        mask = None
        if signal.mask is not None:
            mask = positions.any_in_windows(signal.mask, windows)
        return positions.hidden(signal.replace(x=y, mask=mask))

    def propagate(self, state: State) -> State:
        """Means over both positions of a pair."""
        windows = self.windows(state.space)
        dims = len(state.space)
        counts = {
            number: self._counts(state.side("mask", number), state.space, state.cross.nngp.dtype)
            for number in ("1", "2")
        }

        def pool(pairs: Pairs, first: str, second: str) -> Pairs:
            groups = positions.pair_axes(pairs.num_leading, dims, True)
            one, two = pairs.sides(counts[first], counts[second])

            def both(array: Array) -> Array:
                for side in (0, 1):
                    axes = [group[side : side + 1] for group in groups]
                    array = positions.sum_windows(array, axes, windows)
                return array / (one * two) if self.mean else array

            return pairs.map(both)

        def masked(mask):
            return positions.any_in_windows(mask, windows)

        after = state.map_pairs(pool).replace(
            mask1=states.apply(masked, state.mask1),
            mask2=states.apply(masked, state.mask2),
            space=positions.output_space(state.space, windows, "pool"),
        )
        return own_variances(after, state.var1 is not None).hide_masked()

    def _counts(self, mask: Array | None, space: Shape, dtype) -> Array:
        """How many positions each window averages, at least one: [1 or N, *S']."""
        mask = jnp.ones((1, *space), bool) if mask is None else mask
        axes = [(axis,) for axis in range(1, mask.ndim)]
        counts = positions.sum_windows(mask.astype(dtype), axes, self.windows(space))
        return jnp.maximum(counts, 1)


@dataclasses.dataclass(frozen=True)
class GlobalPool(Layer):
    """The sum over all positions, divided by how many exist if `mean`."""

    mean: bool

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (C,)."""
        positions.require_space(shape, 1, "global pool")
        return shape[-1:]

    def needs(self, needs: Needs) -> Needs:
        """Different positions; of one example too, if its variance is read."""
        return pooled_needs(needs)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        y = signal.x.sum(tuple(range(1, signal.x.ndim - 1)))
        if self.mean:
            y = y / self._count(signal.mask, signal.x.shape[1:-1], y.dtype)[..., None]
        return signal.replace(x=y, mask=None, pattern=None)

    def propagate(self, state: State) -> State:
        """The mean over all pairs of positions."""
        dtype = state.cross.nngp.dtype
        count = {n: self._count(state.side("mask", n), state.space, dtype) for n in ("1", "2")}

        def pool(pairs: Pairs, first: str, second: str) -> Pairs:
            space = tuple(range(pairs.num_leading, pairs.nngp.ndim))
            one, two = pairs.sides(count[first], count[second])
            scale = 1 / (one * two) if self.mean else 1.0
            return pairs.map(lambda array: array.sum(space) * scale)

        after = state.map_pairs(pool).replace(
            mask1=None, mask2=None, pattern1=None, pattern2=None, space=()
        )
        return own_variances(after, state.var1 is not None)

    def _count(self, mask: Array | None, space: Shape, dtype) -> Array:
        if mask is None:
            return jnp.full((1,), math.prod(space), dtype)
        return jnp.maximum(mask.sum(tuple(range(1, mask.ndim))).astype(dtype), 1)


def average_pool(
    window: Sequence[int], *, strides: int | Sequence[int] | None = None, padding: str = "VALID"
) -> Layer:
    """Means over windows, of the positions that exist.

    Args:
        window: size along each axis of positions.
        strides: one an axis, or one for all; None for the window itself.
        padding: "SAME", "VALID" or "CIRCULAR".
    Raises:
        ValueError: if an argument is out of range.
    """
    return _pool(window, strides, padding, True)


def sum_pool(
    window: Sequence[int], *, strides: int | Sequence[int] | None = None, padding: str = "VALID"
) -> Layer:
    """Sums over windows; args as `average_pool`."""
    return _pool(window, strides, padding, False)


def global_average_pool() -> Layer:
    """The mean over all positions that exist."""
    return GlobalPool(True)


def global_sum_pool() -> Layer:
    """The sum over all positions that exist."""
    return GlobalPool(False)


def _pool(window, strides, padding: str, mean: bool) -> Layer:
    positions.require_padding(padding)
    num_axes = len(tuple(window))
    sizes = positions.per_axis("window", window, num_axes)
    strides = sizes if strides is None else positions.per_axis("strides", strides, num_axes)
    return Pool(sizes, strides, padding, mean)


def pooled_needs(needs: Needs) -> Needs:
    """What sums over positions read: pairs of positions, of one example if its variance is read."""
    own = needs.own or needs.variances
    return Needs(cross=True, own=own, variances=own)


def own_variances(state: State, wanted: bool) -> State:
    """Variances from each example's own covariances; without these nothing reads them."""
    if state.own1 is None or not wanted:
        return state.replace(cross=state.cross.replace(gap=None), var1=None, var2=None)

    def equal(own):
        return states.equal_positions(own.nngp, 1)

    after = state.replace(var1=equal(state.own1), var2=equal(state.own2))
    return after.refresh_gaps()
