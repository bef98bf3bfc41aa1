"""How a layer's output depends on its parameter: Jacobians as sums of outer products.

If an operation reads a parameter u and data h and writes y, the Jacobian of the network with
respect to u is, for a cotangent b of y,

    J[g, i, o] = sum_s A[s, g, i](h) B[s, g, o](b)

where s runs over positions, g over groups that do not mix, and the axes of u fall into the groups
(g), those contracted with data (i) and those that make new features (o). A rule says which axes are
which and computes A and B for one example. An operation without a rule returns None.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk.jacobians.jaxprs import Operation


@flax.struct.dataclass
class Rows:
    """A factor A whose every position selects one row of u: an embedding lookup.

    Attributes:
        index: [..., S] int, the row of each position.
        valid: [..., S] float, 0 where the lookup was out of range and reads no parameter.
        num_rows: the size of the axis.
    """

    index: Array
    valid: Array
    num_rows: int = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The rule of one operation for one of its operands.

    Attributes:
        shape: the shape as which the axes below see u (a reshape of it).
        group, inner, outer: axes of `shape`; together all of them.
        left: data operands -> A, [S, *group, *inner], or `Rows`.
        right: cotangent of y -> B, [S, *group, *outer].
        positions: axes of y that s runs over.
    """

    shape: tuple[int, ...]
    group: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    left: Callable[..., Array | Rows]
    right: Callable[[Array], Array]
    positions: tuple[int, ...]


def find(operation: Operation, place: int, avals: list) -> Factors | None:
    """The rule for operand number `place`, or None.

    Args:
        operation: the operation that reads the parameter.
        place: which operand is the parameter.
        avals: shapes and dtypes of all operands.
    """
    rule = {"dot_general": _dot, "conv_general_dilated": _conv, "gather": _gather}
    maker = rule.get(operation.name)
    return maker(operation, place, avals) if maker else None


def _dot(operation: Operation, place: int, avals: list) -> Factors:
    """y[batch, free of h, free of u] = sum over contracted axes of h u."""
    contract, batch = operation.params["dimension_numbers"]
    data = avals[1 - place]
    u_contract, h_contract = contract[place], contract[1 - place]
    u_batch, h_batch = batch[place], batch[1 - place]
    u_ndim = len(avals[place].shape)
    u_free = [axis for axis in range(u_ndim) if axis not in (*u_contract, *u_batch)]
    h_free = [axis for axis in range(len(data.shape)) if axis not in (*h_contract, *h_batch)]
    num_batch, num_u, num_h = len(u_batch), len(u_free), len(h_free)

    def left(*operands: Array) -> Array:
        h = jnp.transpose(operands[1 - place], (*h_free, *h_batch, *h_contract))
        return h.reshape((-1,) + h.shape[num_h:])

    after_batch = list(range(num_batch, num_batch + num_h + num_u))
    # dot_general writes the free axes of its left operand first.
    h_axes, u_axes = (
        (after_batch[:num_h], after_batch[num_h:])
        if place == 1
        else (after_batch[num_u:], after_batch[:num_u])
    )

    def right(cotangent: Array) -> Array:
        b = jnp.transpose(cotangent, (*h_axes, *range(num_batch), *u_axes))
        return b.reshape((-1,) + b.shape[num_h:])

    shape = tuple(avals[place].shape)
    axes = tuple(u_batch), tuple(u_contract), tuple(u_free)
    return Factors(shape, *axes, left, right, tuple(h_axes))


def _conv(operation: Operation, place: int, avals: list) -> Factors | None:
    """A convolution of any dimension, stride, dilation and number of groups."""
    params = operation.params
    if place != 1 or params["batch_group_count"] != 1:
        return None
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    out_axis, in_axis, *space = numbers.rhs_spec
    old_shape = list(avals[1].shape)
    # The features out are (groups, features out of one group): split that axis.
    shape = (
        *old_shape[:out_axis],
        groups,
        old_shape[out_axis] // groups,
        *old_shape[out_axis + 1 :],
    )
    moved = lambda axis: axis + (axis > out_axis)
    kernel = [old_shape[axis] for axis in space]

    def left(h: Array, _: Array) -> Array:
        h = jnp.transpose(h, numbers.lhs_spec)  # [batch, C, *space]
        return _patches(h, kernel, params, groups)

    def right(cotangent: Array) -> Array:
        b = jnp.transpose(cotangent, numbers.out_spec)  # [batch, O, *space]
        b = jnp.moveaxis(b, 1, -1)
        return b.reshape(-1, groups, b.shape[-1] // groups)

    inner = (*map(moved, space), moved(in_axis))
    positions = (numbers.out_spec[0], *numbers.out_spec[2:])
    return Factors(shape, (out_axis,), inner, (out_axis + 1,), left, right, positions)


def _patches(h: Array, kernel: list[int], params: dict, groups: int) -> Array:
    """What each output position of a convolution sees: [S, groups, *kernel, C / groups]."""
    padding = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"])
    ]
    zero = jnp.zeros((), h.dtype)
    h = jax.lax.pad(h, zero, [(0, 0, 0), (0, 0, 0), *padding])
    strides, spread = params["window_strides"], params["rhs_dilation"]
    sizes = [
        (size - (width - 1) * step - 1) // stride + 1
        for size, width, step, stride in zip(h.shape[2:], kernel, spread, strides)
    ]
    seen = []
    for offset in itertools.product(*map(range, kernel)):
        starts = [place * step for place, step in zip(offset, spread)]
        limits = [
            start + (size - 1) * stride + 1 for start, size, stride in zip(starts, sizes, strides)
        ]
        window = jax.lax.slice(h, (0, 0, *starts), (*h.shape[:2], *limits), (1, 1, *strides))
        seen.append(jnp.moveaxis(window, 1, -1))  # [batch, *out space, C]
    # Whole rows of channels are copied: K last would interleave them number by number.
    stacked = jnp.stack(seen, axis=-2)  # [batch, *out space, K, C]
    stacked = stacked.reshape(math.prod(stacked.shape[:-2]), -1, groups, h.shape[1] // groups)
    stacked = jnp.swapaxes(stacked, 1, 2)  # [S, groups, K, C / groups]
    return stacked.reshape(*stacked.shape[:2], *kernel, stacked.shape[3])


def _gather(operation: Operation, place: int, avals: list) -> Factors | None:
    """Whole rows of u looked up by one index: y[..., *features] = u[index[...], *features]."""
    numbers = operation.params["dimension_numbers"]
    shape = tuple(avals[0].shape)
    rows_only = (
        place == 0
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(operation.params["slice_sizes"]) == (1, *shape[1:])
    )
    if not rows_only:
        return None
    clip = operation.params["mode"] == jax.lax.GatherScatterMode.CLIP

    def left(_: Array, indices: Array) -> Rows:
        index = indices.reshape(-1)
        inside = (index >= 0) & (index < shape[0])
        valid = jnp.ones_like(inside) if clip else inside
        safe = jnp.clip(index, 0, shape[0] - 1).astype(jnp.int32)
        return Rows(safe, valid.astype(avals[0].dtype), shape[0])

    features = numbers.offset_dims
    ndim = len(avals[1].shape) - 1 + len(features)
    positions = tuple(axis for axis in range(ndim) if axis not in features)

    def right(cotangent: Array) -> Array:
        b = jnp.transpose(cotangent, (*positions, *features))
        return b.reshape((-1,) + shape[1:])

    return Factors(shape, (), (0,), tuple(range(1, len(shape))), left, right, positions)
