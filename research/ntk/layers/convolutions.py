"""Convolutions of any number of dimensions: shared weights, transposed, and one set a position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params
from research.ntk import checks
from research.ntk.layers import positions
from research.ntk.layers import state as states
from research.ntk.layers.dense import Weights
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.positions import Window
from research.ntk.layers.state import Pairs, State

_KINDS = ("shared", "transposed", "local")


@dataclasses.dataclass(frozen=True)
class Convolution(Layer):
    """An affine map of windows; q(s, t) -> weight_std^2 mean_o q(s + o, t + o) + bias_std^2."""

    channels: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    weights: Weights
    kind: str

    def windows(self, space: Shape) -> tuple[Window, ...]:
        """Of inputs with these positions."""
        if self.kind != "transposed":
            return positions.make_windows(
                space, self.sizes, self.strides, self.dilations, self.padding
            )
        out = []
        for size, stride in zip(self.sizes, self.strides):
            # SAME makes num * stride outputs, as in `jax.lax.conv_transpose`.
            total = (
                size + stride - 2 if self.padding == "SAME" else size - 1 + max(size, stride) - 1
            )
            low = size - 1
            if self.padding == "SAME":
                low = size - 1 if stride > size - 1 else -(-total // 2)
            out.append(Window(size, low=low, high=total - low, spread=stride))
        return tuple(out)

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*S', channels)."""
        positions.require_space(shape, len(self.sizes), "conv")
        if len(shape) != len(self.sizes) + 1:
            raise ValueError(
                f"conv with window {self.sizes} takes {len(self.sizes)} axes of positions and "
                f"one of channels, not inputs {shape}"
            )
        space = positions.output_space(shape[:-1], self.windows(shape[:-1]), "conv")
        return (*space, self.channels)

    def draw(self, rng: Key, shape: Shape) -> Params:
        """See `Layer`."""
        fan_in = shape[-1] * positions.num_inputs(self.windows(shape[:-1]))
        local = self.shape(shape)[:-1] if self.kind == "local" else ()
        weight_shape = (*local, *self.sizes, shape[-1], self.channels)
        return self.weights.draw(rng, weight_shape, fan_in, (*local, self.channels))

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        x, mask = signal.x, signal.mask
        windows = self.windows(x.shape[1:-1])
        matrix, bias = self.weights.scaled(params, x.shape[-1] * positions.num_inputs(windows))
        if self.kind == "local":
            y = _local(x, matrix, windows)
        else:
            y = _shared(x, matrix, windows)
        if not isinstance(bias, float):
            y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
        mask = None if mask is None else positions.any_in_windows(mask, windows)
        return positions.hidden(signal.replace(x=y, mask=mask))

    def propagate(self, state: State) -> State:
        """See `Layer`."""
        windows = self.windows(state.space)
        num = positions.num_inputs(windows)
        fan_in = state.channels * num
        dims = len(state.space)

        def pairs(pairs: Pairs, first: str, second: str) -> Pairs:
            full = pairs.full
            if self.kind == "local" and full:
                pairs = pairs.at_equal_positions()
            axes = positions.pair_axes(pairs.num_leading, dims, pairs.full)

            def mean(array):
                return positions.sum_windows(array, axes, windows) / num

            after = self.weights.pairs(pairs, mean, fan_in)
            if pairs.full and pairs.gap is not None:
                gap = _sum_gaps(pairs, state.side("var", first), state.side("var", second), windows)
                after = after.replace(gap=self.weights.weight_std**2 / num * gap)
            return _embed(after, dims) if self.kind == "local" and full else after

        def variance(var: Array) -> Array:
            axes = positions.pair_axes(1, dims, False)
            return self.weights.variance(positions.sum_windows(var, axes, windows) / num)

        def masked(mask):
            return positions.any_in_windows(mask, windows)

        def apart(p: Pairs, first: str, second: str) -> Pairs:
            return states.apart(lambda p: pairs(p, first, second), p)

        after = state.map_pairs(apart).replace(
            var1=states.apply(variance, state.var1),
            var2=states.apply(variance, state.var2),
            mask1=states.apply(masked, state.mask1),
            mask2=states.apply(masked, state.mask2),
            channels=self.channels,
            space=positions.output_space(state.space, windows, "conv"),
            gaussian=True,
            fresh=True,
        )
        if self.kind == "local" and (state.cross.full or state.own1 is not None):
            after = after.refresh_gaps()
        return after.hide_masked()


def conv(
    channels: int,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str = "SAME",
    dilations: int | Sequence[int] | None = None,
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    parameterisation: str = "ntk",
) -> Layer:
    """A convolution over as many axes as the window has.

    The fan-in is that of an inner position everywhere: padding counts as inputs zero.

    Args:
        channels: number of output channels of the finite network.
        window: size along each axis of positions.
        strides: one an axis, or one for all.
        padding: "SAME" (zeros), "VALID" or "CIRCULAR".
        dilations: one an axis, or one for all.
        weight_std: standard deviation of the weights times sqrt(fan_in).
        bias_std: standard deviation of the bias; 0 for none.
        parameterisation: "ntk" or "standard".
    Raises:
        ValueError: if an argument is out of range.
    """
    weights = Weights(weight_std, bias_std, parameterisation)
    return _make(channels, window, strides, dilations, padding, weights, "shared")


