"""Layers without positions of their own: dense, identity, flatten, layer norm, dropout."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params, at_least_float32
from research.ntk import checks
from research.ntk.layers import positions
from research.ntk.layers import state as states
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.state import Needs, Pairs, State

PARAMETERISATIONS = ("ntk", "standard")
# Below this share of the variances a gap knows more than the covariance.
_NEAR = 0.05


@dataclasses.dataclass(frozen=True)
class Weights:
    """Gaussian weights and biases of one layer, in one of two parameterisations.

    "ntk": y = weight_std / sqrt(fan_in) W x + bias_std b with standard normal parameters. The
    kernel q -> weight_std^2 mean q + bias_std^2; the tangent kernel of the parameters is the same.
    "standard": y = W x + b with W of variance weight_std^2 / fan_in and b of variance bias_std^2.
    The same q; the tangent kernel of the parameters is fan_in mean q + 1, without + 1 where
    bias_std = 0, which means no bias.
    """

    weight_std: float
    bias_std: float
    parameterisation: str

    def __post_init__(self):
        checks.choice("parameterisation", self.parameterisation, PARAMETERISATIONS)
        if not (0 <= self.weight_std < math.inf and 0 <= self.bias_std < math.inf):
            raise ValueError(
                f"weight_std={self.weight_std}, bias_std={self.bias_std}: expected at least 0"
            )

    def draw(self, rng: Key, weight_shape: tuple, fan_in: int, bias_shape: tuple) -> dict:
        """{"w": ..., "b": ...}, without "b" where there is no bias."""
        w_rng, b_rng = jax.random.split(rng)
        ntk = self.parameterisation == "ntk"
        scale = 1.0 if ntk else self.weight_std / math.sqrt(fan_in)
        params = {"w": scale * jax.random.normal(w_rng, weight_shape)}
        if self.bias_std:
            scale = 1.0 if ntk else self.bias_std
            params["b"] = scale * jax.random.normal(b_rng, bias_shape)
        return params

    def scaled(self, params: dict, fan_in: int) -> tuple[Array, Array | float]:
        """The matrix and the bias that act on the input."""
        if self.parameterisation == "standard":
            return params["w"], params.get("b", 0.0)
        bias = self.bias_std * params["b"] if "b" in params else 0.0
        return self.weight_std / math.sqrt(fan_in) * params["w"], bias

    def pairs(self, pairs: Pairs, mean, fan_in: int) -> Pairs:
        """Kernels after the layer; `mean` averages covariances over the inputs of one output."""
        power, offset = self.weight_std**2, self.bias_std**2
        averaged = mean(pairs.nngp)
        nngp = power * averaged + offset
        gap = None if pairs.gap is None else power * mean(pairs.gap)
        if pairs.ntk is None:
            return pairs.replace(nngp=nngp, gap=gap)
        first = pairs.ntk.ndim == 0
        if self.parameterisation == "ntk":
            ntk = nngp if first else power * mean(pairs.nngp + pairs.ntk) + offset
        else:
            ntk = fan_in * averaged + bool(self.bias_std)
            ntk = ntk if first else ntk + power * mean(pairs.ntk)
        return pairs.replace(nngp=nngp, gap=gap, ntk=ntk)

    def variance(self, mean: Array) -> Array:
        """Variances after the layer from their averages over the inputs of one output."""
        return self.weight_std**2 * mean + self.bias_std**2


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """An affine map of the channels, the same at every position."""

    features: int
    weights: Weights

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*S, features)."""
        positions.require_space(shape, 0, "dense")
        return (*shape[:-1], self.features)

    def draw(self, rng: Key, shape: Shape) -> Params:
        """See `Layer`."""
        size = shape[-1]
        return self.weights.draw(rng, (size, self.features), size, (self.features,))

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        matrix, bias = self.weights.scaled(params, signal.x.shape[-1])
        y = states.highest("...c,cd->...d", signal.x, matrix)
        return positions.hidden(signal.replace(x=y if isinstance(bias, float) else _add(y, bias)))

    def propagate(self, state: State) -> State:
        """See `Layer`."""

        def mean(array):
            return array

        after = state.map_pairs(lambda p, *_: self.weights.pairs(p, mean, state.channels))
        return after.replace(
            var1=states.apply(self.weights.variance, state.var1),
            var2=states.apply(self.weights.variance, state.var2),
            channels=self.features,
            gaussian=True,
            fresh=True,
        ).hide_masked()


