"""Products with the Jacobian, Hessian and Gauss-Newton matrix of any function, without the matrix.

Each maker linearises once and returns the linear map, so that a solver which applies it many times
inside one `jit` does not repeat the forward pass. The price is the memory of one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.linalg import trees
from library.linalg.trees import Operator
from library.types import Array, Batch, PyTree


def jvp(function: Callable[[PyTree], PyTree], at: PyTree) -> Operator:
    """v -> J v, J the Jacobian of `function` at `at`."""
    return jax.linearize(function, at)[1]


def vjp(function: Callable[[PyTree], PyTree], at: PyTree) -> Operator:
    """u -> J' u, J the Jacobian of `function` at `at`."""
    pullback = jax.vjp(function, at)[1]
    return lambda cotangent: pullback(cotangent)[0]


def hvp(loss: Callable[[PyTree], Array], at: PyTree) -> Operator:
    """v -> H v, H the Hessian of a scalar function, forward over reverse (Pearlmutter 1994).

    Args:
        loss: pytree -> [] float, twice differentiable at `at`.
        at: pytree of float arrays.
    Returns:
        A symmetric operator on pytrees like `at`.
    """
    return jax.linearize(jax.grad(loss), at)[1]


def ggn(
    function: Callable[[PyTree], PyTree], loss: Callable[[PyTree], Array], at: PyTree
) -> Operator:
    """v -> J' (d2 loss / d outputs2) J v, the generalised Gauss-Newton matrix.

    Schraudolph 2002, "Fast curvature matrix-vector products", section 3. Positive semi-definite
    if `loss` is convex in the outputs; equal to the Hessian if `function` is linear.

    Args:
        function: pytree of parameters -> outputs, a pytree.
        loss: outputs -> [] float.
        at: the parameters.
    Returns:
        A symmetric operator on pytrees like `at`.
    """
    outputs, push = jax.linearize(function, at)
    pull = jax.linear_transpose(push, at)
    curvature = hvp(loss, outputs)
    return lambda vector: pull(curvature(push(vector)))[0]


def mean_over(operator_of: Callable[[Batch], Operator], batches: Batch) -> Operator:
    """v -> the mean of operator_of(batch) v over batches, one in memory at a time.

    Args:
        operator_of: batch -> operator, e.g. `lambda batch: hvp(lambda p: loss(p, batch), params)`.
        batches: pytree with leaves [M, B, ...].
    Returns:
        The operator on the whole data set, if the batches have equal weights.
    Raises:
        ValueError: if there is no batch.
    """
    num_batches = jax.tree.leaves(batches)[0].shape[0]
    if not num_batches:
        raise ValueError("mean_over got no batch: expected leaves [M, B, ...] with M >= 1")

    def operator(vector: PyTree) -> PyTree:
        def body(total: PyTree, batch: Batch) -> tuple[PyTree, None]:
            product = trees.widened(operator_of(batch)(vector))
            return trees.add_scaled(total, 1 / num_batches, product), None

        zeros = jax.tree.map(jnp.zeros_like, trees.widened(vector))
        return trees.like(jax.lax.scan(body, zeros, batches)[0], vector)

    return operator


def shifted(operator: Operator, shift: Array | float) -> Operator:
    """v -> (A + shift I) v."""
    return lambda vector: trees.add_scaled(operator(vector), shift, vector)


def dense(operator: Operator, like: PyTree) -> Array:
    """The matrix itself, [D, D], column by column: for small D and for tests."""
    flat_operator, flat, _ = trees.flatten(operator, like)
    return jax.vmap(flat_operator, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))  # [D, D]
