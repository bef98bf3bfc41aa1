"""Mixing of positions by weights: self-attention and graph averages."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from library.types import Array, Key, Params
from research.ntk import checks
from research.ntk.layers import pooling, positions
from research.ntk.layers import state as states
from research.ntk.layers.dense import Weights
from research.ntk.layers.layer import Layer, Shape, Signal
from research.ntk.layers.state import Needs, Pairs, State

MECHANISMS = ("softmax", "identity", "relu")
SCALINGS = ("linear", "sqrt")


@dataclasses.dataclass(frozen=True)
class SelfAttention(Layer):
    """Every position attends to all; Hron et al. 2020, arXiv:2006.10540, infinitely many heads."""

    features: int
    num_heads: int
    key_features: int
    value_features: int
    query_std: float
    key_std: float
    value_std: float
    weights: Weights
    mechanism: str
    scaling: str

    def shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*S, features)."""
        positions.require_space(shape, 1, "self_attention")
        return (*shape[:-1], self.features)

    def needs(self, needs: Needs) -> Needs:
        """Different positions; with linear scaling those of one example, whose logits they are."""
        linear = self.scaling == "linear"
        own = linear or needs.own or needs.variances
        return Needs(cross=True, own=own, variances=needs.variances or needs.own or linear)

    def draw(self, rng: Key, shape: Shape) -> Params:
        """Standard normal {"query", "key" unless tied, "value", "out"}."""
        query_rng, key_rng, value_rng, out_rng = jax.random.split(rng, 4)
        inner = (self.num_heads, shape[-1])
        params = {
            "query": jax.random.normal(query_rng, (*inner, self.key_features)),
            "value": jax.random.normal(value_rng, (*inner, self.value_features)),
        }
        if self.scaling == "sqrt":
            params["key"] = jax.random.normal(key_rng, (*inner, self.key_features))
        fan_in = self.num_heads * self.value_features
        out = self.weights.draw(out_rng, (fan_in, self.features), fan_in, (self.features,))
        return params | {"out": out}

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        shape = signal.x.shape
        x = signal.x.reshape(shape[0], -1, shape[-1])  # [N, S, C]

        def project(name, std):
            return states.highest("nsc,hck->nhsk", x, params[name]) * (std / math.sqrt(shape[-1]))

        query = project("query", 1.0)
        key = query if self.scaling == "linear" else project("key", 1.0)
        power = 1.0 if self.scaling == "linear" else 0.5
        logits = states.highest("nhsk,nhtk->nhst", query, key)
        logits = logits * (self.query_std * self.key_std / self.key_features**power)
        mask = None if signal.mask is None else signal.mask.reshape(shape[0], 1, 1, -1)
        weights = self._weights(logits, mask)
        mixed = states.highest("nhst,nhtv->nshv", weights, project("value", self.value_std))
        fan_in = self.num_heads * self.value_features
        matrix, bias = self.weights.scaled(params["out"], fan_in)
        y = states.highest("nsi,id->nsd", mixed.reshape(*x.shape[:2], -1), matrix)
        y = y if isinstance(bias, float) else y + bias.reshape(1, 1, -1)
        return positions.hidden(signal.replace(x=y.reshape(*shape[:-1], -1)))

    def propagate(self, state: State) -> State:
        """See `Layer`."""
        mix = _linear_pairs if self.scaling == "linear" else _sqrt_pairs
        after = state.map_pairs(lambda p, first, second: mix(self, state, p, first, second))
        after = after.replace(channels=self.features, gaussian=True, fresh=True)
        return pooling.own_variances(after, state.var1 is not None).hide_masked()

    def attention(self, state: State, number: str) -> Array:
        """The weights of one set, [N, S, S], which no longer vary between draws."""
        own = _matrix(state.side("own", number), state)
        mask = state.side("mask", number)
        mask = None if mask is None else mask.reshape(mask.shape[0], 1, -1)
        return self._weights(self.query_std * self.key_std * own, mask)

    def _weights(self, logits: Array, mask: Array | None) -> Array:
        if self.mechanism == "softmax":
            masked = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
            top = jnp.max(masked, -1, keepdims=True)
            # A wholly masked example has no maximum: its weights are zeros, not NaN.
            powers = jnp.exp(masked - jnp.where(jnp.isfinite(top), top, 0))
            return powers * states.safe_reciprocal(powers.sum(-1, keepdims=True))
        weights = jax.nn.relu(logits) if self.mechanism == "relu" else logits
        return weights if mask is None else jnp.where(mask, weights, 0)