@dataclasses.dataclass(frozen=True)
class Identity(Layer):
    """Nothing."""

    def shape(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        return signal

    def propagate(self, state: State) -> State:
        """See `Layer`."""
        return state


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """All positions and channels become channels."""

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (product,)."""
        positions.require_space(shape, 0, "flatten")
        return (math.prod(shape),)

    def needs(self, needs: Needs) -> Needs:
        """Equal positions only."""
        return Needs(cross=False, own=False, variances=needs.variances or needs.own)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        x = signal.x
        if x.ndim == 2:
            return signal
        return signal.replace(x=x.reshape(x.shape[0], -1), mask=None, pattern=None)

    def propagate(self, state: State) -> State:
        """Means over equal positions."""
        if not state.space:
            return state

        def flat(pairs: Pairs, *_) -> Pairs:
            pairs = pairs.at_equal_positions() if pairs.full else pairs
            space = tuple(range(pairs.num_leading, pairs.num_leading + len(state.space)))
            return pairs.map(lambda array: array.mean(space)).replace(full=False)

        flattened = state.map_pairs(flat)

        def mean(v):
            return v.mean(tuple(range(1, v.ndim)))

        return flattened.replace(
            var1=states.apply(mean, state.var1),
            var2=states.apply(mean, state.var2),
            mask1=None,
            mask2=None,
            pattern1=None,
            pattern2=None,
            channels=state.channels * math.prod(state.space),
            space=(),
            gaussian=False,
        )


@dataclasses.dataclass(frozen=True)
class LayerNorm(Layer):
    """Division by the root of the mean square over channels, and over positions if asked."""

    over_positions: bool
    epsilon: float

    def shape(self, shape: Shape) -> Shape:
        """The same."""
        positions.require_space(shape, 0, "layer_norm")
        return shape

    def needs(self, needs: Needs) -> Needs:
        """Variances too."""
        return needs._replace(variances=True)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        x = signal.x
        axes = tuple(range(1, x.ndim)) if self.over_positions else (x.ndim - 1,)
        square = (x * x).mean(axes, keepdims=True)
        if self.over_positions and signal.mask is not None:
            square = square / _share(signal.mask, at_least_float32(x.dtype))[..., None]
        scale = states.safe_reciprocal(states.safe_sqrt(square + self.epsilon))
        return signal.replace(x=x * scale)

    def propagate(self, state: State) -> State:
        """Kernels of z / n: q / (n1 n2), and d / (n1 n2) + (v1/n1 - v2/n2) (1/n1 - 1/n2).

        The latter for near pairs only: next to a zero, 1/n is huge and its terms cancel.
        """
        scale1 = self._scale(state.var1, state.mask1)
        scale2 = self._scale(state.var2, state.mask2)
        scales, vars_ = {"1": scale1, "2": scale2}, {"1": state.var1, "2": state.var2}

        def divide(pairs: Pairs, first: str, second: str) -> Pairs:
            one, two = pairs.sides(scales[first], scales[second])
            var1, var2 = pairs.sides(vars_[first], vars_[second])
            after = pairs.map(lambda array: array * (one * two))
            near = pairs.gap < _NEAR * (var1 + var2)
            gap = after.gap + (var1 * one - var2 * two) * (one - two)
            far = states.gap_of(var1 * one**2, var2 * two**2, after.nngp)
            return after.replace(gap=jnp.where(near, gap, far))

        after = state.map_pairs(divide)
        return after.replace(var1=state.var1 * scale1**2, var2=state.var2 * scale2**2)

    def _scale(self, var: Array, mask: Array | None) -> Array:
        square = var
        if self.over_positions:
            square = jnp.broadcast_to(var.mean(tuple(range(1, var.ndim)), keepdims=True), var.shape)
            square = square if mask is None else square / _share(mask, var.dtype)
        return states.safe_reciprocal(states.safe_sqrt(square + self.epsilon))


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """Units set to zero with probability `rate`, the others divided by 1 - rate."""

    rate: float

    def shape(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def forward(self, params: Params, signal: Signal) -> Signal:
        """Without a key nothing is dropped."""
        if signal.rng is None:
            return signal
        rng, here = jax.random.split(signal.rng)
        keep = jax.random.bernoulli(here, 1 - self.rate, signal.x.shape)
        return signal.replace(x=jnp.where(keep, signal.x / (1 - self.rate), 0), rng=rng)

    def propagate(self, state: State) -> State:
        """A unit is dropped for an example as a whole: only equal positions of one example grow."""
        grow = 1 / (1 - self.rate)

        def drop(pairs: Pairs, first: str, second: str) -> Pairs:
            same = state.identical(pairs, first, second)

            def enlarge(array):
                return jnp.where(same, array * grow, array)

            ntk = pairs.ntk if pairs.ntk is None or pairs.ntk.ndim == 0 else enlarge(pairs.ntk)
            return pairs.replace(nngp=enlarge(pairs.nngp), ntk=ntk)

        after = state.map_pairs(drop).replace(
            var1=states.apply(lambda v: v * grow, state.var1),
            var2=states.apply(lambda v: v * grow, state.var2),
            gaussian=False,
        )
        return after.refresh_gaps()


def dense(
    features: int,
    *,
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    parameterisation: str = "ntk",
) -> Layer:
    """An affine map of the channels: q -> weight_std^2 q + bias_std^2; see `Weights`.

    Args:
        features: number of output channels of the finite network.
        weight_std: standard deviation of the weights times sqrt(fan_in).
        bias_std: standard deviation of the bias; 0 for none.
        parameterisation: "ntk" or "standard".
    Raises:
        ValueError: if a number is out of range or the parameterisation unknown.
    """
    checks.count("features", features)
    return Dense(features, Weights(weight_std, bias_std, parameterisation))


def identity() -> Layer:
    """The layer that does nothing, as one of several branches."""
    return Identity()


def flatten() -> Layer:
    """All positions and channels become channels; only equal positions enter the kernel."""
    return Flatten()


def layer_norm(*, over_positions: bool = False, epsilon: float = 1e-12) -> Layer:
    """Unit mean square over channels; the mean over channels, zero at infinite width, stays.

    Args:
        over_positions: one scale an example instead of one a position.
        epsilon: added to the mean square, >= 0.
    Raises:
        ValueError: if `epsilon` is out of range.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon}: expected a number >= 0")
    return LayerNorm(over_positions, epsilon)


def dropout(rate: float) -> Layer:
    """Inverted dropout, in training: kernels average over the dropped units.

    Args:
        rate: probability that a unit is dropped, in [0, 1).
    Raises:
        ValueError: if `rate` is out of range.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate}: expected a number in [0, 1)")
    return Dropout(rate)


def _share(mask: Array, dtype) -> Array:
    """The share of positions that exist, of at least one, broadcastable to the mask."""
    axes = tuple(range(1, mask.ndim))
    share = mask.mean(axes, keepdims=True, dtype=dtype)  # of booleans: float32 if not told
    return jnp.maximum(share, 1 / math.prod(mask.shape[1:]))


def _add(y: Array, bias: Array) -> Array:
    return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
