"""Conjugate gradients on pytrees: preconditioned, stopped by the true relative residual."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.linalg import trees
from library.linalg.trees import Operator
from library.types import Array, PyTree


@flax.struct.dataclass
class Solution:
    """What `solve` found, and how well.

    Attributes:
        x: pytree, the solution.
        relative_residual: [] float, |b - A x| / |b|, computed from x and not by recursion.
        num_steps: [] int32, products with A beside those that check the residual.
        converged: [] bool, relative_residual <= rtol.
        indefinite: [] bool, a direction with p'Ap <= 0 was met: A is not positive definite.
    """

    x: PyTree
    relative_residual: Array
    num_steps: Array
    converged: Array
    indefinite: Array


@flax.struct.dataclass
class _Iterate:
    x: PyTree
    residual: PyTree
    direction: PyTree
    rho: Array  # residual' M residual
    num_steps: Array
    indefinite: Array


def solve(
    operator: Operator,
    b: PyTree,
    x0: PyTree | None = None,
    *,
    preconditioner: Operator = lambda residual: residual,
    rtol: float = 1e-6,
    max_steps: int | None = None,
) -> Solution:
    """Solves A x = b for a symmetric positive definite operator.

    Hestenes and Stiefel 1952; Golub and Van Loan, "Matrix Computations", algorithm 11.5.1. The
    residual of the recursion drifts from the true one; when it has passed the stopping rule the
    true one is computed, and the iteration starts again from x as long as that still halves it.

    Args:
        operator: v -> A v on pytrees like `b`, whose dtypes it gets; iterates and residuals are in
            float32 at least.
        b: pytree, the right side.
        x0: pytree, the first guess; zero when None.
        preconditioner: v -> M v, M symmetric positive definite and close to the inverse of A.
        rtol: stop at |b - A x| <= rtol |b|.
        max_steps: at most this many products in the recursion; ten times D when None.
    Returns:
        `Solution`; it never raises for want of convergence: read `converged`.
    Raises:
        ValueError: if rtol is not positive or max_steps is negative.
    """
    if not rtol > 0:
        raise ValueError(f"rtol={rtol}: expected a positive number")
    max_steps = 10 * trees.size(b) if max_steps is None else max_steps
    checks.count("max_steps", max_steps, least=0)
    b, given = trees.widened(b), b
    x = jax.tree.map(jnp.zeros_like, b) if x0 is None else trees.widened(x0)
    operator, preconditioner = (_widened(each, given) for each in (operator, preconditioner))
    scale = trees.norm(b)
    threshold = rtol * scale

    def true_residual(x: PyTree) -> PyTree:
        return trees.add_scaled(b, -1.0, operator(x))

    def begin(x: PyTree, residual: PyTree, num_steps: Array) -> _Iterate:
        z = preconditioner(residual)
        return _Iterate(x, residual, z, trees.vdot(residual, z), num_steps, jnp.zeros((), bool))

    def unfinished(it: _Iterate) -> Array:
        small = trees.norm(it.residual) <= threshold
        return ~small & (it.num_steps < max_steps) & ~it.indefinite & (it.rho > 0)

    def restart(carry: tuple) -> tuple:
        it, residual, size, _ = carry
        it = jax.lax.while_loop(
            unfinished,
            lambda it: _step(operator, preconditioner, it),
            begin(it.x, residual, it.num_steps),
        )
        new_residual = true_residual(it.x)
        new_size = trees.norm(new_residual)
        return it, new_residual, new_size, new_size < 0.5 * size

    def worthwhile(carry: tuple) -> Array:
        it, _, size, progress = carry
        return (size > threshold) & progress & (it.num_steps < max_steps) & ~it.indefinite

    residual = true_residual(x)
    first = begin(x, residual, jnp.zeros((), jnp.int32))
    it, _, size, _ = jax.lax.while_loop(
        worthwhile, restart, (first, residual, trees.norm(residual), jnp.ones((), bool))
    )
    relative = size / jnp.where(scale > 0, scale, 1)
    return Solution(
        trees.like(it.x, given), relative, it.num_steps, size <= threshold, it.indefinite
    )


def jacobi(diagonal: PyTree) -> Operator:
    """The diagonal preconditioner v -> v / diagonal; `diagonal` is a positive pytree."""
    return lambda vector: jax.tree.map(jnp.divide, vector, diagonal)


def _widened(operator: Operator, like: PyTree) -> Operator:
    """The operator on vectors of float32 at least; it is given the dtypes of `like` itself."""
    return lambda vector: trees.widened(operator(trees.like(vector, like)))


def _step(operator: Operator, preconditioner: Operator, it: _Iterate) -> _Iterate:
    product = operator(it.direction)
    curvature = trees.vdot(it.direction, product)
    indefinite = ~(curvature > 0)  # nan counts as indefinite and stops the loop
    length = jnp.where(indefinite, 0, it.rho / jnp.where(indefinite, 1, curvature))
    residual = trees.add_scaled(it.residual, -length, product)
    z = preconditioner(residual)
    rho = trees.vdot(residual, z)
    return _Iterate(
        x=trees.add_scaled(it.x, length, it.direction),
        residual=residual,
        direction=trees.add_scaled(z, rho / it.rho, it.direction),
        rho=rho,
        num_steps=it.num_steps + 1,
        indefinite=indefinite,
    )
