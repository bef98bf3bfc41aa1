"""Fixed linear maps of positions: matrices along an axis, choices of positions, resized images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Params
from research.ntk import checks
from research.ntk.layers import pooling, positions
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.state import Needs, Pairs, State

METHODS = ("nearest", "linear", "cubic", "lanczos3", "lanczos5")


@dataclasses.dataclass(frozen=True)
class Mix(Layer):
    """z_t -> sum_s matrix[t, s] z_s along one axis of positions."""

    axis: int
    matrix: tuple[tuple[float, ...], ...]

    def shape(self, shape: Shape) -> Shape:
        """(*S, C), S[axis] replaced by the number of rows."""
        positions.require_space(shape, self.axis + 1, "mix")
        if shape[self.axis] != len(self.matrix[0]):
            raise ValueError(
                f"mix: a matrix of {len(self.matrix[0])} columns on axis {self.axis} of {shape}"
            )
        return (*shape[: self.axis], len(self.matrix), *shape[self.axis + 1 :])

    def needs(self, needs: Needs) -> Needs:
        """Different positions; of one example too, if its variance is read."""
        return pooling.pooled_needs(needs)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        return _mixed(signal, [(self.axis, jnp.asarray(self.matrix, signal.x.dtype))])

    def propagate(self, state: State) -> State:
        """M K M'."""
        matrix = jnp.asarray(self.matrix, state.cross.nngp.dtype)
        return _propagated(state, [(self.axis, matrix)])


@dataclasses.dataclass(frozen=True)
class Resize(Layer):
    """Interpolation to another grid of positions."""

    space: tuple[int, ...]
    method: str

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*space, C)."""
        positions.require_space(shape, len(self.space), "resize")
        if len(shape) != len(self.space) + 1:
            raise ValueError(f"resize to positions {self.space} does not fit inputs {shape}")
        return (*self.space, shape[-1])

    def needs(self, needs: Needs) -> Needs:
        """Different positions; of one example too, if its variance is read."""
        return pooling.pooled_needs(needs)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        return _mixed(signal, self._matrices(signal.x.shape[1:-1], signal.x.dtype))

    def propagate(self, state: State) -> State:
        """R K R' along every axis."""
        return _propagated(state, self._matrices(state.space, state.cross.nngp.dtype))

    def _matrices(self, space: Shape, dtype) -> list[tuple[int, Array]]:
        def one(old, new):
            return jax.image.resize(jnp.eye(old, dtype=dtype), (new, old), self.method)

        return [(axis, one(*sizes)) for axis, sizes in enumerate(zip(space, self.space))]


def mix(matrix: Sequence[Sequence[float]], *, axis: int = 0) -> Layer:
    """z_t -> sum_s matrix[t, s] z_s along an axis of positions.

    Args:
        matrix: [new, old] numbers.
        axis: of positions, 0 for the first.
    Raises:
        ValueError: if it is no matrix.
    """
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or 0 in values.shape or axis < 0:
        raise ValueError(f"mix of shape {values.shape} on axis {axis}: expected [new, old], >= 0")
    return Mix(axis, tuple(tuple(float(v) for v in row) for row in values))


def select(index: int | Sequence[int], *, size: int, axis: int = 0) -> Layer:
    """Some positions of an axis of `size`, in the given order; the axis stays.

    Raises:
        ValueError: if an index is out of range.
    """
    chosen = [index] if isinstance(index, int) else list(index)
    if not chosen or not all(-size <= i < size for i in chosen):
        raise ValueError(f"index={index}: expected integers in [-{size}, {size})")
    return mix(np.eye(size)[chosen], axis=axis)


def resize(space: Sequence[int], *, method: str = "linear") -> Layer:
    """Interpolation to the positions `space`, as `jax.image.resize` with antialiasing.

    Raises:
        ValueError: if the method is unknown.
    """
    checks.choice("method", method, METHODS)
    return Resize(positions.per_axis("space", tuple(space), len(tuple(space))), method)


def _along(array: Array, axis: int, matrix: Array) -> Array:
    mixed = jnp.tensordot(array, matrix, ((axis,), (1,)), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(mixed, -1, axis)


def _seen(mask: Array | None, matrices: list[tuple[int, Array]]) -> Array | None:
    """Which outputs see any position that exists."""
    for axis, matrix in matrices if mask is not None else ():
        mask = _along(mask.astype(matrix.dtype), axis + 1, (matrix != 0).astype(matrix.dtype)) > 0
    return mask


def _mixed(signal: Signal, matrices: list[tuple[int, Array]]) -> Signal:
    x = signal.x
    for axis, matrix in matrices:
        x = _along(x, axis + 1, matrix)
    mask = _seen(signal.mask, matrices)
    return positions.hidden(signal.replace(x=x, mask=mask, pattern=None))


def _propagated(state: State, matrices: list[tuple[int, Array]]) -> State:
    def both(pairs: Pairs, *_) -> Pairs:
        def one(array: Array) -> Array:
            for axis, matrix in matrices:
                at = pairs.num_leading + 2 * axis
                array = _along(_along(array, at, matrix), at + 1, matrix)
            return array

        return pairs.map(one)

    space = list(state.space)
    for axis, matrix in matrices:
        space[axis] = matrix.shape[0]
    after = state.map_pairs(both).replace(
        mask1=_seen(state.mask1, matrices),
        mask2=_seen(state.mask2, matrices),
        pattern1=None,
        pattern2=None,
        space=tuple(space),
    )
    return pooling.own_variances(after, state.var1 is not None).hide_masked()
