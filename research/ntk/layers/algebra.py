"""Networks from layers: in series, side by side, and branches that are joined again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params
from research.ntk import checks
from research.ntk.layers import dense
from research.ntk.layers import state as states
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.state import Needs, Pairs, State


@dataclasses.dataclass(frozen=True)
class Serial(Layer):
    """One layer after the other."""

    layers: tuple[Layer, ...]

    def shape(self, shape: Shape) -> Shape:
        """See `Layer`; an error names the layer."""
        for number, layer in enumerate(self.layers):
            try:
                shape = layer.shape(shape)
            except ValueError as error:
                raise ValueError(f"layer {number}: {error}") from None
        return shape

    def draw(self, rng: Key, shape: Shape) -> Params:
        """A tuple, one entry a layer."""
        params = []
        for number, layer in enumerate(self.layers):
            params.append(layer.draw(jax.random.fold_in(rng, number), shape))
            shape = layer.shape(shape)
        return tuple(params)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        for layer, own in zip(self.layers, params, strict=True):
            signal = layer.forward(own, signal)
        return signal

    def propagate(self, state: State) -> State:
        """See `Layer`; an error names the layer."""
        for number, layer in enumerate(self.layers):
            try:
                state = layer.propagate(state)
            except ValueError as error:
                raise ValueError(f"layer {number}: {error}") from None
        return state

    def needs(self, needs: Needs) -> Needs:
        """See `Layer`."""
        for layer in reversed(self.layers):
            needs = layer.needs(needs)
        return needs


@dataclasses.dataclass(frozen=True)
class Parallel(Layer):
    """The i-th layer on the i-th of several inputs."""

    layers: tuple[Layer, ...]

    def shape(self, shape: Shape) -> Shape:
        """See `Layer`."""
        self._check(shape if all(isinstance(s, tuple) for s in shape) else (shape,))
        return tuple(layer.shape(s) for layer, s in zip(self.layers, shape))

    def draw(self, rng: Key, shape: Shape) -> Params:
        """A tuple, one entry a layer."""
        return tuple(
            layer.draw(jax.random.fold_in(rng, i), s)
            for i, (layer, s) in enumerate(zip(self.layers, shape))
        )

    def forward(self, params: Params, signal: tuple[Signal, ...]) -> tuple[Signal, ...]:
        """See `Layer`."""
        return tuple(
            layer.forward(own, s) for layer, own, s in zip(self.layers, params, signal, strict=True)
        )

    def propagate(self, state: tuple[State, ...]) -> tuple[State, ...]:
        """See `Layer`."""
        return tuple(layer.propagate(s) for layer, s in zip(self.layers, state, strict=True))

    def needs(self, needs: Needs | tuple[Needs, ...]) -> tuple[Needs, ...]:
        """One a branch."""
        each = (needs,) * len(self.layers) if isinstance(needs, Needs) else needs
        return tuple(layer.needs(n) for layer, n in zip(self.layers, each))

    def _check(self, inputs: tuple) -> None:
        if len(inputs) != len(self.layers):
            raise ValueError(f"parallel has {len(self.layers)} layers for {len(inputs)} inputs")


@dataclasses.dataclass(frozen=True)
class FanOut(Layer):
    """The same input for each of several branches."""

    num: int

    def shape(self, shape: Shape) -> Shape:
        """See `Layer`."""
        return (shape,) * self.num

    def forward(self, params: Params, signal: Signal) -> tuple[Signal, ...]:
        """Copies; each branch drops units of its own."""

        def fold(i):
            return None if signal.rng is None else jax.random.fold_in(signal.rng, i)

        return tuple(signal.replace(rng=fold(i)) for i in range(self.num))

    def propagate(self, state: State) -> tuple[State, ...]:
        """Copies, which no longer have weights of their own."""
        return (state.replace(fresh=False),) * self.num

    def needs(self, needs: Needs | tuple[Needs, ...]) -> Needs:
        """What any branch needs."""
        return needs if isinstance(needs, Needs) else functools.reduce(Needs.union, needs)


@dataclasses.dataclass(frozen=True)
class Join(Layer):
    """Several branches into one: their sum, product or concatenated channels."""

    kind: str

    def shape(self, shape: Shape) -> Shape:
        """See `Layer`."""
        if not shape or not all(isinstance(s, tuple) for s in shape):
            raise ValueError(f"{self.kind} joins branches, not the single input {shape}")
        compare = [s[:-1] for s in shape] if self.kind == "concatenate" else shape
        if len(set(compare)) != 1:
            raise ValueError(f"{self.kind} of branches of different shapes {shape}")
        if self.kind == "concatenate":
            return (*shape[0][:-1], sum(s[-1] for s in shape))
        return shape[0]

    def forward(self, params: Params, signal: tuple[Signal, ...]) -> Signal:
        """See `Layer`."""
        values, masks = [s.x for s in signal], [s.mask for s in signal]
        _same_masks(masks)
        mask = None if masks[0] is None else functools.reduce(jnp.logical_or, masks)
        if self.kind == "concatenate":
            return signal[0].replace(x=jnp.concatenate(values, -1), mask=mask)
        operation = jnp.add if self.kind == "sum" else jnp.multiply
        return signal[0].replace(x=functools.reduce(operation, values), mask=mask)

    def propagate(self, state: tuple[State, ...]) -> State:
        """See `Layer`.

        Raises:
            ValueError: if branches of a sum or product are not independent.
        """
        _same_masks([s.mask1 for s in state])
        if self.kind == "concatenate":
            total = sum(s.channels for s in state)
            weights = [s.channels / total for s in state]
            scaled = [_scaled(s, weight) for s, weight in zip(state, weights)]
            joined = functools.reduce(lambda a, b: _combine(a, b, _sum), scaled)
            return joined.replace(channels=total, gaussian=False, fresh=all(s.fresh for s in state))
        if sum(not s.fresh for s in state) > 1:
            raise ValueError(
                f"{self.kind} of branches that share their inputs: all but one must have weights "
                "of their own at the end (dense, conv or self_attention), else they are correlated"
            )
        rule = _sum if self.kind == "sum" else _product
        return functools.reduce(lambda a, b: _combine(a, b, rule), state)


def serial(*layers: Layer) -> Layer:
    """The network of these layers, first to last; parameters are a tuple, one entry a layer."""
    return Serial(_layers(layers))


def parallel(*layers: Layer) -> Layer:
    """Layers side by side, each on one of a tuple of inputs or branches."""
    return Parallel(_layers(layers))


def fan_out(num: int) -> Layer:
    """The same input `num` times."""
    checks.count("num", num)
    return FanOut(num)


def branches(*layers: Layer) -> Layer:
    """Several layers on the same input; a join follows."""
    return serial(fan_out(len(layers)), parallel(*layers))


def sum_branches(*layers: Layer) -> Layer:
    """The sum of branches; of these layers on the same input if any are given."""
    return _join("sum", layers)


def product(*layers: Layer) -> Layer:
    """The product of branches; of these layers on the same input if any are given."""
    return _join("product", layers)


def concatenate(*layers: Layer) -> Layer:
    """Branches' channels side by side; of these layers on the same input if any are given.

    A nonlinearity after it needs dense or conv in between: the channels differ in variance.
    """
    return _join("concatenate", layers)


def residual(*layers: Layer, shortcut: Layer | None = None) -> Layer:
    """x + f(x) for f the series of `layers`, or shortcut(x) + f(x)."""
    return sum_branches(shortcut or dense.identity(), serial(*layers))


def repeat(layer: Layer, num: int) -> Layer:
    """`layer` `num` times in series, each time with weights of its own."""
    checks.count("num", num)
    return serial(*(layer,) * num)


def _layers(layers: tuple) -> tuple[Layer, ...]:
    if not layers:
        raise ValueError("expected at least one layer")
    for layer in layers:
        if not hasattr(layer, "propagate"):
            raise ValueError(f"{layer!r} is no layer: call its constructor, as in relu()")
    return layers


def _join(kind: str, layers: tuple[Layer, ...]) -> Layer:
    return serial(branches(*layers), Join(kind)) if layers else Join(kind)


def _same_masks(masks: list[Array | None]) -> None:
    if len({mask is None for mask in masks}) != 1:
        raise ValueError("branches with and without a mask cannot be joined")


Rule = Callable[[State, State, Pairs, Pairs, str, str], Pairs]


def _combine(a: State, b: State, rule: Rule) -> State:
    """Two states as one, their pairs by `rule`; variances follow the covariances' rule."""

    def own(n: str) -> Pairs | None:
        one, two = a.side("own", n), b.side("own", n)
        return None if one is None or two is None else rule(a, b, one, two, n, n)

    operation = jnp.add if rule is _sum else jnp.multiply

    def join(x, y):
        return None if x is None or y is None else operation(x, y)

    def either(x, y):
        return None if x is None else x | y

    cross = a.cross, b.cross
    if a.cross.full != b.cross.full:  # nothing later reads different positions
        cross = (p.at_equal_positions() if p.full else p for p in cross)
    return a.replace(
        cross=rule(a, b, *cross, "1", "2"),
        own1=own("1"),
        own2=own("2"),
        var1=join(a.var1, b.var1),
        var2=join(a.var2, b.var2),
        mask1=either(a.mask1, b.mask1),
        mask2=either(a.mask2, b.mask2),
        gaussian=a.gaussian and b.gaussian and rule is _sum,
        fresh=a.fresh and b.fresh,
    )