@dataclasses.dataclass(frozen=True)
class Aggregate(Layer):
    """z_s -> sum_t pattern[s, t] z_t over the nodes of a graph, given with the inputs."""

    def shape(self, shape: Shape) -> Shape:
        """The same."""
        positions.require_space(shape, 1, "aggregate")
        if len(shape) != 2:
            raise ValueError(f"aggregate takes inputs (nodes, C), not {shape}")
        return shape

    def needs(self, needs: Needs) -> Needs:
        """Different positions; of one example too, if its variance is read."""
        return pooling.pooled_needs(needs)

    def forward(self, params: Params, signal: Signal) -> Signal:
        """See `Layer`."""
        _require_pattern(signal.pattern)
        mixed = states.highest("nst,ntc->nsc", signal.pattern.astype(signal.x.dtype), signal.x)
        return positions.hidden(signal.replace(x=mixed))

    def propagate(self, state: State) -> State:
        """P1 K P2'."""
        _require_pattern(state.pattern1)

        def average(pairs: Pairs, first: str, second: str) -> Pairs:
            weights = (state.side("pattern", n).astype(pairs.nngp.dtype) for n in (first, second))
            one, two = weights
            return pairs.map(lambda array: _sandwich(one, array, two, pairs.paired))

        after = state.map_pairs(average)
        return pooling.own_variances(after, state.var1 is not None).hide_masked()


def self_attention(
    features: int,
    *,
    num_heads: int = 1,
    key_features: int | None = None,
    value_features: int | None = None,
    query_std: float = 1.0,
    key_std: float = 1.0,
    value_std: float = 1.0,
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    mechanism: str = "softmax",
    scaling: str = "linear",
) -> Layer:
    """Global multi-head self-attention, Hron et al. 2020, arXiv:2006.10540.

    With scaling "linear" the logits are divided by key_features and keys are the queries (tied
    weights): the attention weights A = mechanism(query_std key_std E z_s z_t) no longer vary, and
    q -> v^2 w^2 A1 q A2' + b^2, Theta -> v^2 w^2 A1 (2 q + Theta) A2' + b^2.
    With scaling "sqrt" they are divided by its root, and only the mechanism "identity" has a known
    closed form: with the four deviations' product p, q_st -> p^2 q_st sum_ab q_ab^2 + b^2,
    Theta -> p^2 (4 q_st sum q^2 + Theta_st sum q^2 + 2 q_st sum q Theta) + b^2.

    Args:
        features: number of output channels of the finite network.
        num_heads: heads of the finite network; infinitely many in the kernel.
        key_features: size of a head's queries and keys; None for `features`.
        value_features: size of a head's values; None for `features`.
        query_std: deviation of the query weights times sqrt(fan_in).
        key_std: the same of the keys.
        value_std: v, the same of the values.
        weight_std: w, the same of the output weights.
        bias_std: b, deviation of the output bias; 0 for none.
        mechanism: "softmax", "identity" or "relu".
        scaling: "linear" or "sqrt".
    Raises:
        ValueError: if an argument is out of range, or for mechanism and scaling without a known
            closed form.
    """
    checks.choice("mechanism", mechanism, MECHANISMS)
    checks.choice("scaling", scaling, SCALINGS)
    if scaling == "sqrt" and mechanism != "identity":
        raise ValueError(
            f"mechanism={mechanism!r} with scaling='sqrt' has no known closed form: use "
            "scaling='linear', or mechanism='identity', or ntk.empirical on a finite network"
        )
    sizes = {
        "features": features,
        "num_heads": num_heads,
        "key_features": features if key_features is None else key_features,
        "value_features": features if value_features is None else value_features,
    }
    for name, size in sizes.items():
        checks.count(name, size)
    return SelfAttention(
        **sizes,
        query_std=query_std,
        key_std=key_std,
        value_std=value_std,
        weights=Weights(weight_std, bias_std, "ntk"),
        mechanism=mechanism,
        scaling=scaling,
    )


