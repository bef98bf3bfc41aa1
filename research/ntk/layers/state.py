"""What travels through an infinitely wide network: covariances, tangent kernels, what shapes them.

Between positions s of an example x and t of an example y a layer's channels have the covariance
q = E z_s(x) z_t(y) and the variances v1, v2. Beside q travels the gap d = E (z_s(x) - z_t(y))^2 =
v1 + v2 - 2 q. Linear layers map it linearly, and near-duplicates keep the angle between them, half
of whose digits cos = q / sqrt(v1 v2) alone would lose.

Layouts of an array over pairs, with leading axes [N1, N2] (all pairs) or [N] (pairs of equal rank):
diagonal [..., *S] holds equal positions s = t only; full [..., s1, t1, s2, t2, ...] holds all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32

# Where a gap is a difference of rounded numbers, these many units in the last place are no gap.
_ROUNDING = 8
# From this many entries on a layer's arrays are computed apart from one another.
_LARGE = 2**18


class Needs(NamedTuple):
    """What later layers read of a state.

    Attributes:
        cross: covariances between different positions of x1 and x2.
        own: covariances between different positions of one example.
        variances: variances of single positions.
    """

    cross: bool = False
    own: bool = False
    variances: bool = False

    def union(self, other: Needs) -> Needs:
        """What either needs."""
        return Needs(*(a or b for a, b in zip(self, other)))


@flax.struct.dataclass
class Pairs:
    """Kernels between pairs of positions; `nngp` covariance q, `gap` d, `ntk` tangent kernel.

    `gap` is None once no later layer reads variances, `ntk` None when it is not asked for and of
    shape [] before the first parameter. `paired`: leading axes [N] instead of [N1, N2].
    """

    nngp: Array
    gap: Array | None
    ntk: Array | None
    paired: bool = flax.struct.field(pytree_node=False, default=False)
    full: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def num_leading(self) -> int:
        """Number of axes before the positions."""
        return 1 if self.paired else 2

    def sides(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Values of single positions, [N1, *S] and [N2, *S], broadcastable to the pairs."""
        first, second = jnp.asarray(first), jnp.asarray(second)
        if self.full:
            axes = range(1, first.ndim)
            first = jnp.expand_dims(first, [2 * axis for axis in axes])
            second = jnp.expand_dims(second, [2 * axis - 1 for axis in axes])
        if not self.paired:
            first, second = first[:, None], second[None]
        return first, second

    def map(self, function: Callable[[Array], Array]) -> Pairs:
        """The same linear map on every array."""
        ntk = self.ntk if self.ntk is None or self.ntk.ndim == 0 else function(self.ntk)
        return self.replace(nngp=function(self.nngp), gap=apply(function, self.gap), ntk=ntk)

    def at_equal_positions(self) -> Pairs:
        """The diagonal layout of a full one."""
        return self.map(lambda array: equal_positions(array, self.num_leading)).replace(full=False)


