"""Stochastic Lanczos quadrature: tr f(A) and the spectral density of a symmetric operator.

For a start vector v, Lanczos of K steps gives the K-point Gauss rule of the measure that A and v
define: v'f(A)v = |v|^2 sum_k weight_k f(node_k), exact for polynomials of degree 2K - 1. Averaged
over random v with E[v v'] = I it estimates tr f(A). Golub and Meurant 1994; Ubaru, Chen and Saad
2017; for Hessians Ghorbani, Krishnan and Xiao 2019, arXiv:1901.10159.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.linalg import hutchinson, lanczos, trees
from library.linalg.hutchinson import Estimate
from library.linalg.trees import Operator, Sampler
from library.types import Array, Key, PyTree


@flax.struct.dataclass
class Quadrature:
    """Gauss rules of M probes, K points each.

    Attributes:
        nodes: [M, K] float, Ritz values, ascending.
        weights: [M, K] float >= 0; a row sums to |v|^2 of its probe, on average to D.
    """

    nodes: Array
    weights: Array


def quadratic_form(operator: Operator, vector: PyTree, num_steps: int) -> tuple[Array, Array]:
    """The Gauss rule of f -> v'f(A)v.

    Args:
        operator: v -> A v, symmetric, on pytrees like `vector`.
        vector: pytree v, not zero.
        num_steps: K, from 1 to D.
    Returns:
        Nodes [K] and weights [K], the weights summing to |v|^2.
    Raises:
        ValueError: if num_steps is not in 1..D.
    """
    form = lanczos.tridiagonalise(operator, vector, num_steps)
    nodes, coordinates = jnp.linalg.eigh(form.matrix)
    return nodes, jnp.square(coordinates[0]) * trees.vdot(vector, vector)


def estimate(
    operator: Operator,
    like: PyTree,
    rng: Key,
    num_probes: int,
    num_steps: int,
    sampler: Sampler = trees.rademacher,
    batch_size: int | None = None,
) -> Quadrature:
    """Gauss rules of random probes.

    Args:
        operator: v -> A v, symmetric, on pytrees like `like`.
        like: pytree that gives structure, shapes and dtypes.
        rng: key; probe i uses fold_in(rng, i).
        num_probes: M; the error of `trace` falls as its root.
        num_steps: K, points of each rule, from 1 to D.
        sampler: random vectors with E[v v'] = I.
        batch_size: probes computed at once; one after the other when None.
    Returns:
        `Quadrature`.
    Raises:
        ValueError: if num_probes < 1 or num_steps is not in 1..D.
    """
    checks.count("num_probes", num_probes)
    if batch_size is not None:
        checks.count("batch_size", batch_size, of="probes")

    def rule(index: Array) -> tuple[Array, Array]:
        probe = sampler(jax.random.fold_in(rng, index), like)
        return quadratic_form(operator, probe, num_steps)

    return Quadrature(*jax.lax.map(rule, jnp.arange(num_probes), batch_size=batch_size))


def trace(rules: Quadrature, function: Callable[[Array], Array]) -> Estimate:
    """tr f(A), [] float: the mean over probes of sum_k weight_k f(node_k), with its error."""
    rules = trees.widened(rules)
    return hutchinson.summarise(jnp.sum(rules.weights * function(rules.nodes), axis=1))


def density(rules: Quadrature, grid: Array, width: Array | float) -> Estimate:
    """The spectral density, smoothed by a Gaussian of standard deviation `width`.

    Args:
        rules: from `estimate`.
        grid: [G] float, where to evaluate, in units of the eigenvalues.
        width: [] float > 0, in the same units.
    Returns:
        `Estimate` of [G] float; integrates to 1.
    Raises:
        ValueError: if the width is a number that is not positive.
    """
    if isinstance(width, int | float) and not 0 < width < math.inf:
        raise ValueError(f"width={width}: expected a positive number")
    rules, grid = trees.widened((rules, grid))
    masses = rules.weights / rules.weights.sum(1, keepdims=True)  # [M, K]

    def at(point: Array) -> Array:
        bump = jnp.exp(-0.5 * jnp.square((point - rules.nodes) / width))
        return jnp.sum(masses * bump, axis=1) / (width * (2 * jnp.pi) ** 0.5)  # [M]

    return hutchinson.summarise(jax.vmap(at, out_axes=1)(grid))
