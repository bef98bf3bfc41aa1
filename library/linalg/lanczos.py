"""Lanczos with full reorthogonalisation: the tridiagonal form of a symmetric operator."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.linalg import trees
from library.linalg.trees import Operator
from library.types import Array, Key, PyTree


@flax.struct.dataclass
class Tridiagonal:
    """Q A Q' = T with T tridiagonal and the rows of Q orthonormal.

    Attributes:
        basis: [K, D], the rows of Q; the first is the start vector, normalised.
        diagonal: [K], T[k, k].
        off_diagonal: [K - 1], T[k, k+1] >= 0; exactly 0 where an invariant subspace was complete
            and the iteration went on from a direction orthogonal to it.
    """

    basis: Array
    diagonal: Array
    off_diagonal: Array

    @property
    def matrix(self) -> Array:
        """T as a dense array, [K, K]."""
        off = self.off_diagonal
        return jnp.diag(self.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)


@flax.struct.dataclass
class Eigenpairs:
    """Approximate eigenpairs of a symmetric operator, from the largest value down.

    Attributes:
        values: [num] float.
        vectors: pytree with leaves [num, ...], orthonormal.
        residuals: [num] float, |A v - value v|: some eigenvalue of A is at most this far away.
    """

    values: Array
    vectors: PyTree
    residuals: Array


def tridiagonalise(operator: Operator, start: PyTree, num_steps: int) -> Tridiagonal:
    """K steps of Lanczos from `start`, each new vector orthogonalised twice against all before.

    Golub and Van Loan, "Matrix Computations", section 10.1; twice is enough (Giraud, Langou and
    Rozloznik 2005). A step that finds its Krylov space complete goes on from the unit vector that
    the basis holds least of, so that num_steps = D always gives the whole spectrum.

    Args:
        operator: v -> A v, symmetric, on pytrees like `start`.
        start: pytree, not zero.
        num_steps: K, from 1 to D. Memory: K + 2 vectors.
    Returns:
        `Tridiagonal` in flat coordinates (`trees.flatten` gives the map back).
    Raises:
        ValueError: if num_steps is not in 1..D.
    """
    multiply, flat, _ = trees.flatten(operator, start)
    if not 1 <= num_steps <= flat.size:
        raise ValueError(f"num_steps={num_steps}: expected 1 to {flat.size}, the dimension")
    checks.count("num_steps", num_steps)
    eps = jnp.finfo(flat.dtype).eps

    def body(k: Array, carry: tuple) -> tuple:
        basis, diagonal, off_diagonal, scale = carry
        vector = basis[k]
        product = multiply(vector)
        alpha = jnp.vdot(vector, product)
        scale = jnp.maximum(scale, jnp.linalg.norm(product))
        rest = _orthogonalise(product, basis)
        beta = jnp.linalg.norm(rest)
        # What is left at the rounding error of the product carries no direction of A. A missed
        # case is harmless: it goes on from orthogonalised noise with a coupling of this size.
        complete = beta <= 32 * eps * scale
        rest = jnp.where(complete, _fresh_direction(basis), rest)
        following = rest / jnp.linalg.norm(rest)
        basis = basis.at[k + 1].set(following, mode="drop")
        beta = jnp.where(complete, 0, beta)
        return basis, diagonal.at[k].set(alpha), off_diagonal.at[k].set(beta), scale

    basis = jnp.zeros((num_steps, flat.size), flat.dtype).at[0].set(flat / jnp.linalg.norm(flat))
    zeros = jnp.zeros(num_steps, flat.dtype)
    basis, diagonal, off_diagonal, _ = jax.lax.fori_loop(
        0, num_steps, body, (basis, zeros, zeros, jnp.zeros((), flat.dtype))
    )
    return Tridiagonal(basis, diagonal, off_diagonal[:-1])


def top_eigenpairs(
    operator: Operator, like: PyTree, num: int, rng: Key, num_steps: int | None = None
) -> Eigenpairs:
    """The largest eigenvalues and their vectors, by Rayleigh-Ritz on a Krylov space.

    For the smallest ones pass the negated operator.

    Args:
        operator: v -> A v, symmetric, on pytrees like `like`.
        like: pytree that gives structure, shapes and dtypes.
        num: number of pairs, from 1 to num_steps.
        rng: key of the random start vector.
        num_steps: size K of the Krylov space; min(D, 2 num + 20) when None. Raise it until the
            residuals are small; an eigenvalue of multiplicity m appears m times only at K = D.
    Returns:
        `Eigenpairs`.
    Raises:
        ValueError: if num or num_steps is out of range.
    """
    multiply, flat, unravel = trees.flatten(operator, like)
    num_steps = min(flat.size, 2 * num + 20) if num_steps is None else num_steps
    if not 1 <= num <= num_steps:
        raise ValueError(f"num={num}: expected 1 to num_steps={num_steps}")
    checks.count("num", num)
    start = jax.random.normal(rng, flat.shape, flat.dtype)
    form = tridiagonalise(multiply, start, num_steps)
    values, coordinates = jnp.linalg.eigh(form.matrix)
    values, coordinates = values[::-1][:num], coordinates[:, ::-1][:, :num]
    vectors = jnp.einsum("kn,kd->nd", coordinates, form.basis)  # [num, D]
    products = jax.lax.map(multiply, vectors)
    residuals = jnp.linalg.norm(products - values[:, None] * vectors, axis=1)
    return Eigenpairs(values, jax.vmap(unravel)(vectors), residuals)


def _orthogonalise(vector: Array, basis: Array) -> Array:
    """Removes the span of the rows of `basis` (zero rows do nothing), classical Gram-Schmidt x2."""
    for _ in range(2):
        vector = vector - jnp.einsum("kd,k->d", basis, jnp.einsum("kd,d->k", basis, vector))
    return vector


def _fresh_direction(basis: Array) -> Array:
    """The unit vector the basis holds least of, orthogonal to the basis: never 0 for K < D."""
    held = jnp.einsum("kd,kd->d", basis, basis)
    unit = jax.nn.one_hot(jnp.argmin(held), basis.shape[1], dtype=basis.dtype)
    return _orthogonalise(unit, basis)
