"""A solver as a table: one row of coefficients for each evaluation of the score.

Euler, Runge-Kutta, exponential, multistep, predictor-corrector and ancestral samplers all do the
same thing, linear combinations of a base state, the latest evaluations and noise:

    base, point <- scale * (base, point) + before * z
    value       <- on_point * point + on_score * score(point, time)
    base, point <- two sums over base and the latest values, both plus after * z

So one scan runs them all, the network is compiled once whatever the solver, the number of rows is
the number of function evaluations, and exact moments follow from the same table (`moments`).
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.diffusion.curves import as_time, expand, wide
from research.diffusion.predictions import Score
from research.diffusion.processes import Process

Draw = Callable[[Array], Array]  # row number [] -> standard normals of the states' shape
Project = Callable[..., Array]  # (x [B, ...], t [B], row number [] or keys [B]) -> x [B, ...]


@flax.struct.dataclass
class Table:
    """R evaluations in order; columns of `base` and `point` act on the base, then on K values.

    Attributes:
        time: [R], where the score is evaluated.
        value: [R, 2], weights of the point and of its score in the value that is remembered.
        point: [R, 1 + K], the next point from the base and the K latest values, newest first.
        reached: [R], the time of the next point.
        step: R numbers of grid steps done after each row, -1 inside a step.
        base: [R, 1 + K], the next base likewise; None if it is always the next point.
        scale: [R], factor on base and point before the evaluation; None for 1.
        before: [R], noise added to base and point before the evaluation; None for no noise.
        after: [R], noise added to the next base and point; None for no noise.
        langevin: [R], size of a Langevin step of base and point in units of (|z|/|score|)^2, which
            is measured per sample; None for no such step.
    """

    time: Array
    value: Array
    point: Array
    reached: Array
    step: tuple[int, ...] = flax.struct.field(pytree_node=False)
    base: Array | None = None
    scale: Array | None = None
    before: Array | None = None
    after: Array | None = None
    langevin: Array | None = None

    @property
    def num_rows(self) -> int:
        """The number of score evaluations."""
        return len(self.step)

    @property
    def num_values(self) -> int:
        """K, how many of the latest values a row may use."""
        return self.point.shape[1] - 1

    @property
    def is_stochastic(self) -> bool:
        """Whether any row draws noise."""
        return not (self.before is None and self.after is None and self.langevin is None)


def run(
    table: Table,
    score: Score,
    x: Array,
    draw: Draw | None = None,
    *,
    project: Project | None = None,
    every: int | None = None,
) -> tuple[Array, Array | None]:
    """Carries states through a table in one scan.

    Args:
        table: the coefficients.
        score: (x [B, ...], t [B]) -> [B, ...].
        x: [B, ...] float, states at the first time; carried in float32 or wider.
        draw: standard normals for a row; needed if the table is stochastic.
        project: applied to the state at the end of every grid step.
        every: record the state after every so many grid steps; None records nothing.
    Returns:
        The end states [B, ...], and the recorded states [1 + num_steps // every, B, ...], the
        start first, or None.
    Raises:
        ValueError: if the score's shape is not the states', or a stochastic table has no `draw`.
    """
    if table.is_stochastic and draw is None:
        raise ValueError("draw=None: the table draws noise")
    x = wide(x)
    table = jax.tree.map(lambda column: column.astype(x.dtype), table)
    path, slots = _empty_path(table, x, every)

    def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        base, point, past, path = carry
        row, index, step, slot = xs
        z = draw(index) if table.is_stochastic else None
        if row.before is not None:
            base, point = jax.tree.map(lambda s: row.scale * s + row.before * z, (base, point))
        slope = _evaluate(score, point, row.time)
        values = (row.value[0] * point + row.value[1] * slope, *past)
        origin = point if base is None else base
        point = _combine(row.point, origin, values)
        if base is not None:
            base = _combine(row.base, origin, values)
        if row.after is not None:
            base, point = jax.tree.map(lambda s: s + row.after * z, (base, point))
        if row.langevin is not None:
            move = _langevin_move(row.langevin, slope, z)
            base, point = jax.tree.map(lambda s: s + move, (base, point))
        if project is not None:
            times = jnp.full(point.shape[:1], row.reached)
            shift = jnp.where(step >= 0, project(point, times, index) - point, 0)
            base, point = jax.tree.map(lambda s: s + shift, (base, point))
        if path is not None:
            path = path.at[slot].set(point, mode="drop")
        return (base, point, values[: table.num_values - 1], path), None

    past = tuple(jnp.zeros_like(x) for _ in range(table.num_values - 1))
    start = (None if table.base is None else x, x, past, path)
    rows = (table, jnp.arange(table.num_rows), jnp.asarray(table.step), slots)
    (_, x, _, path), _ = jax.lax.scan(body, start, rows)
    return x, path


def single(
    times: Array,
    value: tuple[Array, Array],
    weights: tuple[Array, ...],
    after: Array | None = None,
    langevin: Array | None = None,
) -> Table:
    """The table of a method with one evaluation a step, at the start of the step.

    Args:
        times: [n + 1] falling.
        value: two [n], weights of point and score in the value.
        weights: 1 + K arrays [n], weights of the point and of the K latest values.
        after: [n], see `Table`.
        langevin: [n], see `Table`.
    """
    chex.assert_equal_shape([times[1:], *value, *weights])
    return Table(
        time=times[:-1],
        value=jnp.stack(value, -1),
        point=jnp.stack(weights, -1),
        reached=times[1:],
        step=tuple(range(1, times.shape[0])),
        after=after,
        langevin=langevin,
    )


def staged(nodes: list[Array], values: list[Array], rows: list[Array]) -> Table:
    """The table of a method with S stages a step that all start from the step's own start.

    Args:
        nodes: S + 1 arrays [n], times of the stages and the end of the step.
        values: S arrays [n, 2], see `Table`.
        rows: S arrays [n, 1 + K], the next stage's point, and last the step's end, as sums over
            the step's start and the latest values.
    """
    num_stages, num_steps = len(rows), nodes[0].shape[0]
    chex.assert_shape(nodes, (num_steps,))
    chex.assert_shape(rows, (num_steps, 1 + num_stages))
    keep = jnp.zeros_like(rows[0]).at[:, 0].set(1)
    step = np.full((num_steps, num_stages), -1)
    step[:, -1] = np.arange(1, num_steps + 1)
    return Table(
        time=interleave(nodes[:-1]),
        value=interleave(values),
        point=interleave(rows),
        reached=interleave(nodes[1:]),
        step=tuple(step.ravel().tolist()),
        base=interleave([keep] * (num_stages - 1) + rows[-1:]) if num_stages > 1 else None,
    )


def interleave(columns: list[Array]) -> Array:
    """Arrays [n, ...] of the S stages of each step as rows [n * S, ...]."""
    stacked = jnp.stack(columns, 1)
    return stacked.reshape(-1, *stacked.shape[2:])


def denoise_row(process: Process, time: Array, step: int) -> Table:
    """The one-row table of a step to zero noise: the posterior mean (x + sigma^2 score)/alpha."""
    time = as_time(time).reshape(1)
    alpha, sigma = process.alpha(time), process.sigma(time)
    return Table(
        time=time,
        value=jnp.stack([1 / alpha, sigma**2 / alpha], -1),
        point=jnp.asarray([[0.0, 1.0]], time.dtype),
        reached=jnp.zeros_like(time),
        step=(step,),
    )


def join(first: Table, second: Table) -> Table:
    """The rows of one table followed by those of another."""
    num_values = max(first.num_values, second.num_values)
    tables = [first, second]

    def stack(name: str, fill: float) -> Array | None:
        columns = [getattr(table, name) for table in tables]
        if all(column is None for column in columns):
            return None
        filled = [
            jnp.full(table.time.shape, fill, table.time.dtype) if column is None else column
            for table, column in zip(tables, columns)
        ]
        return jnp.concatenate(filled)

    def pad(columns: Array) -> Array:
        return jnp.pad(columns, ((0, 0), (0, num_values + 1 - columns.shape[1])))

    shared = first.base is None and second.base is None
    bases = [pad(table.point if table.base is None else table.base) for table in tables]
    return Table(
        time=jnp.concatenate([first.time, second.time]),
        value=jnp.concatenate([first.value, second.value]),
        point=jnp.concatenate([pad(first.point), pad(second.point)]),
        reached=jnp.concatenate([first.reached, second.reached]),
        step=first.step + second.step,
        base=None if shared else jnp.concatenate(bases),
        scale=stack("scale", 1.0),
        before=stack("before", 0.0),
        after=stack("after", 0.0),
        langevin=stack("langevin", 0.0),
    )


def _evaluate(score: Score, x: Array, time: Array) -> Array:
    slope = score(x, jnp.full(x.shape[:1], time))
    if slope.shape != x.shape:
        raise ValueError(f"score has shape {slope.shape}: expected that of the states {x.shape}")
    return slope.astype(x.dtype)


def _combine(weights: Array, origin: Array, values: tuple[Array, ...]) -> Array:
    """weights[0] origin + sum_k weights[1 + k] values[k]."""
    total = weights[0] * origin
    for k, value in enumerate(values):
        total = total + weights[1 + k] * value
    return total


def _langevin_move(size: Array, slope: Array, z: Array) -> Array:
    """h slope + sqrt(2 h) z with h = size (|z|/|slope|)^2 for each sample."""
    axes = tuple(range(1, z.ndim))
    slope_square, z_square = jnp.sum(slope**2, axes), jnp.sum(z**2, axes)
    safe = jnp.where(slope_square > 0, slope_square, 1)  # no step where the score vanishes
    h = expand(size * jnp.where(slope_square > 0, z_square / safe, 0), z)
    return h * slope + jnp.sqrt(2 * h) * z


def kept_times(table: Table, start: float, every: int) -> Array:
    """The times [1 + num_steps // every] of the states that `run` records."""
    kept = [row for row, step in enumerate(table.step) if step > 0 and step % every == 0]
    reached = table.reached[np.asarray(kept, int)]
    return jnp.concatenate([jnp.full((1,), start, reached.dtype), reached])


def _empty_path(table: Table, x: Array, every: int | None) -> tuple[Array | None, Array]:
    """A buffer [1 + num_steps // every, B, ...] with the start in it, and each row's slot."""
    step = np.asarray(table.step)
    if every is None:
        return None, jnp.zeros_like(step)
    num_saved = 1 + step.max() // every
    kept = (step > 0) & (step % every == 0)
    slots = jnp.asarray(np.where(kept, step // every, num_saved))  # past the end: not stored
    return jnp.zeros((num_saved, *x.shape), x.dtype).at[0].set(x), slots
