"""A queue of keys as negatives: first in, first out, He et al. 2020, arXiv:1911.05722.

    queue = queues.init(jax.random.key(0), size=4096, dim=128)
    loss = losses.info_nce(queries, keys, queue.keys)
    queue = queues.push(queue, keys)  # after the loss

It is a pytree, and lives in `model_state`.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from library import checks as library_checks
from library.types import Array, Key
from research.self_supervised import checks, layout


@flax.struct.dataclass
class Queue:
    """A ring of keys.

    Attributes:
        keys: [Q, D] float, of length 1.
        position: [] int32, where the oldest keys stand, which are replaced next.
    """

    keys: Array
    position: Array


def init(rng: Key, size: int, dim: int) -> Queue:
    """A queue of random directions.

    Args:
        rng: [] key.
        size: Q, keys.
        dim: D, numbers per key.
    Raises:
        ValueError: for a size or dimension that is no positive whole number.
    """
    library_checks.count("size", size, of="keys")
    library_checks.count("dim", dim)
    keys = checks.unit(jax.random.normal(rng, (size, dim)))
    return Queue(keys, jnp.zeros((), jnp.int32))


def push(queue: Queue, keys: Array, axis_name: str | None = None) -> Queue:
    """The queue with the newest keys in place of the oldest.

    Args:
        queue: [Q, D].
        keys: [B, D] float, of any length; they are normalised, and have no gradient.
        axis_name: mapped axis over which the batch is split: every device pushes the keys of all,
            in the devices' order.
    Returns:
        The new queue, equal on all devices.
    Raises:
        ValueError: for keys of another dimension, or a whole batch that doesn't divide Q.
    """
    size, dim = queue.keys.shape
    if jnp.ndim(keys) != 2 or keys.shape[1] != dim:
        raise ValueError(f"keys have shape {jnp.shape(keys)}: expected [B, {dim}]")
    total = layout.size(len(keys), axis_name)
    if not total or size % total:
        raise ValueError(f"a queue of {size} keys is no multiple of the batch of {total}")
    keys = layout.gather(checks.unit(*checks.wide(keys)), axis_name)  # [B, D]
    keys = jax.lax.stop_gradient(keys).astype(queue.keys.dtype)
    start = (queue.position, jnp.zeros((), queue.position.dtype))
    return Queue(
        jax.lax.dynamic_update_slice(queue.keys, keys, start),
        (queue.position + total) % size,
    )
