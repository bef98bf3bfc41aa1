"""What the rooms of this topic check and widen in the same way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, at_least_float32


def wide(*values: Array | float) -> list[Array]:
    """The values as arrays of one dtype: float32, or the widest of theirs where that is wider."""
    dtype = at_least_float32(*values)
    return [jnp.asarray(value, dtype) for value in values]


def whole_levels(name: str, x: Array, num: int) -> Array:
    """`x`, where it is of integers that lie in 0 .. num - 1, as far as its values are known.

    Raises:
        ValueError: naming the argument, what came and what was expected.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {x.dtype}: expected integers in 0 .. {num - 1}")
    if x.size and not isinstance(x, jax.core.Tracer):
        low, high = np.asarray(x).min(), np.asarray(x).max()
        if low < 0 or high >= num:
            raise ValueError(
                f"{name} goes from {low} to {high}: expected integers in 0 .. {num - 1}"
            )
    return x


def positive(name: str, value: Array | float, zero: bool = False) -> None:
    """Raises ValueError for a known value that is not positive and finite; 0 passes if `zero`."""
    if isinstance(value, jax.core.Tracer):
        return
    values = np.asarray(value, np.float64)
    wrong = values[~(np.isfinite(values) & ((values >= 0) if zero else (values > 0)))]
    if wrong.size:
        expected = "a finite number >= 0" if zero else "a positive finite number"
        raise ValueError(f"{name}={wrong[0]:g}: expected {expected}")
