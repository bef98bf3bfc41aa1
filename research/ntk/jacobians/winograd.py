"""3 x 3 convolutions of many images on CPUs, in 4 / 9 of the multiplications.

XLA for CPUs writes out what every position sees, nine copies of its operand, before it multiplies:
for the cotangents of all outputs of a network these are hundreds of megabytes. Here blocks of 2 x 2
positions are convolved in the transformed domain of Winograd (Lavin and Gray 2016,
arXiv:1509.09308, F(2 x 2, 3 x 3), whose matrices hold 0, 1 and 1/2 only), a few images at a time,
which stay in the cache. Other devices have better programs of their own and keep them. Forward-mode
derivatives of a kernel that uses them are not defined (`method="jacobian"` has them).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from library.types import Array
from research.ntk.jacobians.jaxprs import Operation

Padding = tuple[tuple[int, int], tuple[int, int]]

_CHUNK_BYTES = 2**21  # of the images that are transformed at once
_MIN_CHANNELS = 16  # below it the transforms cost more than they save
_NUMBERS = ("NHWC", "HWIO", "NHWC")
_PRECISION = jax.lax.Precision.HIGHEST


def find(operation: Operation, avals: Sequence[Any]) -> Callable[..., list[Array]] | None:
    """A program of the operation for the CPU, or None where it does not apply.

    Args:
        operation: any.
        avals: shapes and dtypes of its operands.
    Returns:
        operands -> [result], as `operation.run`; differentiable in reverse mode.
    """
    if operation.name != "conv_general_dilated":
        return None
    params, (data, kernel) = operation.params, avals
    numbers = params["dimension_numbers"]
    sizes = [kernel.shape[axis] for axis in numbers.rhs_spec]
    ones = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    groups = (params["feature_group_count"], params["batch_group_count"])
    padding = tuple(tuple(pair) for pair in params["padding"])
    simple = (
        sizes[2:] == [3, 3]
        and set(ones) == set(groups) == {1}
        and all(0 <= size <= 2 for pair in padding for size in pair)
        and min(sizes[:2]) >= _MIN_CHANNELS
        and data.dtype == kernel.dtype
        and jnp.issubdtype(data.dtype, jnp.floating)
    )
    if not simple:
        return None

    def run(h: Array, w: Array) -> list[Array]:
        h = jnp.transpose(h, [numbers.lhs_spec[i] for i in (0, 2, 3, 1)])
        w = jnp.transpose(w, [numbers.rhs_spec[i] for i in (2, 3, 1, 0)])
        y = _differentiable(padding)(h, w)  # axes batch, rows, columns, features
        place = {axis: i for i, axis in zip((0, 3, 1, 2), numbers.out_spec)}
        return [jnp.transpose(y, [place[axis] for axis in range(4)])]

    return run


@functools.cache
def _differentiable(padding: Padding) -> Callable[[Array, Array], Array]:
    """(h [B, H, W, I], w [3, 3, I, O]) -> [B, H', W', O] with its reverse mode."""

    @jax.custom_vjp
    def convolve(h: Array, w: Array) -> Array:
        return _batched(padding)(h, w)

    def forward(h: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(h, w), (h, w)

    def backward(seen: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        h, w = seen
        turned = jnp.swapaxes(w[::-1, ::-1], 2, 3)
        opposite = tuple((2 - low, 2 - high) for low, high in padding)
        (for_w,) = jax.vjp(lambda w: _plain(h, w, padding), w)[1](cotangent)
        return _differentiable(opposite)(cotangent, turned), for_w

    convolve.defvjp(forward, backward)
    return convolve


@functools.cache
def _batched(padding: Padding) -> Callable[[Array, Array], Array]:
    """The convolution whose mapped axes of h join its batch."""

    @jax.custom_batching.custom_vmap
    def convolve(h: Array, w: Array) -> Array:
        plain = functools.partial(_plain, padding=padding)
        return jax.lax.platform_dependent(
            h, w, cpu=functools.partial(_in_chunks, padding=padding), default=plain
        )

    @convolve.def_vmap
    def rule(axis_size: int, mapped: Sequence[bool], h: Array, w: Array) -> tuple[Array, bool]:
        if mapped[1]:  # kernels of several networks
            axes = tuple(0 if each else None for each in mapped)
            return jax.vmap(lambda h, w: _plain(h, w, padding), axes)(h, w), True
        y = convolve(h.reshape(-1, *h.shape[2:]), w)
        return y.reshape(axis_size, -1, *y.shape[1:]), True

    return convolve


def _plain(h: Array, w: Array, padding: Padding) -> Array:
    return jax.lax.conv_general_dilated(
        h, w, (1, 1), padding, dimension_numbers=_NUMBERS, precision=_PRECISION
    )


def _in_chunks(h: Array, w: Array, padding: Padding) -> Array:
    """The convolution, as many images at a time as stay in the cache."""
    image = max(h[0].size, h[0].size // w.shape[2] * w.shape[3]) * h.dtype.itemsize
    width = max(1, _CHUNK_BYTES // image)
    num = h.shape[0] // width
    transformed = _transformed_kernel(w)
    if num <= 1:
        return _winograd(h, transformed, padding)
    first, rest = h[: num * width], h[num * width :]
    chunks = first.reshape(num, width, *h.shape[1:])
    y = jax.lax.map(lambda chunk: _winograd(chunk, transformed, padding), chunks)
    y = y.reshape(-1, *y.shape[2:])
    return jnp.concatenate([y, _winograd(rest, transformed, padding)]) if len(rest) else y


def _transformed_kernel(w: Array) -> Array:
    """G w G^T, [16, I, O]."""
    g = jnp.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], w.dtype)
    made = jnp.einsum("ai,bj,ijco->abco", g, g, w, precision=_PRECISION)
    return made.reshape(16, *w.shape[2:])


def _winograd(h: Array, kernel: Array, padding: Padding) -> Array:
    """A^T [(G w G^T) (B^T h B)] A of every block of 2 x 2 results; h [B, H, W, I]."""
    sizes = [size + sum(pair) - 2 for size, pair in zip(h.shape[1:3], padding)]
    odd = [size % 2 for size in sizes]
    (top, bottom), (left, right) = padding
    edges = ((0, 0), (top, bottom + odd[0]), (left, right + odd[1]), (0, 0))
    h = jnp.pad(h, edges)
    rows, columns = (size + extra for size, extra in zip(sizes, odd))
    corner = lambda i, j: h[:, i : i + rows - 1 : 2, j : j + columns - 1 : 2]
    seen = _for_data([_for_data([corner(i, j) for j in range(4)]) for i in range(4)], _lists)
    seen = jnp.stack([jnp.stack(line) for line in seen])  # [4, 4, B, H' / 2, W' / 2, I]
    shape = seen.shape[:-1]
    made = jnp.matmul(seen.reshape(16, -1, seen.shape[-1]), kernel, precision=_PRECISION)
    made = made.reshape(*shape, -1)
    y = _for_results([_for_results([made[i, j] for j in range(4)]) for i in range(4)], _lists)
    y = jnp.stack([jnp.stack(line) for line in y])  # [2, 2, B, H' / 2, W' / 2, O]
    y = jnp.transpose(y, (2, 3, 0, 4, 1, 5)).reshape(shape[2], rows, columns, -1)
    return y[:, : sizes[0], : sizes[1]]


def _numbers(a: Array, sign: int, b: Array) -> Array:
    return a + b if sign > 0 else a - b


def _lists(a: list[Array], sign: int, b: list[Array]) -> list[Array]:
    return [_numbers(x, sign, y) for x, y in zip(a, b)]


def _for_data(x: list, add: Callable = _numbers) -> list:
    """B^T x along one axis, four values."""
    return [add(x[0], -1, x[2]), add(x[1], 1, x[2]), add(x[2], -1, x[1]), add(x[1], -1, x[3])]


def _for_results(x: list, add: Callable = _numbers) -> list:
    """A^T x along one axis, four values to two."""
    return [add(add(x[0], 1, x[1]), 1, x[2]), add(add(x[1], -1, x[2]), -1, x[3])]
