"""Gradients of convolutions inside loops, which XLA compiles for a CPU a hundred times slower.

XLA brings convolutions into the form that its fast CPU kernels take in the outermost program only
(measured with JAX 0.10.2 and 0.12, 3x3 on 128 images of 8x8x32: 1.8 ms by itself, 360 ms inside
`jax.lax.scan`). So where this matters microbatches are unrolled, and updates of one call are made
one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from library.types import Batch, Metrics, TrainState

Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def slowed(traced: Any) -> bool:
    """Whether a loop over a function is slow: a CPU computes it, and it holds a convolution.

    Args:
        traced: what `jax.make_jaxpr` says of the function, gradients included.
    """
    return jax.default_backend() == "cpu" and _holds_convolution(traced.jaxpr)


def many(step: Update, one: Update, scanned: Update) -> Update:
    """Updates over batch leaves [K, B, ...], metrics [K]: scanned, or in turn where that is fast.

    Args:
        step: the update, traced once to see what it holds.
        one: the same compiled, of leaves [B, ...].
        scanned: the compiled scan over it.
    """
    slow: list[bool] = []  # as the first call finds it

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        count = len(jax.tree.leaves(batches)[0])
        row = lambda index: jax.tree.map(lambda leaf: leaf[index], batches)  # noqa: E731
        if not slow:
            slow.append(slowed(jax.make_jaxpr(step)(state, row(0))))
        if not slow[0]:
            return scanned(state, batches)
        rows = []
        for index in range(count):
            state, metrics = one(state, row(index))
            rows.append(jax.block_until_ready(metrics))  # several CPU devices take no queue
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return run


def _holds_convolution(jaxpr: Any) -> bool:
    """Looks through the equations of a jaxpr and of those in their parameters."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inner = jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr)
        inner = [getattr(leaf, "jaxpr", leaf) for leaf in inner if _is_jaxpr(leaf)]
        if any(map(_holds_convolution, inner)):
            return True
    return False


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")
