"""Exact mean and variance of what a sampler draws, without sampling.

On Gaussian data the score is linear, a solver's table is linear in base, point, values and noise,
so the joint law of all of them stays Gaussian and a recursion over the rows carries it from the
prior to the end: bias, KL divergence and Wasserstein distance of any sampler with any number of
steps, with the exact score or a perturbed one. Directions of independent data do not mix, so all
arrays have one entry a direction; a full covariance is such a case in its eigenbasis. Where a
measurement or another law mixes the directions, `sampled_jointly` follows the whole covariance.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array
from research.diffusion.curves import as_time
from research.diffusion.predictions import Score
from research.diffusion.processes import Process
from research.diffusion.sampling import samplers
from research.diffusion.sampling.grids import Grid
from research.diffusion.sampling.solver_tables import Table
from research.diffusion.sampling.solvers import Solver

Perturb = Callable[[Array, Array, Array], tuple[Array, Array]]
Project = Callable[[Array, Array, Array], tuple[Array, Array]]


def sampled(
    solver: Solver,
    process: Process,
    grid: Grid,
    mean: Array,
    variance: Array,
    *,
    start: tuple[Array, Array] | None = None,
    perturb: Perturb | None = None,
) -> tuple[Array, Array]:
    """Mean and variance of the samples of Gaussian data, each [D].

    Args:
        solver: any solver but those with a measured Langevin step, which is not linear.
        process: the noising process.
        grid: where to step.
        mean: [D] of the data.
        variance: [D] of the data.
        start: mean and variance, each [D], of the states at the grid's first time; None is the
            prior's.
        perturb: (t [R], slope [R, D], offset [R, D]) -> the same of the score in use,
            score = slope x + offset; None uses the exact one.
    Raises:
        ValueError: if the solver is not linear, or as `samplers.sample`.
    """
    mean, variance = as_time(mean), as_time(variance)
    table = samplers.solver_table(solver, process, grid)
    slope, offset = linear_score(process, table.time, mean, variance)
    if perturb is not None:
        slope, offset = perturb(table.time, slope, offset)
    if start is None:
        start = jnp.zeros_like(mean), jnp.full_like(mean, process.prior_std**2)
    return push(table, *start, slope, offset)


def sampled_jointly(
    solver: Solver,
    process: Process,
    grid: Grid,
    score: Score,
    dim: int,
    *,
    project: Project | None = None,
) -> tuple[Array, Array]:
    """Mean [D] and covariance [D, D] of the samples of any affine score, from the prior.

    Costs D + 1 evaluations of the score and two products of [D, D] matrices a step.

    Args:
        solver: one of one evaluation a step without memory, its Langevin steps not measured.
        process: the noising process.
        grid: where to step.
        score: (x [B, D], t [B]) -> [B, D], affine in x.
        dim: D.
        project: (mean [D], covariance [D, D], t []) -> the same after the hook that
            `samplers.sample` applies at the end of every grid step; see
            `inverse_problems.replaced_moments`.
    Raises:
        ValueError: if the solver has stages, memory or a measured step.
    """
    checks.count("dim", dim)
    table = samplers.solver_table(solver, process, grid)
    if table.langevin is not None or table.base is not None or table.num_values > 1:
        raise ValueError(f"{solver}: expected a linear solver of one evaluation a step, no memory")
    identity = jnp.eye(dim, dtype=table.time.dtype)
    points = jnp.concatenate([jnp.zeros_like(identity[:1]), identity])

    def body(moments: tuple[Array, Array], row: tuple) -> tuple[tuple[Array, Array], None]:
        mean, covariance = moments
        row, step = row
        ends = score(points, jnp.full(dim + 1, row.time))
        offset, slope = ends[0], (ends[1:] - ends[:1]).T  # [D], [D, D]
        own = row.point[0] + row.point[1] * row.value[0]
        matrix = own * identity + row.point[1] * row.value[1] * slope
        mean = matrix @ mean + row.point[1] * row.value[1] * offset
        covariance = matrix @ covariance @ matrix.T
        if row.after is not None:
            covariance = covariance + row.after**2 * identity
        if project is not None:
            projected = project(mean, covariance, row.reached)
            mean, covariance = jax.tree.map(
                lambda new, old: jnp.where(step >= 0, new, old), projected, (mean, covariance)
            )
        return (mean, covariance), None

    start = jnp.zeros_like(identity[0]), process.prior_std**2 * identity
    return jax.lax.scan(body, start, (table, jnp.asarray(table.step)))[0]


def linear_score(process: Process, t: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """Slope and offset, [R, D], of the score at times t [R] of data N(mean, variance), [D]."""
    t, mean, variance = as_time(t), as_time(mean), as_time(variance)
    chex.assert_rank([t, mean, variance], 1)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    slope = -1 / (alpha**2 * variance[None] + sigma**2)
    return slope, -alpha * mean[None] * slope


def push(
    table: Table, mean: Array, variance: Array, slope: Array, offset: Array
) -> tuple[Array, Array]:
    """Mean and variance [D] after a table, from those before it.

    Args:
        table: coefficients, see `solver_tables.Table`.
        mean: [D] at the first time.
        variance: [D] at the first time.
        slope: [R, D], of the linear score of each row.
        offset: [R, D], of the linear score of each row.
    Raises:
        ValueError: if the table has a measured Langevin step.
    """
    if table.langevin is not None:
        raise ValueError("a measured Langevin step is not linear: use langevin(measured=False)")

    mean, variance, slope, offset = map(as_time, (mean, variance, slope, offset))
    chex.assert_equal_shape([mean, variance])
    chex.assert_shape([slope, offset], (table.num_rows, *mean.shape))

    def along(mean: Array, variance: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
        def body(moments: tuple[Array, Array], row: tuple) -> tuple[tuple[Array, Array], None]:
            mean, covariance = moments
            matrix, shift, noise = _row_map(*row)
            return (
                matrix @ mean + shift,
                matrix @ covariance @ matrix.T + jnp.outer(noise, noise),
            ), None

        size = table.num_values + 1  # base, point and the values before the newest
        ones = (jnp.arange(size) < 2).astype(mean.dtype)
        first = mean * ones, variance * jnp.outer(ones, ones)
        (mean, covariance), _ = jax.lax.scan(body, first, (table, slope, offset))
        return mean[1], covariance[1, 1]

    return jax.vmap(along, in_axes=(0, 0, 1, 1))(mean, variance, slope, offset)


def kl_divergence(mean: Array, variance: Array, mean_to: Array, variance_to: Array) -> Array:
    """KL(N(mean, variance) || N(mean_to, variance_to)) over independent directions, [] nats."""
    mean, variance, mean_to, variance_to = map(as_time, (mean, variance, mean_to, variance_to))
    chex.assert_equal_shape([mean, variance, mean_to, variance_to])
    ratio = variance / variance_to
    return 0.5 * jnp.sum(ratio - 1 - jnp.log(ratio) + (mean - mean_to) ** 2 / variance_to)


def wasserstein(mean: Array, variance: Array, mean_to: Array, variance_to: Array) -> Array:
    """2-Wasserstein distance of two Gaussians with the same independent directions, []."""
    mean, variance, mean_to, variance_to = map(as_time, (mean, variance, mean_to, variance_to))
    chex.assert_equal_shape([mean, variance, mean_to, variance_to])
    spread = jnp.sqrt(variance) - jnp.sqrt(variance_to)
    return jnp.sqrt(jnp.sum((mean - mean_to) ** 2 + spread**2))


def _row_map(row: Table, slope: Array, offset: Array) -> tuple[Array, Array, Array]:
    """Matrix, shift and noise of one row on the vector (base, point, earlier values)."""
    size = row.point.shape[0]
    identity = jnp.eye(size, dtype=row.point.dtype)
    origin = identity[1] if row.base is None else identity[0]
    gain = (row.value[0] + row.value[1] * slope) * identity[1]
    values = jnp.stack([gain, *identity[2:]])  # the newest, then the earlier ones
    shift = row.value[1] * offset
    point = row.point[0] * origin + row.point[1:] @ values
    base = point if row.base is None else row.base[0] * origin + row.base[1:] @ values
    base_weight = row.point[1] if row.base is None else row.base[1]
    matrix = jnp.concatenate([jnp.stack([base, point]), values[: size - 2]])
    shifts = jnp.concatenate(
        [jnp.stack([base_weight, row.point[1]]) * shift, jnp.zeros(size - 2).at[:1].set(shift)]
    )
    pair = (jnp.arange(size) < 2).astype(matrix.dtype)
    noise = jnp.zeros(size) if row.after is None else row.after * pair
    if row.before is not None:
        noise = noise + matrix @ (row.before * pair)
        matrix = matrix * jnp.where(pair > 0, row.scale, 1)[None]
    return matrix, shifts, noise
