"""What the losses of this topic check and widen in the same way."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, at_least_float32
from research.self_supervised import layout

_HUGE = 1e15  # of which millions of squares add up in float32


def wide(*values: Array) -> list[Array]:
    """The values as arrays of one dtype: float32, or the widest of theirs where that is wider."""
    dtype = at_least_float32(*values)
    return [jnp.asarray(value, dtype) for value in values]


def unit(z: Array) -> Array:
    """Vectors of length 1 along the last axis; one shorter than 1e-12 is divided by that.

    One whose squares would overflow is scaled first.
    """
    largest = jax.lax.stop_gradient(jnp.abs(z).max(-1, keepdims=True))
    z = z / jnp.where(largest > _HUGE, largest, 1)
    squares = jnp.square(z).sum(-1, keepdims=True)
    return z / jnp.sqrt(jnp.maximum(squares, 1e-24))


def pair(first: str, a: Array, second: str, b: Array, shape: str = "[B, D]") -> None:
    """Raises ValueError unless two arrays have one shape, with as many axes as `shape` names."""
    if jnp.ndim(a) != shape.count(",") + 1:
        raise ValueError(f"{first} has shape {jnp.shape(a)}: expected {shape}")
    if jnp.shape(b) != jnp.shape(a):
        raise ValueError(
            f"{second} has shape {jnp.shape(b)}: expected that of {first}, {jnp.shape(a)}"
        )


def views(name: str, z: Array, exactly: int | None = None) -> None:
    """Raises ValueError unless `z` is [V, B, D] of two views or more, or of so many."""
    wanted = "two views or more" if exactly is None else f"{exactly} views"
    if jnp.ndim(z) != 3:
        raise ValueError(f"{name} has shape {jnp.shape(z)}: expected [V, B, D], {wanted}")
    num = jnp.shape(z)[0]
    if num < 2 or (exactly is not None and num != exactly):
        raise ValueError(f"{name} has {num} view{'s' * (num != 1)}: expected {wanted}")


def batch(local: int, axis_name: str | None, what: str) -> int:
    """The size of the whole batch, where that is enough for `what`.

    Raises:
        ValueError: for a batch of less than two examples in all.
    """
    total = layout.size(local, axis_name)
    if total < 2:
        raise ValueError(f"a batch of {total} in all: expected two examples or more for {what}")
    return total


def positive(name: str, value: Any, zero: bool = False) -> None:
    """Raises ValueError for a number that is not positive and finite; 0 passes if `zero`.

    What is traced cannot be seen, and passes.
    """
    if isinstance(value, jax.core.Tracer):
        return
    scalar = isinstance(value, jax.Array | np.ndarray) and value.ndim == 0
    number = value.item() if scalar else value
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not real or not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        expected = "a finite number >= 0" if zero else "a positive finite number"
        raise ValueError(f"{name}={value}: expected {expected}")
