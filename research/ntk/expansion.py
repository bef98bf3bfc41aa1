"""Networks as polynomials of their parameters, and products with their kernel, matrix-free."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library.linalg import trees
from library.linalg.trees import Operator
from library.types import Array, Params, PyTree
from research.ntk import batching, checks, compositions
from research.ntk.checks import Apply


def linearize(apply: Apply, params: Params) -> Apply:
    """The network's first-order Taylor expansion around `params`, Lee et al. 2019, eq. (4).

    f_lin(p, x) = f(params, x) + df/dparams (p - params), arXiv:1902.06720.

    Args:
        apply: (params, x) -> outputs, a pytree.
        params: where to expand; every leaf a real or complex float array.
    Returns:
        A function of the same signature, linear in p - params.
    Raises:
        ValueError: for a leaf that is no float, by its path.
    """
    return taylor_expand(apply, params, 1)


def taylor_expand(apply: Apply, params: Params, degree: int) -> Apply:
    """The network's Taylor polynomial of any degree in its parameters around `params`.

    Args:
        apply: (params, x) -> outputs, a pytree.
        params: where to expand; every leaf a real or complex float array.
        degree: highest order kept; the k-th costs k nested forward derivatives.
    Returns:
        A function of the same signature.
    Raises:
        ValueError: if degree < 0, or for a leaf that is no float, by its path.
    """
    checks.count("degree", degree, least=0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not checks.is_float(leaf):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}: expected "
                "floats (bind constants to apply)"
            )

    def expanded(new_params: Params, x: PyTree) -> PyTree:
        shift = jax.tree.map(jnp.subtract, new_params, params)

        def derivative(function: Callable[[Params], PyTree]) -> Callable[[Params], PyTree]:
            return lambda at: jax.jvp(function, (at,), (shift,))[1]

        term: Callable[[Params], PyTree] = lambda at: apply(at, x)
        total = term(params)
        for order in range(1, degree + 1):
            term = derivative(term)
            total = trees.add_scaled(total, 1 / math.factorial(order), term(params))
        return total

    return expanded


def vector_product(
    apply: Apply,
    params: Params,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    batch_size: int | None = None,
) -> Operator:
    """v -> Theta(x1, x2) v without the kernel: one backward pass over x2, one forward over x1.

    Args:
        apply: (params, x) -> real outputs [N, *O] or a pytree of such, as in `empirical`.
        params: pytree; integer leaves count as constants, complex ones as two real parameters.
        x1, x2: inputs with leaves [N1, ...], [N2, ...]; x2 is x1 when None.
        batch_size: examples in memory at once; all when None.
    Returns:
        An operator from cotangents like apply(params, x2) to tangents like apply(params, x1), in
        float32 or wider; call it inside `jax.jit`.
    Raises:
        ValueError: if the inputs do not fit together, or as `empirical`.
    """
    if batch_size is not None:
        checks.count("batch_size", batch_size)
    checks.same_examples(x1, x2)
    checks.network(apply, params, x1, "full")
    compositions.check(apply, params, x1, x2)
    params, x1, x2 = checks.widened((params, x1, x1 if x2 is None else x2))
    free, restore = checks.split_float(params)

    def outputs(free: dict[int, Array], x: PyTree) -> PyTree:
        return checks.widened(apply(restore(free), x))

    def pull(vector: PyTree, x: PyTree) -> dict[int, Array]:
        values, back = jax.vjp(lambda free: outputs(free, x), free)
        return back(jax.tree.map(lambda v, like: jnp.asarray(v, like.dtype), vector, values))[0]

    def push(tangent: dict[int, Array], x: PyTree) -> PyTree:
        return jax.jvp(lambda free: outputs(free, x), (free,), (tangent,))[1]

    if batch_size is None:
        return lambda vector: push(pull(vector, x2), x1)

    def product(vector: PyTree) -> PyTree:
        gradient = batching.sum_over(lambda pair: pull(*pair), (vector, x2), batch_size)
        return batching.map_over(lambda x: push(gradient, x), x1, batch_size)

    return product