def _sum(a: State, b: State, p: Pairs, r: Pairs, first: str, second: str) -> Pairs:
    def add(x, y):
        return None if x is None or y is None else x + y

    return p.replace(nngp=p.nngp + r.nngp, gap=add(p.gap, r.gap), ntk=add(p.ntk, r.ntk))


def _product(a: State, b: State, p: Pairs, r: Pairs, first: str, second: str) -> Pairs:
    """d = (v1 - v2) (w1 - w2) / 2 + (v1 + v2) e / 2 + (w1 + w2) d / 2 - d e / 2."""
    ntk = None if p.ntk is None else p.nngp * r.ntk + p.ntk * r.nngp
    gap = None
    if p.gap is not None and r.gap is not None:
        v1, v2 = p.sides(a.side("var", first), a.side("var", second))
        w1, w2 = r.sides(b.side("var", first), b.side("var", second))
        gap = (v1 - v2) * (w1 - w2) + (v1 + v2) * r.gap + (w1 + w2) * p.gap - p.gap * r.gap
        gap = jnp.maximum(gap / 2, 0)
    return p.replace(nngp=p.nngp * r.nngp, gap=gap, ntk=ntk)


def _scaled(state: State, weight: float) -> State:
    def scale(array):
        return array * weight

    return state.map_pairs(lambda pairs, *_: pairs.map(scale)).replace(
        var1=states.apply(scale, state.var1), var2=states.apply(scale, state.var2)
    )
