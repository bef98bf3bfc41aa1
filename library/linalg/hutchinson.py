"""Trace and diagonal of an operator from products with random vectors, with their errors."""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.linalg import trees
from library.linalg.trees import Operator, Sampler
from library.types import Array, Key, PyTree


@flax.struct.dataclass
class Estimate:
    """A mean over independent samples.

    Attributes:
        value: the mean, an array or a pytree.
        standard_error: of the mean, of the structure of `value`; nan from a single sample.
    """

    value: PyTree
    standard_error: PyTree


def trace(
    operator: Operator,
    like: PyTree,
    rng: Key,
    num_probes: int,
    sampler: Sampler = trees.rademacher,
    batch_size: int | None = None,
) -> Estimate:
    """tr A as the mean of v'Av (Hutchinson 1990).

    With S = (A + A')/2 the variance of one probe is 2 (|S|_F^2 - sum_i S_ii^2) for signs and
    2 |S|_F^2 for Gaussian probes (Avron and Toledo 2011, table 1).

    Args:
        operator: v -> A v, square, on pytrees like `like`.
        like: pytree that gives structure, shapes and dtypes.
        rng: key; probe i uses fold_in(rng, i).
        num_probes: number of products.
        sampler: `trees.rademacher`, `trees.gaussian`, or any with E[v v'] = I.
        batch_size: probes computed at once; one after the other when None.
    Returns:
        `Estimate` of [] float.
    Raises:
        ValueError: if num_probes or batch_size is no positive whole number.
    """

    def sample(key: Key) -> Array:
        probe = sampler(key, like)
        return trees.vdot(probe, operator(probe))

    checks.count("num_probes", num_probes)
    return mean_of(sample, rng, num_probes, batch_size)


def diagonal(
    operator: Operator,
    like: PyTree,
    rng: Key,
    num_probes: int,
    sampler: Sampler = trees.rademacher,
    batch_size: int | None = None,
) -> Estimate:
    """diag A as the mean of v * (A v) (Bekas, Kokiopoulou and Saad 2007).

    Args: as in `trace`.
    Returns:
        `Estimate` of pytrees of the structure of `like`, float32 at least; exact from one sign
        probe if A is diagonal.
    Raises:
        ValueError: if num_probes or batch_size is no positive whole number.
    """

    def sample(key: Key) -> PyTree:
        probe = sampler(key, like)
        return jax.tree.map(jnp.multiply, *trees.widened((probe, operator(probe))))

    checks.count("num_probes", num_probes)
    return mean_of(sample, rng, num_probes, batch_size)


def hutch_plus_plus(operator: Operator, like: PyTree, rng: Key, num_products: int) -> Estimate:
    """tr A with a random range deflated exactly (Meyer et al. 2021, arXiv:2010.09649, algorithm 1).

    A third of the products finds the range, a third gives its trace, a third probes the rest. For
    positive semi-definite A the error falls as 1/num_products instead of its root.

    Args:
        operator: v -> A v, symmetric, on pytrees like `like`.
        like: pytree that gives structure, shapes and dtypes.
        rng: key.
        num_products: products with A, at least 6; what exceeds a multiple of 3 is not used.
            At num_products >= 3 D the trace is exact.
    Returns:
        `Estimate` of [] float.
    Raises:
        ValueError: if num_products < 6.
    """
    checks.count("num_products", num_products, least=6)
    multiply, flat, _ = trees.flatten(operator, like)
    range_rng, probe_rng = jax.random.split(rng)
    num = num_products // 3
    num_range = min(num, flat.size)
    signs = jax.random.rademacher(range_rng, (num_range, flat.size), flat.dtype)
    basis = jnp.linalg.qr(jax.lax.map(multiply, signs).T)[0]  # [D, num_range]
    exact = jnp.einsum("dk,kd->", basis, jax.lax.map(multiply, basis.T))

    def project(vector: Array) -> Array:
        return vector - jnp.einsum("dk,k->d", basis, jnp.einsum("dk,d->k", basis, vector))

    rest = trace(lambda vector: project(multiply(project(vector))), flat, probe_rng, num)
    return Estimate(exact + rest.value, rest.standard_error)


def mean_of(
    sample: Callable[[Key], PyTree], rng: Key, num_samples: int, batch_size: int | None = None
) -> Estimate:
    """Mean and standard error of independent samples; sample i uses fold_in(rng, i).

    Raises:
        ValueError: if num_samples or batch_size is no positive whole number.
    """
    checks.count("num_samples", num_samples)
    if batch_size is not None:
        checks.count("batch_size", batch_size, of="probes")
    draw = lambda i: sample(jax.random.fold_in(rng, i))
    values = jax.lax.map(draw, jnp.arange(num_samples), batch_size=batch_size)
    return summarise(values)


def summarise(values: PyTree) -> Estimate:
    """`Estimate`, float32 at least, from leaves [M, ...] of M independent samples."""
    values = trees.widened(values)
    num_samples = jax.tree.leaves(values)[0].shape[0]
    if num_samples > 1:
        error = jax.tree.map(lambda leaf: leaf.std(0, ddof=1) / num_samples**0.5, values)
    else:
        error = jax.tree.map(lambda leaf: jnp.full(leaf.shape[1:], jnp.nan, leaf.dtype), values)
    return Estimate(jax.tree.map(lambda leaf: leaf.mean(0), values), error)
