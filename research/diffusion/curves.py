"""Scalar curves of time: elementwise functions, their derivatives and inverses."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32

Curve = Callable[[Array], Array]  # elementwise, of any shape


def as_time(t: Array | float) -> Array:
    """t as a float array, float32 or wider: Python numbers and integers in the default dtype."""
    return jnp.asarray(t, at_least_float32(jnp.result_type(float, t)))


def wide(x: Array) -> Array:
    """x in float32 or wider: what sums, densities and scores are computed in."""
    return jnp.asarray(x, at_least_float32(jnp.result_type(x)))


def expand(coefficient: Array, x: Array) -> Array:
    """A coefficient [B] or [] with trailing axes of size 1, ready to multiply x [B, ...]."""
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def elementwise(curve: Curve) -> Curve:
    """The curve, accepting Python numbers too."""
    return lambda t: curve(as_time(t))


def derivative(curve: Curve) -> Curve:
    """The time derivative of an elementwise curve, by forward autodiff."""

    def slope(t: Array) -> Array:
        t = as_time(t)
        return jax.jvp(curve, (t,), (jnp.ones_like(t),))[1]

    return slope


def bisect(curve: Curve, value: Array, low: float, high: float) -> Array:
    """The times at which a falling curve takes the values, to rounding of a time near `low` too.

    A grid of log SNR crowds its times there: at low = 1e-8 rounding of the whole range would make
    neighbours equal, and a multistep solver divides by their distance.
    """

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = curve(middle) > value
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    smallest = max(abs(low), 1e-12 * (high - low))
    num_halvings = jnp.finfo(value.dtype).nmant + 4
    num_halvings += max(0, math.ceil(math.log2((high - low) / smallest)))
    ends = jnp.full_like(value, low), jnp.full_like(value, high)
    low, high = jax.lax.fori_loop(0, num_halvings, halve, ends)
    return 0.5 * (low + high)
