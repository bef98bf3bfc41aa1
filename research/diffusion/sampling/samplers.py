"""Sampling with any score, process, solver and grid; the room that outside code imports.

    score = predictions.to_score(process, partial(apply, params), kind="noise")
    samples, info = samplers.sample(
        score, process, rng, (B, D), solver=samplers.heun(), grid=samplers.log_snr_grid(40)
    )

The whole trajectory is one compiled scan. Called outside `jax.jit` it compiles anew every time:
put the call, with the parameters as an argument, into a jitted function of your own.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32
from research.diffusion.predictions import Score
from research.diffusion.processes import Process
from research.diffusion.sampling import solver_tables, solvers, stochastic
from research.diffusion.sampling.adaptive import Adaptive, adaptive, solve_adaptively
from research.diffusion.sampling.exponential import dpm_solver, dpm_solver_pp, unipc
from research.diffusion.sampling.grids import (
    Grid,
    karras_grid,
    log_snr_grid,
    times_grid,
    uniform_grid,
)
from research.diffusion.sampling.pseudo_linear import plms
from research.diffusion.sampling.solver_tables import Project, Table
from research.diffusion.sampling.solvers import Solver, euler, heun, midpoint, rk4
from research.diffusion.sampling.stochastic import (
    ancestral,
    euler_maruyama,
    langevin,
    predictor_corrector,
    reverse_diffusion,
)

__all__ = [
    "Grid",
    "Info",
    "Solver",
    "adaptive",
    "ancestral",
    "ddim",
    "dpm_solver",
    "dpm_solver_pp",
    "euler",
    "euler_maruyama",
    "heun",
    "integrate",
    "karras_grid",
    "langevin",
    "log_snr_grid",
    "midpoint",
    "plms",
    "predictor_corrector",
    "prior_states",
    "reverse_diffusion",
    "rk4",
    "sample",
    "sample_rngs",
    "solve",
    "solver_table",
    "times_grid",
    "uniform_grid",
    "unipc",
]


@flax.struct.dataclass
class Info:
    """What a solve reports beside its result.

    Attributes:
        nfe: number of evaluations of the score for each sample: an int, or [B] if adaptive.
        trajectory: [1 + num_steps // every, B, ...] recorded states, the start first, or None.
        trajectory_times: [1 + num_steps // every], their times, or None.
    """

    nfe: int | Array
    trajectory: Array | None = None
    trajectory_times: Array | None = None


def sample(
    score: Score,
    process: Process,
    rng: Key,
    shape: tuple[int, ...],
    *,
    solver: Solver,
    grid: Grid | None = None,
    first_index: int | Array = 0,
    every: int | None = None,
    project: Project | None = None,
) -> tuple[Array, Info]:
    """Draws samples: prior states carried by `solver` along `grid`.

    Sample i draws all its noise from fold_in(rng, first_index + i), so the noise of a sample does
    not depend on the batch it is drawn in, nor on the devices that the batch is spread over.

    Args:
        score: (x [B, ...], t [B]) -> [B, ...], grad log p_t(x).
        process: the noising process of the score.
        rng: [] key.
        shape: (B, ...) of the samples.
        solver: how to step, e.g. `heun()`.
        grid: where to step, e.g. `log_snr_grid(40)`; only its ends matter to `adaptive`.
        first_index: index of the first sample of this batch among all samples of `rng`.
        every: record the state after every so many grid steps; None keeps memory O(1).
        project: (x [B, ...], t [B], rngs [B]) -> x, applied after every grid step to the state
            that was reached at t, with fresh keys each time.
    Returns:
        Samples [B, ...] and `Info`.
    Raises:
        ValueError: for a solver and a process or hook that do not go together, a grid outside the
            process's range, a shape that is not made of positive whole numbers, or a score of
            another shape.
    """
    for size in shape:
        checks.count("shape", size)
    if not isinstance(solver, Adaptive):
        _checked_outline(solver, process, grid, every)

    @jax.jit
    def start(rng: Key, first_index: Array) -> tuple[Key, Array]:
        rngs = sample_rngs(rng, shape[0], first_index)
        return rngs, prior_states(process, rngs, shape[1:])

    rngs, x = start(rng, first_index)
    return solve(
        score, process, x, solver=solver, grid=grid, rngs=rngs, every=every, project=project
    )


def integrate(
    score: Score,
    process: Process,
    x_start: Array,
    *,
    solver: Solver,
    grid: Grid | None = None,
    rng: Key | None = None,
    first_index: int | Array = 0,
) -> Array:
    """Carries given states from the grid's first time to its last: for a deterministic solver
    the sampler's map from prior to data.

    Args:
        score: (x [B, ...], t [B]) -> [B, ...].
        process: the noising process of the score.
        x_start: [B, ...] states at the first time, t_max unless the grid says otherwise.
        solver: how to step.
        grid: where to step.
        rng: [] key, for stochastic solvers only.
        first_index: see `sample`.
    Returns:
        States at the last time, [B, ...].
    Raises:
        ValueError: as `sample`, and for a stochastic solver without `rng`.
    """
    rngs = None if rng is None else sample_rngs(rng, x_start.shape[0], first_index)
    return solve(score, process, x_start, solver=solver, grid=grid, rngs=rngs)[0]


def solve(
    score: Score,
    process: Process,
    x_start: Array,
    *,
    solver: Solver,
    grid: Grid | None = None,
    rngs: Key | None = None,
    every: int | None = None,
    project: Project | None = None,
) -> tuple[Array, Info]:
    """`integrate` with one key per sample in `rngs` [B], and with the `Info` of `sample`.

    States are carried and returned in float32, or in float64 where they come so.
    """
    if not jnp.issubdtype(x_start.dtype, jnp.floating):
        raise ValueError(f"x_start has dtype {x_start.dtype}: expected floats")
    x_start = x_start.astype(at_least_float32(x_start.dtype))
    if isinstance(solver, Adaptive):
        return _solve_adaptively(score, process, x_start, solver, grid, every, project)
    outline = _checked_outline(solver, process, grid, every)
    if outline.is_stochastic and rngs is None:
        raise ValueError(f"{solver} draws noise: expected a key, got none")

    @jax.jit
    def carry(x: Array, rngs: Key | None) -> tuple[Array, Array | None, Array | None]:
        def draw(row: Array) -> Array:
            row_rngs = _stream(rngs, _NOISE, row)
            return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(row_rngs)

        def hook(x: Array, t: Array, row: Array) -> Array:
            return project(x, t, None if rngs is None else _stream(rngs, _PROJECT, row))

        table = solver_table(solver, process, grid)
        end, path = solver_tables.run(
            table, score, x, draw, project=None if project is None else hook, every=every
        )
        times = (
            None if every is None else solver_tables.kept_times(table, grid.ends(process)[0], every)
        )
        return end, path, times

    end, path, times = carry(x_start, rngs)
    return end, Info(nfe=outline.num_rows, trajectory=path, trajectory_times=times)


def ddim(eta: float | Array = 0.0) -> Solver:
    """DDIM, Song et al. 2021, arXiv:2010.02502: `euler()` at eta = 0, `ancestral()` at eta = 1.

    Raises:
        ValueError: for an eta outside [0, 1].
    """
    if isinstance(eta, (int, float)):
        checks.share("eta", eta)
    if isinstance(eta, (int, float)) and eta == 0:
        return solvers.euler("sigma")
    return stochastic.DDIM(eta=eta)


def solver_table(solver: Solver, process: Process, grid: Grid) -> Table:
    """The whole table of a solver on a grid, the step to zero noise included."""
    times = grid.times(process)
    if not grid.to_zero:
        return solver.table(process, times)
    last = solver_tables.denoise_row(process, times[-1], grid.num_steps)
    if grid.num_steps == 1:  # nothing for the solver to do
        return last
    return solver_tables.join(solver.table(process, times), last)


def sample_rngs(rng: Key, num_samples: int, first_index: int | Array = 0) -> Key:
    """One key per sample, [num_samples]: fold_in(rng, first_index + i)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, first_index + jnp.arange(num_samples))


def prior_states(process: Process, rngs: Key, shape: tuple[int, ...]) -> Array:
    """Draws of the prior, [B, *shape], where `sample` starts with the samples' keys `rngs` [B]."""
    return jax.vmap(lambda key: process.prior_sample(key, shape))(_stream(rngs, _PRIOR))


_PRIOR, _NOISE, _PROJECT = range(3)  # streams of a sample's key


def _solve_adaptively(
    score: Score,
    process: Process,
    x: Array,
    solver: Adaptive,
    grid: Grid | None,
    every: int | None,
    project: Project | None,
) -> tuple[Array, Info]:
    """`solve` without steps of its own: what hangs on the grid's steps is refused."""
    if every is not None or project is not None or (grid is not None and grid.to_zero):
        raise ValueError(f"{solver} has no grid steps: expected no every, project or to_zero")
    start, end = (process.t_max, process.t_min) if grid is None else grid.ends(process)
    x, nfe = jax.jit(lambda x: solve_adaptively(solver, score, process, x, start, end))(x)
    return x, Info(nfe=nfe)


def _stream(rngs: Key, stream: int, row: int | Array = 0) -> Key:
    """The keys [B] of one stream of noise at one row of the table."""
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, stream), row))(rngs)


def _checked_outline(
    solver: Solver, process: Process, grid: Grid | None, every: int | None
) -> Table:
    """The shapes of the solver's table, after all that can be checked before compilation."""
    if not hasattr(solver, "table"):
        raise ValueError(f"solver={solver!r}: expected a solver's value such as samplers.heun()")
    if not isinstance(process, Process):
        raise ValueError(f"process={process!r}: expected a value such as processes.vp()")
    if not isinstance(grid, Grid):
        raise ValueError(f"grid={grid!r}: expected a grid such as samplers.log_snr_grid(40)")
    if every is not None and checks.count("every", every) > grid.num_steps:
        raise ValueError(f"every={every}: expected 1 to num_steps={grid.num_steps}")
    return jax.eval_shape(lambda: solver_table(solver, process, grid))
