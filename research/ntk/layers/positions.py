"""Windows over positions, of arrays over positions and of kernels over pairs of positions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk import checks
from research.ntk.layers.layer import Shape, Signal

# Up to this many terms a window is summed in one pass; above, one axis after the other.
_MOST_TERMS = 9
PADDINGS = ("SAME", "VALID", "CIRCULAR")


@dataclasses.dataclass(frozen=True)
class Window:
    """Windows along one axis: output position t sees inputs t stride + o dilation - low.

    `spread` > 1 puts spread - 1 zeros between inputs first (transposed convolutions).
    """

    size: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    spread: int = 1
    circular: bool = False

    def num_outputs(self, num_inputs: int) -> int:
        """Number of windows."""
        padded = (num_inputs - 1) * self.spread + 1 + self.low + self.high
        return (padded - (self.size - 1) * self.dilation - 1) // self.stride + 1


def make_windows(
    space: Shape,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str,
) -> tuple[Window, ...]:
    """The windows of a convolution or pool, one an axis."""
    windows = []
    for num, size, stride, dilation in zip(space, sizes, strides, dilations):
        reach = (size - 1) * dilation + 1
        total = 0 if padding == "VALID" else max((-(-num // stride) - 1) * stride + reach - num, 0)
        low, circular = total // 2, padding == "CIRCULAR"
        windows.append(Window(size, stride, dilation, low, total - low, circular=circular))
    return tuple(windows)


def sum_windows(array: Array, axes: Sequence[Sequence[int]], windows: Sequence[Window]) -> Array:
    """Sums over windows, each moved along all axes of its group at once.

    A kernel over pairs (s, t) after shared weights is the sum of its entries (s + o, t + o): the
    axes of s and t form one group, and the sum runs along the diagonals.
    """
    moving = [(group, window) for group, window in zip(axes, windows) if window != Window(1)]
    if math.prod(window.size for _, window in moving) > _MOST_TERMS:
        for group, window in moving:
            array = _sum_shifted(array, [(group, window)])
        return array
    return _sum_shifted(array, moving) if moving else array


def pad(array: Array, axes: Sequence[Sequence[int]], windows: Sequence[Window]) -> Array:
    """What windows slide over: zeros, or the other end if circular, around and between inputs."""
    low, high, spread = ([0] * array.ndim for _ in range(3))
    for group, window in zip(axes, windows):
        if window.circular:
            widths = [
                (window.low, window.high) if a in group else (0, 0) for a in range(array.ndim)
            ]
            array = jnp.pad(array, widths, mode="wrap")
            continue
        for axis in group:
            low[axis], high[axis], spread[axis] = window.low, window.high, window.spread - 1
    return jax.lax.pad(array, jnp.zeros((), array.dtype), list(zip(low, high, spread)))


def any_in_windows(mask: Array, windows: Sequence[Window]) -> Array:
    """Whether a window sees any position that exists, [N, *S] -> [N, *S']."""
    axes = [(axis,) for axis in range(1, mask.ndim)]
    return sum_windows(mask.astype(jnp.float32), axes, windows) > 0


def pair_axes(num_leading: int, num_space: int, full: bool) -> list[tuple[int, ...]]:
    """For each axis of space the axes of a kernel that move together."""
    if full:
        return [(num_leading + 2 * i, num_leading + 2 * i + 1) for i in range(num_space)]
    return [(num_leading + i,) for i in range(num_space)]


def hidden(signal: Signal) -> Signal:
    """Zeros where the mask says that nothing exists."""
    if signal.mask is None:
        return signal
    return signal.replace(x=jnp.where(signal.mask[..., None], signal.x, 0))


def require_space(shape: Shape, num_space: int, name: str) -> None:
    """That an input shape is (*S, C) with at least this many axes of space.

    Raises:
        ValueError: if not.
    """
    if any(isinstance(size, tuple) for size in shape):
        raise ValueError(f"{name} takes one input, not the {len(shape)} branches of {shape}")
    if len(shape) < num_space + 1 or min(shape) < 1:
        space = ", ".join("HWD"[:num_space]) + ", C" if 0 < num_space < 4 else "*S, C"
        raise ValueError(f"{name} takes inputs ({space}), not {shape}")


def per_axis(name: str, value: int | Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    """One positive integer an axis; None means 1.

    Raises:
        ValueError: if there are more or fewer, or other values.
    """
    value = 1 if value is None else value
    values = (value,) * num_axes if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) != num_axes:
        raise ValueError(f"{name}={value} has {len(values)} entries for {num_axes} axes")
    for one in values:
        checks.count(name, one)
    return tuple(int(one) for one in values)


def require_padding(padding: str) -> None:
    """That the padding is known.

    Raises:
        ValueError: if not.
    """
    checks.choice("padding", padding, PADDINGS)


def output_space(space: Shape, windows: Sequence[Window], name: str) -> Shape:
    """Numbers of windows along each axis.

    Raises:
        ValueError: if a window is larger than the padded input.
    """
    out = tuple(w.num_outputs(num) for num, w in zip(space, windows))
    if min(out, default=1) < 1:
        raise ValueError(f"{name}: windows {[w.size for w in windows]} exceed positions {space}")
    return out


def num_inputs(windows: Sequence[Window]) -> int:
    """Number of positions in one window."""
    return math.prod(window.size for window in windows)


def _sum_shifted(array: Array, moving: Sequence[tuple[Sequence[int], Window]]) -> Array:
    """All windows at once: one padded copy, one pass over it with a term an offset."""
    padded = pad(array, *zip(*moving))
    total = None
    for offsets in itertools.product(*(range(window.size) for _, window in moving)):
        term = _slice(padded, moving, offsets)
        total = term if total is None else total + term
    return total


def _slice(
    array: Array, moving: Sequence[tuple[Sequence[int], Window]], offsets: Sequence[int]
) -> Array:
    start, stop, step = [0] * array.ndim, list(array.shape), [1] * array.ndim
    for (group, window), offset in zip(moving, offsets):
        for axis in group:
            reach = (window.size - 1) * window.dilation
            num = (array.shape[axis] - reach - 1) // window.stride + 1
            start[axis], step[axis] = offset * window.dilation, window.stride
            stop[axis] = start[axis] + (num - 1) * window.stride + 1
    return jax.lax.slice(array, start, stop, step)
