"""Halving and doubling of image resolution by fixed filters, as sums of shifted slices.

Slices and sums compile to one fused loop on every backend, where a depthwise convolution with the
same kernel is slow on CPU. Sums are float32 or wider; the result has the dtype of the image, which
must be a float.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax.numpy as jnp

from library.types import Array, at_least_float32


@dataclasses.dataclass(frozen=True)
class Filter:
    """A pair of linear maps between resolutions that both keep constant images away from borders.

    Attributes:
        down: [B, H, W, C] -> [B, H/2, W/2, C].
        up: [B, H, W, C] -> [B, 2H, 2W, C], which is 4 times the transpose of `down`.
    """

    down: Callable[[Array], Array]
    up: Callable[[Array], Array]


def mean_pool(x: Array) -> Array:
    """Means over 2x2 blocks: [B, H, W, C] -> [B, H/2, W/2, C]."""
    _check_even(x)
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.astype(at_least_float32(x.dtype)).mean((2, 4)).astype(x.dtype)


def nearest(x: Array) -> Array:
    """Every pixel as a 2x2 block: [B, H, W, C] -> [B, 2H, 2W, C]."""
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return blocks.reshape(batch, 2 * height, 2 * width, channels)


def fir_down(x: Array) -> Array:
    """Every second pixel after the filter [1, 3, 3, 1] / 8 along both axes, zero outside."""
    _check_even(x)
    wide = x.astype(at_least_float32(x.dtype))
    return _fir_down(_fir_down(wide, 1), 2).astype(x.dtype)


def fir_up(x: Array) -> Array:
    """Zeros between the pixels, then the filter [1, 3, 3, 1] / 4 along both axes."""
    _check_floats(x)
    wide = x.astype(at_least_float32(x.dtype))
    return _fir_up(_fir_up(wide, 1), 2).astype(x.dtype)


def fir(x: Array, padding: int) -> Array:
    """The filter [1, 3, 3, 1] / 8 along both axes at every pixel, between `padding` zeros.

    Args:
        x: [B, H, W, C] float.
        padding: pixels of zeros on each side, p >= 0.
    Returns:
        [B, H + 2p - 3, W + 2p - 3, C].
    """
    _check_floats(x)
    wide = x.astype(at_least_float32(x.dtype))
    wide = jnp.pad(wide, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return _fir(_fir(wide, 1), 2).astype(x.dtype)


BOX = Filter(down=mean_pool, up=nearest)  # DDPM++, arXiv:2011.13456
FIR = Filter(down=fir_down, up=fir_up)  # NCSN++ there, after StyleGAN2, arXiv:1912.04958


def _fir(x: Array, axis: int) -> Array:
    """y[i] = (x[i] + 3 x[i+1] + 3 x[i+2] + x[i+3]) / 8."""
    first, second, third, last = (_take(x, axis, slice(k, x.shape[axis] - 3 + k)) for k in range(4))
    return (first + 3 * (second + third) + last) / 8


def _fir_down(x: Array, axis: int) -> Array:
    """y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8."""
    even, odd = _take(x, axis, slice(0, None, 2)), _take(x, axis, slice(1, None, 2))
    return (3 * (even + odd) + _shift(odd, axis, 1) + _shift(even, axis, -1)) / 8


def _fir_up(x: Array, axis: int) -> Array:
    """y[2i] = (x[i-1] + 3 x[i]) / 4 and y[2i+1] = (3 x[i] + x[i+1]) / 4."""
    even, odd = (_shift(x, axis, 1) + 3 * x) / 4, (3 * x + _shift(x, axis, -1)) / 4
    shape = x.shape[:axis] + (2 * x.shape[axis],) + x.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _shift(x: Array, axis: int, by: int) -> Array:
    """x[i - by] along the axis, zero where that lies outside."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (max(by, 0), max(-by, 0))
    keep = slice(None, -1) if by > 0 else slice(1, None)
    return jnp.pad(_take(x, axis, keep), padding)


def _take(x: Array, axis: int, index: slice) -> Array:
    return x[(slice(None),) * axis + (index,)]


def _check_floats(x: Array) -> None:
    chex.assert_rank(x, 4)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images of type {x.dtype}: expected floats")


def _check_even(x: Array) -> None:
    _check_floats(x)
    for side in x.shape[1:3]:
        chex.assert_is_divisible(side, 2)
