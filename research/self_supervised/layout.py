"""What "the whole batch" is wherever its parts lie: gathers and means whose gradients are right.

A loss over the batch is computed on every device of a mapped axis, each from its own rows against
those of all, and then averaged over the axis. Its gradient on one device is that of the sum of what
all devices return; averaged over devices, as `library.train_step` does, it is the gradient of the
loss of the whole batch. Without an axis (one device, or `jax.jit` on a mesh, where an array is
whole by itself) everything here is the identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library.types import Array


def gather(x: Array, axis_name: str | None, axis: int = 0) -> Array:
    """The rows of all devices, in the devices' order along `axis`; gradients flow to each owner."""
    if axis_name is None:
        return x
    return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)


def mean(x: Array, axis_name: str | None) -> Array:
    """The mean over devices, which hold equally many examples."""
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def size(local: int, axis_name: str | None) -> int:
    """Examples of the whole batch, where each device holds `local`."""
    return local if axis_name is None else local * jax.lax.axis_size(axis_name)


def places(local: int, axis_name: str | None) -> Array:
    """[b] int, where this device's examples stand in the whole batch."""
    rows = jnp.arange(local)
    return rows if axis_name is None else rows + local * jax.lax.axis_index(axis_name)