@flax.struct.dataclass
class State:
    """Kernels between two sets of examples after some layer.

    Attributes:
        cross: between the examples of x1 and of x2.
        own1: between the positions of each example of x1, [N1] full; None where nothing reads it.
        own2: the same of x2.
        var1: [N1, *S], variances; None where nothing reads them.
        var2: [N2, *S].
        mask1: [N1, *S] bool, which positions exist; None for all.
        mask2: [N2, *S].
        pattern1: [N1, S, S], how nodes of a graph are averaged; None without graphs.
        pattern2: [N2, S, S].
        same: [N1, N2] or [N] bool, pairs that are one and the same example.
        channels: number of channels of the finite network.
        space: shape S of the positions.
        gaussian: whether a nonlinearity may follow: the channels are independent Gaussians.
        fresh: whether weights of this branch alone make the mean over them zero.
    """

    cross: Pairs
    own1: Pairs | None
    own2: Pairs | None
    var1: Array | None
    var2: Array | None
    mask1: Array | None
    mask2: Array | None
    pattern1: Array | None
    pattern2: Array | None
    same: Array
    channels: int = flax.struct.field(pytree_node=False)
    space: tuple[int, ...] = flax.struct.field(pytree_node=False)
    gaussian: bool = flax.struct.field(pytree_node=False, default=False)
    fresh: bool = flax.struct.field(pytree_node=False, default=False)

    def map_pairs(self, function: Callable[[Pairs, str, str], Pairs]) -> State:
        """`function(pairs, first, second)` on all pairs; `first`, `second` are "1" or "2"."""
        return self.replace(
            cross=function(self.cross, "1", "2"),
            own1=apply(lambda own: function(own, "1", "1"), self.own1),
            own2=apply(lambda own: function(own, "2", "2"), self.own2),
        )

    def side(self, name: str, number: str) -> Any:
        """The field `name` of one of the two sets."""
        return getattr(self, name + number)

    def hide_masked(self) -> State:
        """Zeros at the positions that do not exist; a gap to a zero is the other's variance."""
        if self.mask1 is None:
            return self
        hidden = self.replace(
            var1=apply(lambda v: jnp.where(self.mask1, v, 0), self.var1),
            var2=apply(lambda v: jnp.where(self.mask2, v, 0), self.var2),
        )

        def hide(pairs: Pairs, first: str, second: str) -> Pairs:
            keep1, keep2 = pairs.sides(self.side("mask", first), self.side("mask", second))
            keep = keep1 & keep2
            gap = pairs.gap
            if gap is not None:
                var1, var2 = pairs.sides(hidden.side("var", first), hidden.side("var", second))
                gap = jnp.where(keep, gap, var1 + var2)
            return pairs.map(lambda array: jnp.where(keep, array, 0)).replace(gap=gap)

        return hidden.map_pairs(hide)

    def refresh_gaps(self) -> State:
        """Gaps from covariances and variances, for layers that do not map them themselves."""

        def refresh(pairs: Pairs, first: str, second: str) -> Pairs:
            var1, var2 = self.side("var", first), self.side("var", second)
            if var1 is None:
                return pairs.replace(gap=None)
            gap = gap_of(*pairs.sides(var1, var2), pairs.nngp)
            return pairs.replace(gap=jnp.where(self.identical(pairs, first, second), 0, gap))

        return self.map_pairs(refresh)

    def identical(self, pairs: Pairs, first: str, second: str) -> Array:
        """Which pairs are one position of one example, broadcastable to the pairs."""
        num = len(self.space)
        if first == second:
            same = jnp.ones((1,) * (1 + 2 * num), bool)
        else:
            axes = 2 * num if pairs.full else num
            same = self.same.reshape(self.same.shape + (1,) * axes)
        if pairs.full:
            for axis, size in enumerate(self.space):
                shape = [1] * same.ndim
                start = pairs.num_leading + 2 * axis
                shape[start : start + 2] = size, size
                same = same & jnp.eye(size, dtype=bool).reshape(shape)
        return same


def apart(function: Callable[[Pairs], Pairs], pairs: Pairs) -> Pairs:
    """function(pairs), large arrays each in a computation of its own on CPUs.

    XLA for CPUs fuses what made an array into what pads it, which has a branch an element and is
    not vectorised, and keeps parts that several results share in memory: a convolution's kernels
    take seven times as long. Nothing is fused across the border of a condition, and both branches
    of this one are the same.
    """
    if pairs.nngp.size < _LARGE:
        return function(pairs)

    def conditional(name: str) -> Callable[[Pairs], Array]:
        def result(pairs: Pairs) -> Array:
            return getattr(function(pairs), name)

        return lambda pairs: jax.lax.cond(pairs.nngp.ravel()[0] > 0, result, result, pairs)

    after = jax.eval_shape(function, pairs)
    names = [name for name in ("nngp", "gap", "ntk") if getattr(after, name) is not None]
    return after.replace(
        **{
            name: jax.lax.platform_dependent(
                pairs,
                cpu=conditional(name),
                default=lambda pairs, name=name: getattr(function(pairs), name),
            )
            for name in names
        }
    )


def apply(function: Callable[[Array], Array], value: Array | None) -> Array | None:
    """function(value), or None of None."""
    return None if value is None else function(value)


def gap_of(var1: Array, var2: Array, nngp: Array) -> Array:
    """v1 + v2 - 2 q, not below zero; what is within the rounding error of the sum is zero."""
    total = var1 + var2
    gap = total - 2 * nngp
    return jnp.where(gap > _ROUNDING * jnp.finfo(gap.dtype).eps * total, gap, 0)


def equal_positions(array: Array, num_leading: int) -> Array:
    """[..., s1, t1, s2, t2, ...] at s = t: [..., s1, s2, ...]."""
    for axis in range(num_leading, num_leading + (array.ndim - num_leading) // 2):
        array = jnp.moveaxis(jnp.diagonal(array, axis1=axis, axis2=axis + 1), -1, axis)
    return array


def safe_sqrt(x: Array) -> Array:
    """sqrt with derivative zero, not infinite, at zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_reciprocal(x: Array) -> Array:
    """1 / x, and zero at zero."""
    nonzero = x != 0
    return jnp.where(nonzero, 1 / jnp.where(nonzero, x, 1), 0)


def widest(*arrays: Any) -> Any:
    """The float type to compute in: that of the inputs, at least float32."""
    return at_least_float32(*arrays)


def highest(spec: str, *arrays: Array) -> Array:
    """einsum in the full precision of its operands on every device."""
    return jnp.einsum(spec, *arrays, precision=jax.lax.Precision.HIGHEST)
