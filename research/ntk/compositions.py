"""Whether a network treats its examples apart: a few of them in two compositions of the batch.

Dropout under one key for all and batch statistics in training mode make the output of an example
depend on its place or on its companions. Such a network has no kernel of pairs of examples: what
would come out is the kernel of another function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Params, PyTree
from research.ntk import checks
from research.ntk.checks import Apply

_NUM = 4  # examples in a batch
# How much farther than the network's own rounding an output must move to be refused.
_MARGIN = 20


def check(apply: Apply, params: Params, x1: PyTree, x2: PyTree | None = None) -> None:
    """That an example's output does not depend on the batch it comes in.

    Up to four examples go through the network twice, moved by one place, with one of them in the
    place of another. Outputs that then differ in the first half of their digits are held against
    rounding: what they move by when all numbers that go in do, by a few units in the last place.
    Nothing is checked of shapes alone, inside a function that is being traced (`jax.jit`), or of
    outputs that are not finite.

    Raises:
        ValueError: if it does.
    """
    tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
    if tracing or not all(map(_known, jax.tree.leaves((params, x1, x2)))):
        return
    change, noise = _measure(_compiled(apply), params, _few(x1, x2))
    if change > _MARGIN * noise:
        raise ValueError(
            f"apply mixes examples: the same example in another batch has another output, by "
            f"{change:.2g} of the largest (expected none): use running statistics in place of the "
            "batch's (train=False), and no dropout or one key an example"
        )


def _measure(run: Callable, params: Params, batch: PyTree) -> tuple[float, float]:
    """How far outputs move with the composition, and with rounding; (0, 0) if half is left."""
    num = checks.num_examples(batch, "x1")
    after = np.minimum(np.arange(num) + 1, num - 1)
    outputs = run(params, batch, 0.0)
    moved = run(params, jax.tree.map(lambda leaf: leaf[after], batch), 0.0)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf)[after], outputs)
    change = _distance(expected, moved)
    if change <= float(jnp.finfo(jnp.result_type(*jax.tree.leaves(outputs))).eps) ** 0.5:
        return 0.0, 0.0
    return change, max(_distance(outputs, run(params, batch, size)) for size in (4.0, -4.0))


def _known(leaf: Any) -> bool:
    """Whether a leaf has values that this process can read now."""
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.ShapeDtypeStruct) and getattr(
        leaf, "is_fully_addressable", True
    )


def _few(x1: PyTree, x2: PyTree | None) -> PyTree:
    """Up to `_NUM` examples of both sets, at least two: one alone stands beside itself."""

    def spread(x: PyTree, num: int) -> PyTree:
        places = np.linspace(0, checks.num_examples(x, "x") - 1, num).round().astype(int)
        return jax.tree.map(lambda leaf: leaf[places], x)

    if x2 is None:
        return spread(x1, _NUM)
    parts = spread(x1, _NUM // 2), spread(x2, _NUM // 2)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _outputs(params: Params, x: PyTree, size: Array, *, apply: Apply) -> PyTree:
    """The network where every float is off by `size` units in its last place, up or down."""

    def nudged(leaf: Array) -> Array:
        if not checks.is_float(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        signs = jnp.cos(jnp.arange(leaf.size, dtype=leaf.real.dtype)).reshape(leaf.shape)
        return leaf * (1 + size * jnp.finfo(leaf.dtype).eps * jnp.sign(signs)).astype(leaf.dtype)

    return apply(*jax.tree.map(nudged, checks.widened((params, x))))


_jitted = jax.jit(_outputs, static_argnames="apply")


def _compiled(apply: Apply) -> Callable:
    """`_outputs` jitted for one network; anew at every call if `apply` is not hashable."""
    try:
        hash(apply)
    except TypeError:
        return jax.jit(functools.partial(_outputs, apply=apply))
    return functools.partial(_jitted, apply=apply)


def _distance(one: PyTree, other: PyTree) -> float:
    """The largest difference of finite entries, in units of the largest entry of their leaf."""
    largest = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
        if scale > 0:
            largest = max(largest, float(np.abs(a / scale - b / scale).max()))
    return largest
