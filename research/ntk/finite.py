"""Empirical neural tangent kernels of any function of parameters and inputs.

    Theta(x1, x2)[c, d] = sum over parameters of df_c(x1) / dtheta * df_d(x2) / dtheta

Jacot, Gabriel and Hongler 2018, arXiv:1806.07572, eq. (4). Three exact methods:

    structured       factored Jacobians, one rule a layer (`research.ntk.jacobians.structured`)
    jacobian         the full Jacobians, contracted: memory N C P
    vector_products  one Jacobian-vector product per column: memory of one gradient
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from library.types import Array, Params, PyTree
from research.ntk import batching, checks, compositions, methods
from research.ntk.checks import Apply
from research.ntk.jacobians import cost, jaxprs, structured
from research.ntk.jacobians.contract import Outputs

Method = Literal["auto", "structured", "jacobian", "vector_products"]
# How many floating point operations take as long as moving one byte: about 10 on CPUs and GPUs.
FLOPS_PER_BYTE = 10.0


def empirical(
    apply: Apply,
    params: Params,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    batch_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> PyTree:
    """The empirical neural tangent kernel between two sets of examples.

    It is computed in the widest dtype of parameters and inputs, float32 at least, by all methods:
    half precision is widened first, so the kernel is that of the same numbers in float32.

    Args:
        apply: (params, x) -> real outputs [N, C], or [N, ...], or a pytree of such; example i of
            the output may depend on example i of the input only, which is tried on a few examples
            (not inside `jax.jit`). Compiled once per function object.
        params: pytree; integer leaves count as constants, complex ones as two real parameters,
            their real and imaginary parts.
        x1: pytree with leaves [N1, ...].
        x2: pytree with leaves [N2, ...]; x1 when None.
        outputs: which pairs of outputs to keep: all ("full"), equal ones ("diagonal"), or the plain
            sum over equal ones ("trace", not divided by C).
        method: "structured", "jacobian", "vector_products", or "auto": the least counted time, see
            `explain`.
        batch_size: tile size of both sets; None computes one tile. Memory falls, work grows.
        mesh: rows are split over its first axis, columns over its second if it has two.
    Returns:
        For every output leaf [N, *O]: [N1, N2, *O, *O], [N1, N2, *O] or [N1, N2].
    Raises:
        ValueError: if the arguments do not fit together, the outputs are complex, or the network
            mixes examples (dropout, batch statistics); the message says which and how.
    """
    checks.choice("method", method, ("auto", *methods.METHODS))
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    _check(apply, params, x1, x2, outputs)
    statics = dict(outputs=outputs, method=method, batch_size=batch_size, mesh=mesh)
    return _compiled(_kernel, apply)(params, x1, x2, apply=apply, **statics)


def by_layer(
    apply: Apply,
    params: Params,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Outputs = "full",
    depth: int | None = None,
) -> dict[str, PyTree]:
    """The kernel of every parameter subtree; their sum is the whole kernel.

    Args:
        apply, params, x1, x2, outputs: as in `empirical`.
        depth: how many levels of the tree name a subtree; None keeps every leaf apart.
    Returns:
        {path: kernel}, kernels of the shape that `empirical` returns.
    Raises:
        ValueError: as `empirical`.
    """
    if depth is not None:
        checks.count("depth", depth)
    _check(apply, params, x1, x2, outputs)
    kernels = _compiled(_leaf_kernels, apply)(params, x1, x2, apply=apply, outputs=outputs)
    names = _paths(params, depth)
    total: dict[str, PyTree] = {}
    for leaf, kernel in kernels.items():
        name = names[leaf]
        total[name] = jax.tree.map(jnp.add, total[name], kernel) if name in total else kernel
    return total


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why "auto" takes the method it takes.

    Attributes:
        choice: the method.
        costs: counted cost of every method.
        parameters: for every parameter how "structured" treats it: by factors of its layer, or by
            its plain Jacobian, which is as exact and, for biases and scales, as cheap.
    """

    choice: str
    costs: dict[str, cost.Cost]
    parameters: dict[str, str]

    def __str__(self) -> str:
        lines = [f"method {self.choice}"]
        lines += [
            f"  {name}: {c.flops:.3g} flops, {c.bytes:.3g} bytes written, peak {c.peak_bytes:.3g}"
            for name, c in self.costs.items()
        ]
        return "\n".join(lines + [f"  {path}: {how}" for path, how in self.parameters.items()])


def explain(
    apply: Apply,
    params: Params,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Outputs = "full",
) -> Explanation:
    """What every method would cost, which one "auto" takes, and how it treats each parameter.

    Nothing is computed but shapes; arguments as in `empirical`, also as `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: as `empirical`.
    """
    _check(apply, params, x1, x2, outputs)
    costs = _costs(apply, outputs, params, x1, x2)
    params, x1 = jax.eval_shape(checks.widened, (params, x1))
    program = jaxprs.trace(checks.one_example(apply), params, checks.first(x1))
    how = treatment(structured.plan(program), params)
    return Explanation(_cheapest(costs), costs, how)


