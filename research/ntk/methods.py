"""Three exact ways to one tile of the empirical kernel; `empirical` chooses and tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from library.types import Array, Params, PyTree
from research.ntk import checks
from research.ntk.checks import Apply
from research.ntk.jacobians import contract, jaxprs, structured
from research.ntk.jacobians.contract import Outputs
from research.ntk.jacobians.structured import Block

METHODS = ("structured", "jacobian", "vector_products")

# (params, x, which output leaf) -> for every parameter leaf the blocks of its Jacobian
BlocksOf = Callable[[Params, PyTree, int], dict[int, tuple[Block, ...]]]


def tile(
    method: str, apply: Apply, outputs: Outputs, params: Params, x1: PyTree, x2: PyTree | None
) -> PyTree:
    """The kernel between x1 and x2 (x1 again when None) by one method, in float32 or wider."""
    if method == "vector_products":
        return vector_products(apply, outputs, params, x1, x2)
    kernels = by_leaf(method, apply, outputs, params, x1, x2).values()
    return jax.tree.map(lambda *leaves: sum(leaves), *kernels)


def by_leaf(
    method: str, apply: Apply, outputs: Outputs, params: Params, x1: PyTree, x2: PyTree | None
) -> dict[int, PyTree]:
    """The kernel of every parameter leaf, by its number, from Jacobians (factored or full)."""
    params, x1, x2 = checks.widened((params, x1, x2))
    function = checks.one_example(apply)
    example = checks.first(x1)
    shapes, structure = jax.tree.flatten(jax.eval_shape(function, params, example))
    make = structured_blocks if method == "structured" else full_blocks
    blocks_of = make(function, params, example)
    kernels: dict[int, list[Array]] = {}
    for output, shape in enumerate(shapes):
        first = checks.widened(blocks_of(params, x1, output))
        second = first if x2 is None else checks.widened(blocks_of(params, x2, output))
        for leaf, blocks in first.items():
            pairs = zip(blocks, second[leaf])
            kernel = sum(contract.block_kernel(a, b, outputs) for a, b in pairs)
            kernels.setdefault(leaf, []).append(unflatten(kernel, shape.shape, outputs))
    return {leaf: jax.tree.unflatten(structure, leaves) for leaf, leaves in kernels.items()}


def structured_blocks(function: Apply, params: Params, example: PyTree) -> BlocksOf:
    """Factored Jacobians (`research.ntk.jacobians.structured`)."""
    plan = structured.plan(jaxprs.trace(function, params, example))

    def blocks(params: Params, x: PyTree, output: int) -> dict[int, tuple[Block, ...]]:
        leaves = jax.tree.leaves(params)
        each = lambda *one: structured.jacobian(plan, leaves, one, output)
        found, shared = jax.vmap(each, out_axes=(0, None))(*jax.tree.leaves(x))
        return structured.with_shared(found, shared)

    return blocks


def full_blocks(function: Apply, params: Params, example: PyTree) -> BlocksOf:
    """Plain Jacobians by reverse mode, [N, C, P] for every leaf."""
    del example

    def blocks(params: Params, x: PyTree, output: int) -> dict[int, tuple[Block, ...]]:
        free, restore = checks.split_float(params)

        def flat(free: dict[int, Array], x: PyTree) -> Array:
            return jax.tree.leaves(function(restore(free), x))[output].reshape(-1)

        jacobians = jax.vmap(lambda x: jax.jacrev(flat)(free, x))(x)
        return {
            leaf: (Block(plain=full.reshape(*full.shape[:2], -1)),)
            for leaf, full in jacobians.items()
        }

    return blocks


def vector_products(
    apply: Apply, outputs: Outputs, params: Params, x1: PyTree, x2: PyTree | None
) -> PyTree:
    """One column at a time: the gradient of one output at x2[j], pushed forward at all x1."""
    params, x1, x2 = checks.widened((params, x1, x2))
    function = checks.one_example(apply)
    x2 = x1 if x2 is None else x2
    shapes, structure = jax.tree.flatten(jax.eval_shape(function, params, checks.first(x1)))
    free, restore = checks.split_float(params)

    def kernel(output: int, shape: Sequence[int]) -> Array:
        def flat(free: dict[int, Array], x: PyTree) -> Array:
            return jax.tree.leaves(function(restore(free), x))[output].reshape(-1)

        push = jax.linearize(lambda free: jax.vmap(lambda x: flat(free, x))(x1), free)[1]
        units = jnp.eye(math.prod(shape), dtype=shapes[output].dtype)

        def column(x: PyTree) -> Array:
            pull = jax.vjp(lambda free: flat(free, x), free)[1]
            if outputs == "full":
                return jax.lax.map(lambda unit: push(*pull(unit)), units)  # [D, N1, C]
            return jax.lax.map(lambda unit: push(*pull(unit)) @ unit, units)  # [C, N1]

        columns = jax.lax.map(column, x2)  # [N2, D, N1, C] or [N2, C, N1]
        order = (2, 0, 3, 1) if outputs == "full" else (2, 0, 1)
        found = jnp.transpose(columns, order)
        return unflatten(found.sum(-1) if outputs == "trace" else found, shape, outputs)

    kernels = [kernel(output, shape.shape) for output, shape in enumerate(shapes)]
    return jax.tree.unflatten(structure, kernels)


def unflatten(kernel: Array, shape: Sequence[int], outputs: Outputs) -> Array:
    """[N1, N2, C, D], [N1, N2, C] or [N1, N2] with the output axes as the network has them."""
    kept = {"full": (*shape, *shape), "diagonal": shape, "trace": ()}[outputs]
    return kernel.reshape(*kernel.shape[:2], *kept)
