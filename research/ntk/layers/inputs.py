"""The kernel of the inputs themselves, from which layers propagate."""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk.layers import state as states
from research.ntk.layers.state import Needs, Pairs, State

# Up to this many channels differences are summed one by one: exact gaps at little cost.
_FEW_CHANNELS = 8
# Relative gaps below this are summed anew from differences: rounding would show in the angle.
_NEAR = 1e-3


@flax.struct.dataclass
class Examples:
    """One set of inputs: `x` [N, *S, C], `mask` [N, *S] or None, `pattern` or None, `ids` [N].

    Two examples of equal id are one and the same example.
    """

    x: Array
    mask: Array | None
    pattern: Array | None
    ids: Array


def input_state(
    first: Examples, second: Examples, needs: Needs, *, paired: bool, ntk: bool
) -> State:
    """x1 . x2 / C at every pair of positions that `needs` names.

    Args:
        first: [N1, *S, C].
        second: [N2, *S, C]; N1 = N2 if `paired`.
        needs: what the layers to come read.
        paired: pairs of equal rank instead of all pairs.
        ntk: whether the tangent kernel travels along.
    """
    first, second = _hidden(first), _hidden(second)
    same = first.ids == second.ids if paired else first.ids[:, None] == second.ids[None]
    var1, var2 = ((e.x * e.x).mean(-1) for e in (first, second))
    tangent = jnp.zeros((), first.x.dtype)
    state = State(
        cross=_products(first.x, second.x, paired, needs.cross, tangent if ntk else None),
        own1=_products(first.x, first.x, True, True, None) if needs.own else None,
        own2=_products(second.x, second.x, True, True, None) if needs.own else None,
        var1=var1,
        var2=var2,
        mask1=first.mask,
        mask2=second.mask,
        pattern1=first.pattern,
        pattern2=second.pattern,
        same=same,
        channels=first.x.shape[-1],
        space=first.x.shape[1:-1],
    )
    if not needs.variances:
        cross = state.cross.replace(gap=None)
        return state.replace(cross=cross, var1=None, var2=None)
    return _with_gaps(state, first.x, second.x)


def _hidden(examples: Examples) -> Examples:
    if examples.mask is None:
        return examples
    return examples.replace(x=jnp.where(examples.mask[..., None], examples.x, 0))


def _products(x1: Array, x2: Array, paired: bool, full: bool, ntk: Array | None) -> Pairs:
    """Covariances only; gaps follow."""
    num_space, channels = x1.ndim - 2, x1.shape[-1]
    left, right = "hijkl"[:num_space], "HIJKL"[:num_space]
    right = right if full else left
    together = "".join(a + b for a, b in zip(left, right)) if full else left
    batch = "n" if paired else "nm"
    spec = f"n{left}c,{batch[-1]}{right}c->{batch}{together}"
    nngp = states.highest(spec, x1 / math.sqrt(channels), x2 / math.sqrt(channels))
    return Pairs(nngp=nngp, gap=None, ntk=ntk, paired=paired, full=full)


def _with_gaps(state: State, x1: Array, x2: Array) -> State:
    """Gaps from differences of the inputs, wherever those of rounded products would not do."""
    if state.channels > _FEW_CHANNELS:
        state = state.refresh_gaps()

    def exact(pairs: Pairs, first: str, second: str) -> Pairs:
        one, two = ({"1": x1, "2": x2}[number] for number in (first, second))
        if state.channels <= _FEW_CHANNELS:
            return pairs.replace(gap=_sum_of_squares(pairs, one, two))
        var1, var2 = pairs.sides(state.side("var", first), state.side("var", second))
        near = (pairs.gap < _NEAR * (var1 + var2)) & ~state.identical(pairs, first, second)
        near = near & (var1 + var2 > 0)

        def renew(gap):
            return _renewed(pairs.replace(gap=gap), near, one, two)

        return pairs.replace(gap=jax.lax.cond(near.any(), renew, lambda gap: gap, pairs.gap))

    return state.map_pairs(exact)


def _sum_of_squares(pairs: Pairs, x1: Array, x2: Array) -> Array:
    total = 0.0
    for channel in range(x1.shape[-1]):
        one, two = pairs.sides(x1[..., channel], x2[..., channel])
        total = total + (one - two) ** 2
    return total / x1.shape[-1]


def _renewed(pairs: Pairs, near: Array, x1: Array, x2: Array) -> Array:
    """Gaps with those of near pairs from differences, one example of x1 after the other."""

    def row(args: tuple[Array, ...]) -> Array:
        one, two, near, gap = args
        two = two[None] if pairs.paired else two

        def square(a, b):
            return jnp.square(jnp.subtract(*pairs.sides(a[None], b)))[0]

        def exact(gap):
            return jnp.where(near, jax.vmap(square, in_axes=-1)(one, two).mean(0), gap)

        return jax.lax.cond(near.any(), exact, lambda gap: gap, gap)

    if pairs.paired:
        return jax.lax.map(row, (x1, x2, near, pairs.gap))
    return jax.lax.map(lambda args: row((args[0], x2, *args[1:])), (x1, near, pairs.gap))