def aggregate() -> Layer:
    """Averages over a graph: z_s -> sum_t pattern[s, t] z_t.

    The pattern is given with the inputs: `net.apply(params, x, pattern=p)`,
    `net.kernel(x1, x2, pattern1=p1, pattern2=p2)`, each [N, nodes, nodes].
    """
    return Aggregate()


def _linear_pairs(layer: SelfAttention, state: State, p: Pairs, first: str, second: str) -> Pairs:
    one, two = (layer.attention(state, number) for number in (first, second))
    power, offset = (layer.value_std * layer.weights.weight_std) ** 2, layer.weights.bias_std**2

    def mixed(array):
        return power * _sandwich(one, array, two, p.paired)

    ntk = p.ntk
    if ntk is not None:
        ntk = mixed(2 * p.nngp + ntk) + offset
    return p.replace(nngp=mixed(p.nngp) + offset, ntk=ntk, gap=None)


def _sqrt_pairs(layer: SelfAttention, state: State, p: Pairs, first: str, second: str) -> Pairs:
    inner = layer.query_std * layer.key_std * layer.value_std
    power, offset = (inner * layer.weights.weight_std) ** 2, layer.weights.bias_std**2
    space = tuple(range(p.num_leading, p.nngp.ndim))
    square = (p.nngp**2).sum(space, keepdims=True)
    ntk = p.ntk
    if ntk is not None:
        backward = 2 * p.nngp * (p.nngp * ntk).sum(space, keepdims=True) + ntk * square
        ntk = power * (4 * p.nngp * square + backward) + offset
    return p.replace(nngp=power * p.nngp * square + offset, ntk=ntk, gap=None)


def _sandwich(one: Array, array: Array, two: Array, paired: bool) -> Array:
    """one array two' over positions, [N1, S, S] and [N2, S, S] on a full layout."""
    num_leading = 1 if paired else 2
    num_space = (array.ndim - num_leading) // 2
    moved = jnp.moveaxis(array, *_grouping(num_leading, num_space))
    shape = moved.shape
    size = math.prod(shape[num_leading : num_leading + num_space])
    flat = moved.reshape(*shape[:num_leading], size, size)
    spec = "nst,ntu,nvu->nsv" if paired else "nst,nmtu,mvu->nmsv"
    out = states.highest(spec, one, flat, two).reshape(shape)
    return jnp.moveaxis(out, *reversed(_grouping(num_leading, num_space)))


def _matrix(pairs: Pairs, state: State) -> Array:
    """Own covariances, full and paired, as [N, S, S]."""
    size = math.prod(state.space)
    moved = jnp.moveaxis(pairs.nngp, *_grouping(1, len(state.space)))
    return moved.reshape(-1, size, size)


def _grouping(num_leading: int, num_space: int) -> tuple[list[int], list[int]]:
    """From interleaved axes (s1, t1, s2, t2) to (s1, s2, t1, t2)."""
    interleaved = [num_leading + 2 * i + side for side in (0, 1) for i in range(num_space)]
    return interleaved, list(range(num_leading, num_leading + 2 * num_space))


def _require_pattern(pattern: Array | None) -> None:
    if pattern is None:
        raise ValueError(
            "aggregate needs the pattern of its graph: pattern= or pattern1=, pattern2="
        )
