"""Losses without negatives: predict the other view, or keep dimensions apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library.types import Array
from research.self_supervised import checks, layout


def byol(predictions: Array, targets: Array) -> Array:
    """BYOL's loss of one direction, 2 - 2 cos: Grill et al. 2020, arXiv:2006.07733, eq. (2).

    Args:
        predictions: [..., D] float, of the predictor, for one view.
        targets: [..., D] float, the teacher's projections of the other view; no gradient.
    Returns:
        [] float in [0, 4], mean over all vectors; the paper adds both directions.
    Raises:
        ValueError: for two shapes.
    """
    return 2 - 2 * _cosine("predictions", predictions, "targets", targets)


def simsiam(predictions: Array, projections: Array) -> Array:
    """SimSiam's negative cosine, both directions: Chen and He 2021, arXiv:2011.10566, eq. (4).

    Args:
        predictions: [2, B, D] float, of the predictor, for both views.
        projections: [2, B, D] float, what it was given; no gradient.
    Returns:
        [] float in [-1, 1], the mean of both directions.
    Raises:
        ValueError: for other than two views, or two shapes.
    """
    checks.views("predictions", predictions, exactly=2)
    checks.pair("predictions", predictions, "projections", projections, "[2, B, D]")
    return -_cosine("predictions", predictions, "projections", projections[::-1])


def barlow_twins(
    z1: Array,
    z2: Array,
    weight: float = 5e-3,
    epsilon: float = 0.0,
    axis_name: str | None = None,
) -> Array:
    """Barlow Twins: the correlation of two views should be the identity.

    sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, Zbontar et al. 2021, arXiv:2103.03230, eq. (1),
    where C correlates dimension i of one view with j of the other over the batch.

    Args:
        z1, z2: [B, D] float.
        weight: of what is off the diagonal, >= 0; the paper has 5.1e-3.
        epsilon: added to the (population) variances, >= 0; 1e-5 is that of the batch norm which
            published codes standardise with. A dimension without variance correlates with none.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float.
    Raises:
        ValueError: for two shapes, a batch of one example, a negative weight or epsilon.
    """
    checks.pair("z1", z1, "z2", z2)
    checks.batch(len(z1), axis_name, "a standard deviation")
    checks.positive("weight", weight, zero=True)
    checks.positive("epsilon", epsilon, zero=True)
    z1, z2 = (_standardised(z, epsilon, axis_name) for z in checks.wide(z1, z2))
    correlation = layout.mean(jnp.einsum("bi,bj->ij", z1, z2) / len(z1), axis_name)  # [D, D]
    on, off = _diagonal_and_rest(correlation)
    return jnp.square(1 - on).sum() + weight * jnp.square(off).sum()


def vicreg(
    z1: Array,
    z2: Array,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    axis_name: str | None = None,
) -> Array:
    """VICReg, Bardes et al. 2022, arXiv:2105.04906, eq. (6), as the paper has it.

    invariance * mean over B D of (z1 - z2)^2 + variance * [v(z1) + v(z2)] + covariance * [c(z1) +
    c(z2)], v the mean over dimensions of max(0, 1 - sqrt(var + 1e-4)), c the sum of the squares of
    the covariances of different dimensions, by D. Variances divide by B - 1. The official code
    halves the sum of the two v; with its weights say variance=12.5.

    Args:
        z1, z2: [B, D] float.
        invariance, variance, covariance: weights >= 0.
        axis_name: mapped axis over which the batch is split; None has it whole.
    Returns:
        [] float.
    Raises:
        ValueError: for two shapes, a batch of one example, a negative weight.
    """
    checks.pair("z1", z1, "z2", z2)
    total = checks.batch(len(z1), axis_name, "a variance")
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, value in weights.items():
        checks.positive(name, value, zero=True)
    z1, z2 = checks.wide(z1, z2)
    loss = invariance * layout.mean(jnp.square(z1 - z2).mean(), axis_name)
    for z in (z1, z2):
        z = z - layout.mean(z.mean(0), axis_name)[None]
        moments = layout.mean(jnp.einsum("bi,bj->ij", z, z) / len(z), axis_name)
        on, off = _diagonal_and_rest(moments * (total / (total - 1)))
        loss += variance * jnp.maximum(0, 1 - jnp.sqrt(on + 1e-4)).mean()
        loss += covariance * jnp.square(off).sum() / z.shape[1]
    return loss


def _cosine(first: str, a: Array, second: str, b: Array) -> Array:
    """Mean cosine of vectors, of which the second have no gradient."""
    if jnp.shape(a) != jnp.shape(b) or jnp.ndim(a) < 2:
        raise ValueError(
            f"{first} {jnp.shape(a)}, {second} {jnp.shape(b)}: expected one shape [..., D]"
        )
    a, b = map(checks.unit, checks.wide(a, b))
    return (a * jax.lax.stop_gradient(b)).sum(-1).mean()


def _standardised(z: Array, epsilon: float, axis_name: str | None) -> Array:
    """Mean 0 and population variance 1 over the whole batch; 0 where there is no variance."""
    z = z - layout.mean(z.mean(0), axis_name)[None]
    variance = layout.mean(jnp.square(z).mean(0), axis_name) + epsilon
    return z / jnp.sqrt(jnp.where(variance > 0, variance, 1))[None]


def _diagonal_and_rest(matrix: Array) -> tuple[Array, Array]:
    """The diagonal [D], and the matrix [D, D] with zeros there."""
    return jnp.diagonal(matrix), jnp.where(jnp.eye(len(matrix), dtype=bool), 0, matrix)
