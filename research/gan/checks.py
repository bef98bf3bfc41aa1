"""What the networks of this topic check of their inputs before anything is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array


def sizes(resolution: int) -> list[int]:
    """Heights 4, 8, .., R of the ladder that ends at `resolution`.

    Raises:
        ValueError: if it is not 4 * 2^n with n >= 1.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 8:
        raise ValueError(f"resolution={resolution}: expected 4 * 2^n, n >= 1")
    if resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution}: expected 4 * 2^n, n >= 1")
    return [2**n for n in range(2, resolution.bit_length())]


def latents(z: Array, size: int | None = None) -> None:
    """Raises ValueError unless `z` is [B, Z] of floats, Z = `size` where that is given."""
    floats = jnp.issubdtype(z.dtype, jnp.floating)
    if z.ndim != 2 or not floats or (size is not None and z.shape[1] != size):
        expected = "Z" if size is None else size
        raise ValueError(f"z {z.dtype}{list(z.shape)}: expected float [B, {expected}]")


def images(x: Array, resolution: int) -> None:
    """Raises ValueError unless `x` is [B, R, R, colours] of floats."""
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    if x.ndim != 4 or x.shape[1:3] != (resolution, resolution) or not floats:
        raise ValueError(
            f"images {x.dtype}{list(x.shape)}: expected float [B, {resolution}, {resolution}, C]"
        )


def given_labels(labels: Array | None, num_classes: int | None) -> None:
    """Raises ValueError for labels without classes, or classes without labels."""
    if num_classes is None and labels is not None:
        raise ValueError("labels are given to a network with num_classes=None")
    if num_classes is not None and labels is None:
        raise ValueError(f"labels are missing: expected int [B] in 0 .. {num_classes - 1}")


def labels(values: Array, num_classes: int) -> Array:
    """Labels [B] of `num_classes`, checked as far as they are known.

    Returns:
        [B] int; under jit, where none can be refused, a label outside is sent to where a table
        has nan.
    Raises:
        ValueError: for labels that are no integers of one axis, or outside the classes.
    """
    values = jnp.asarray(values)
    if values.ndim != 1 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"labels {values.dtype}{list(values.shape)}: expected int [B]")
    if not isinstance(values, jax.core.Tracer):
        known = np.asarray(values)
        wrong = known[(known < 0) | (known >= num_classes)]
        if len(wrong):
            raise ValueError(f"label {wrong[0]}: expected 0 to {num_classes - 1}")
    return jnp.where(values < 0, num_classes, values)  # -1 would be the last row