def treatment(plan: structured.Plan, params: Params) -> dict[str, str]:
    """For every parameter path how the structured method treats it, and why."""
    names = _paths(params, None)
    how = dict.fromkeys(names, "no gradient reaches it")
    for leaf, reason in plan.plain.items():
        how[names[leaf]] = f"plain Jacobian, exact too ({reason})"
    for leaf, groups in plan.blocks.items():
        uses = [plan.program.operations[use.operation].name for group in groups for use in group]
        how[names[leaf]] = f"factors of {', '.join(sorted(set(uses)))}"
    return how


def nngp_empirical(
    apply: Apply,
    params: Params,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    outputs: Outputs = "full",
) -> PyTree:
    """Products of outputs, f_c(x1) f_d(x2): one sample of the network's NNGP kernel.

    Args: as in `empirical`; "trace" is the plain sum over outputs, so divide it by C for a kernel.
    Returns:
        Of the shapes of `empirical`, float32 or wider.
    Raises:
        ValueError: as `empirical`.
    """
    _check(apply, params, x1, x2, outputs)
    params, x1, x2 = checks.widened((params, x1, x2))
    f1 = checks.widened(apply(params, x1))
    f2 = f1 if x2 is None else checks.widened(apply(params, x2))

    def product(a: Array, b: Array) -> Array:
        shape, flat = a.shape[1:], lambda leaf: leaf.reshape(leaf.shape[0], -1)
        spec = {"full": "nc,md->nmcd", "diagonal": "nc,mc->nmc", "trace": "nc,mc->nm"}[outputs]
        kernel = jnp.einsum(spec, flat(a), flat(b), precision=jax.lax.Precision.HIGHEST)
        return methods.unflatten(kernel, shape, outputs)

    return jax.tree.map(product, f1, f2)


def _kernel(
    params: Params,
    x1: PyTree,
    x2: PyTree | None,
    *,
    apply: Apply,
    outputs: Outputs,
    method: str,
    batch_size: int | None,
    mesh: jax.sharding.Mesh | None,
) -> PyTree:
    def tile(params: Params, x1: PyTree, x2: PyTree | None) -> PyTree:
        chosen = method
        if method == "auto":
            chosen = _cheapest(_costs(apply, outputs, params, x1, x2))
        return methods.tile(chosen, apply, outputs, params, x1, x2)

    return batching.sharded(batching.batched(tile, batch_size), mesh)(params, x1, x2)


def _leaf_kernels(
    params: Params, x1: PyTree, x2: PyTree | None, *, apply: Apply, outputs: Outputs
) -> dict[int, PyTree]:
    return methods.by_leaf("structured", apply, outputs, params, x1, x2)


_STATIC = {
    _kernel: ("apply", "outputs", "method", "batch_size", "mesh"),
    _leaf_kernels: ("apply", "outputs"),
}
_JITTED = {
    function: jax.jit(function, static_argnames=names) for function, names in _STATIC.items()
}


def _compiled(function: Callable, apply: Apply) -> Callable:
    """`function` jitted; compiled anew at every call if `apply` is not hashable."""
    try:
        hash(apply)
    except TypeError:
        return lambda *args, **statics: jax.jit(functools.partial(function, **statics))(*args)
    return _JITTED[function]


def _costs(
    apply: Apply, outputs: Outputs, params: Params, x1: PyTree, x2: PyTree | None
) -> dict[str, cost.Cost]:
    shapes = jax.eval_shape(lambda *args: args, params, x1, x2)
    return {
        name: cost.count(functools.partial(methods.tile, name, apply, outputs), *shapes)
        for name in methods.METHODS
    }


def _cheapest(costs: dict[str, cost.Cost]) -> str:
    """Least arithmetic and memory traffic on one scale, among those that fit into memory."""
    limit = _memory_limit()
    fitting = [name for name in costs if costs[name].peak_bytes <= limit]
    candidates = fitting or [min(costs, key=lambda name: costs[name].peak_bytes)]
    return min(candidates, key=lambda n: costs[n].flops + FLOPS_PER_BYTE * costs[n].bytes)


def _memory_limit() -> float:
    """Bytes of the first device, infinite where it does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", float("inf"))


def _paths(params: Params, depth: int | None) -> list[str]:
    paths = [path[:depth] for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _check(apply: Apply, params: Params, x1: PyTree, x2: PyTree | None, outputs: Outputs) -> None:
    checks.choice("outputs", outputs, ("full", "diagonal", "trace"))
    checks.same_examples(x1, x2)
    checks.network(apply, params, x1, outputs)
    compositions.check(apply, params, x1, x2)
