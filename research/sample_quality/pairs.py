"""Pairs of points of two samples, a block of rows at a time; what every distance is made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32


def samples(x: Array, y: Array, least: int, centred: bool = True) -> tuple[Array, Array]:
    """Both samples as [N, D], float32 or wider, about a common centre unless `centred` is False.

    The centre keeps the digits of small distances.

    Raises:
        ValueError: if the points differ in shape or are complex, or a sample has fewer than
            `least`.
    """
    if not x.ndim or x.shape[1:] != y.shape[1:] or min(x.shape[0], y.shape[0]) < least:
        raise ValueError(
            f"samples have shapes {x.shape} and {y.shape}: expected points of one shape, "
            f"at least {least} in each"
        )
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        raise ValueError(f"samples of types {x.dtype} and {y.dtype}: expected real numbers")
    wide = at_least_float32(x.dtype, y.dtype)
    x, y = (z.reshape(z.shape[0], -1).astype(wide) for z in (x, y))
    if not centred:
        return x, y
    centre = y.mean(0, keepdims=True)
    return x - centre, y - centre


def map_rows(function: Callable[[Array, Array], Array], x: Array, block: int) -> Array:
    """function(rows [b, D], their indices [b]) over blocks of x [N, D]; results joined to [N]."""
    num_blocks = math.ceil(x.shape[0] / block)
    size = math.ceil(x.shape[0] / num_blocks)
    padded = jnp.pad(x, ((0, num_blocks * size - x.shape[0]), (0, 0)))
    blocks = padded.reshape(num_blocks, size, x.shape[1])
    index = jnp.arange(num_blocks * size).reshape(num_blocks, size)
    out = jax.lax.map(lambda args: function(*args), (blocks, index))
    return out.reshape(-1)[: x.shape[0]]


def squared(x: Array, y: Array, known: Array | bool = False) -> Array:
    """Squared distances [N, M] by one matrix product, or by differences where that cancels.

    The product errs by rounding of the squared norms, which is all of the distance between near
    points that lie far out. Pairs that are `known` [N, M] may be anything.
    """
    product = jnp.matmul(x, y.T, precision="highest")  # the default is TF32 or bfloat16 elsewhere
    norms = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :]
    squared = jnp.maximum(norms - 2 * product, 0)
    cancels = (squared < _DIGITS * jnp.finfo(x.dtype).eps * norms) & ~jnp.asarray(known)
    return jax.lax.cond(cancels.any(), _by_differences, lambda x, y: squared, x, y)


_DIGITS = 2**13  # rounding errors of the norms that a squared distance must exceed: 0.1 % or less


def _by_differences(x: Array, y: Array) -> Array:
    """Squared distances [N, M], exact to rounding; a row at a time, also in the gradient."""
    return jax.lax.map(jax.checkpoint(lambda row: jnp.square(row[None] - y).sum(1)), x)