def conv_transpose(
    channels: int,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str = "SAME",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    parameterisation: str = "ntk",
) -> Layer:
    """A transposed convolution, `jax.lax.conv_transpose`; args as `conv`, no circular padding."""
    if padding == "CIRCULAR":
        raise ValueError("padding='CIRCULAR': conv_transpose knows SAME and VALID")
    weights = Weights(weight_std, bias_std, parameterisation)
    return _make(channels, window, strides, None, padding, weights, "transposed")


def conv_local(
    channels: int,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: str = "SAME",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    parameterisation: str = "ntk",
) -> Layer:
    """A convolution with weights and bias of its own at every position; args as `conv`."""
    weights = Weights(weight_std, bias_std, parameterisation)
    return _make(channels, window, strides, None, padding, weights, "local")


def _make(channels, window, strides, dilations, padding, weights, kind) -> Convolution:
    checks.choice("kind", kind, _KINDS)
    checks.count("channels", channels)
    positions.require_padding(padding)
    num_axes = len(tuple(window))
    sizes = positions.per_axis("window", window, num_axes)
    strides = positions.per_axis("strides", strides, num_axes)
    dilations = positions.per_axis("dilations", dilations, num_axes)
    return Convolution(channels, sizes, strides, dilations, padding, weights, kind)


def _prepared(x: Array, windows: Sequence[Window]) -> tuple[Array, list[tuple[int, int]]]:
    """Circular windows' inputs wrapped, and the zeros that are left to add."""
    wrap = [(w.low, w.high) if w.circular else (0, 0) for w in windows]
    if any(w.circular for w in windows):
        x = jnp.pad(x, [(0, 0), *wrap, (0, 0)], mode="wrap")
    return x, [(0, 0) if w.circular else (w.low, w.high) for w in windows]


def _numbers(num_axes: int) -> jax.lax.ConvDimensionNumbers:
    last = num_axes + 1
    channels_last = (0, last, *range(1, last))
    kernel = (num_axes + 1, num_axes, *range(num_axes))
    return jax.lax.ConvDimensionNumbers(channels_last, kernel, channels_last)


def _shared(x: Array, matrix: Array, windows: Sequence[Window]) -> Array:
    x, zeros = _prepared(x, windows)
    return jax.lax.conv_general_dilated(
        x,
        matrix,
        window_strides=[w.stride for w in windows],
        padding=zeros,
        lhs_dilation=[w.spread for w in windows],
        rhs_dilation=[w.dilation for w in windows],
        dimension_numbers=_numbers(len(windows)),
        precision=jax.lax.Precision.HIGHEST,
    )


def _local(x: Array, matrix: Array, windows: Sequence[Window]) -> Array:
    x, zeros = _prepared(x, windows)
    sizes = [w.size for w in windows]
    patches = jax.lax.conv_general_dilated_patches(
        x,
        sizes,
        [w.stride for w in windows],
        zeros,
        dimension_numbers=_numbers(len(windows)),
        precision=jax.lax.Precision.HIGHEST,
    )  # [N, *S', C * prod(sizes)], channels first
    num_space = len(windows)
    flat = jnp.moveaxis(matrix, -2, num_space)  # [*S', C, *sizes, D]
    flat = flat.reshape(*matrix.shape[:num_space], -1, matrix.shape[-1])
    return states.highest("n...i,...id->n...d", patches, flat)


def _sum_gaps(pairs: Pairs, var1: Array, var2: Array, windows: Sequence[Window]) -> Array:
    """Window sums of a full layout's gaps; the gap to padding, a zero, is the other's variance."""
    dims = var1.ndim - 1
    single = positions.pair_axes(1, dims, False)
    inside = positions.pad(jnp.ones((1, *var1.shape[1:]), bool), single, windows)
    in1, in2 = pairs.sides(inside, inside)
    var1, var2 = pairs.sides(*(positions.pad(v, single, windows) for v in (var1, var2)))
    axes = positions.pair_axes(pairs.num_leading, dims, True)
    gap = jnp.where(in1 & in2, positions.pad(pairs.gap, axes, windows), var1 + var2)
    bare = [Window(w.size, w.stride, w.dilation) for w in windows]
    return positions.sum_windows(gap, axes, bare)


def _embed(pairs: Pairs, num_space: int) -> Pairs:
    """The full layout of independent positions: zero off the diagonal."""

    def one(array: Array) -> Array:
        for axis in range(num_space):
            at = pairs.num_leading + 2 * axis
            eye = jnp.eye(array.shape[at], dtype=array.dtype)
            shape = [1] * (array.ndim + 1)
            shape[at : at + 2] = eye.shape
            array = jnp.expand_dims(array, at + 1) * eye.reshape(shape)
        return array

    return pairs.map(one).replace(full=True)
