"""What the exact studies share: processes, problems of known answer, one solver on many grids."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from library.types import Array
from research.diffusion import processes, samplers, solver_tables
from research.diffusion.predictions import Score
from research.diffusion.processes import Process
from research.diffusion.sampling.solvers import Solver


@functools.cache
def all_processes() -> dict[str, Process]:
    """Every family of processes, and one of no family, by a name fit for a metric."""
    return {
        "vp": processes.vp(),
        "sub_vp": processes.sub_vp(),
        "ve": processes.ve(0.01, 50.0),
        "edm": processes.edm(),
        "cosine": processes.cosine(),
        "flow": processes.flow(),
        "alpha_sigma": processes.from_alpha_sigma(
            lambda t: 1 / (1 + t), lambda t: t * (1 + t), 1e-3, 5.0
        ),
    }


def ends(stacked: solver_tables.Table, score: Score, x: Array) -> Array:
    """End states [G, B, ...] of each of the tables of `stacked_tables`, all in one scan."""
    return jax.vmap(lambda table: solver_tables.run(table, score, x)[0])(stacked)


def stacked_tables(
    solver: Solver, process: Process, grids: Sequence[samplers.Grid], num_rows: int
) -> solver_tables.Table:
    """The tables of one solver on several grids, [G, R, ...], filled up with rows that do nothing.

    All solvers without noise get one shape, so that one compilation runs them all.
    """

    @jax.jit
    def build() -> solver_tables.Table:
        made = [samplers.solver_table(solver, process, grid) for grid in grids]
        return jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *[_filled(t, num_rows) for t in made]
        )

    return build()


def num_rows(solver: Solver, process: Process, grid: samplers.Grid) -> int:
    """Evaluations of the score along a grid."""
    return jax.eval_shape(lambda: samplers.solver_table(solver, process, grid)).num_rows


_NUM_VALUES = 4  # remembered values: as many as UniPC-3 and RK4 need


def _filled(table: solver_tables.Table, num_rows: int) -> solver_tables.Table:
    num_more = num_rows - table.num_rows
    keep = jnp.zeros((num_more, 1 + _NUM_VALUES)).at[:, 0].set(1)
    rest = solver_tables.Table(
        time=jnp.full(num_more, table.time[-1]),
        value=jnp.zeros((num_more, 2)),
        point=keep,
        base=keep,
        reached=jnp.full(num_more, table.time[-1]),
        step=(-1,) * num_more,
    )
    # the filling repeats the base, which must be the end point first
    base = table.point if table.base is None else table.base
    joined = solver_tables.join(table.replace(base=base.at[-1].set(table.point[-1])), rest)
    return joined.replace(step=(-1,) * num_rows)
