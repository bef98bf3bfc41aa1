"""What `orders` measures: the solvers with their orders, and two laws of known flow."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from library import claims
from library.types import Array
from research.diffusion import moments, oracles, processes, samplers, solver_tables
from research.diffusion.sampling.solvers import Solver

PROCESS = processes.vp()
SPAN = (0.3, 0.25)  # times between which methods of first order are measured
MEAN, COVARIANCE = np.array([0.3, -0.2]), np.array([[0.25, 0.1], [0.1, 0.5]])
WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], np.array([[-0.5], [0.6]]), [0.25, 0.1]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A solver and its order in theory.

    Attributes:
        solver: the solver.
        order: of its error on smooth densities.
        most: number of steps from which on rounding shows.
        on_gaussians: order on Gaussians, None for the same. The midpoint method in sigma has the
            leading error h^3 (y''' + 3 f_y y'')/24, which is zero on y = sqrt(s^2 + sigma^2).
    """

    solver: Solver
    order: int
    most: int = 8192
    on_gaussians: int | None = None


SOLVERS = {
    "euler": Entry(samplers.euler(), 1),
    "euler_time": Entry(samplers.euler("time"), 1),
    "euler_log_snr": Entry(samplers.euler("log_snr"), 1),
    "reverse_flow": Entry(samplers.reverse_diffusion(flow=True), 1),
    "heun": Entry(samplers.heun(), 2),
    "heun_time": Entry(samplers.heun("time"), 2),
    "heun_log_snr": Entry(samplers.heun("log_snr"), 2),
    "midpoint": Entry(samplers.midpoint(), 2, on_gaussians=3),
    "midpoint_log_snr": Entry(samplers.midpoint("log_snr"), 2),
    "dpm_2": Entry(samplers.dpm_solver(2), 2),
    "dpm_pp_2s": Entry(samplers.dpm_solver(2, "data"), 2),
    "dpm_pp_2m": Entry(samplers.dpm_solver_pp(2), 2),
    "unipc_1": Entry(samplers.unipc(1), 2),
    "dpm_3": Entry(samplers.dpm_solver(3), 3, 2048),
    "dpm_pp_3s": Entry(samplers.dpm_solver(3, "data"), 3, 2048),
    "dpm_pp_3m": Entry(samplers.dpm_solver_pp(3), 3),
    "unipc_2": Entry(samplers.unipc(2), 3),
    "unipc_3": Entry(samplers.unipc(3), 4),
    "rk4": Entry(samplers.rk4(), 4, 2048),
    "rk4_time": Entry(samplers.rk4("time"), 4, 2048),
    "rk4_log_snr": Entry(samplers.rk4("log_snr"), 4, 2048),
}
THEORY = claims.theorem("order of the method")


@functools.cache
def laws() -> tuple[oracles.Gaussian, oracles.Mixture]:
    """The two laws: a Gaussian in the plane, a mixture on the line."""
    return (
        oracles.gaussian(PROCESS, MEAN, COVARIANCE),
        oracles.mixture(PROCESS, WEIGHTS, MEANS, VARIANCES),
    )


def _score(x: Array, t: Array) -> Array:
    """Both laws at once, [8, 2]: four states of the Gaussian, then eight of the mixture."""
    gaussian, mixture = laws()
    line = mixture(x[4:].reshape(8, 1), jnp.repeat(t[4:], 2))
    return jnp.concatenate([gaussian(x[:4], t[:4]), line.reshape(4, 2)])


_run = jax.jit(lambda stacked, x: _exact.ends(stacked, _score, x))


@functools.cache
def _problem(t_from: float, t_to: float) -> tuple[np.ndarray, np.ndarray]:
    """Start states [8, 2] and their exact ends."""
    gaussian, mixture = laws()
    x = np.random.default_rng(0).normal(size=(8, 2))
    first = gaussian.transport(jnp.asarray(x[:4]), t_from, t_to)
    second = oracles.mixture_flow(mixture, x[4:].ravel(), t_from, t_to)
    return x, np.concatenate([first, second.reshape(4, 2)])


def errors_on(
    entry: Entry, sizes: list[int], span: tuple[float, float], num_rows: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    """Evaluations of the score, and the RMSE on each law, for every number of steps.

    Args:
        entry: the solver.
        sizes: G numbers of steps.
        span: first and last time.
        num_rows: evaluations that the longest table is filled up to, for one compilation.
    Returns:
        [G] evaluations, and [G] errors by law.
    """
    # rho = 4: near 7 the leading error of DPM-Solver-3 vanishes on this Gaussian by accident, on
    # steps of equal log-SNR that of 3M, and such luck would pass for a higher order
    grids = [samplers.karras_grid(n, rho=4.0, t_start=span[0], t_end=span[1]) for n in sizes]
    x, exact = _problem(*span)
    ends = _run(_exact.stacked_tables(entry.solver, PROCESS, grids, num_rows), jnp.asarray(x))
    square = np.mean((np.asarray(ends) - exact) ** 2, -1)  # [G, 8]
    rows = {"gaussian": slice(0, 4), "mixture": slice(4, 8)}
    errors = {law: np.sqrt(square[:, part].mean(1)) for law, part in rows.items()}
    return [_exact.num_rows(entry.solver, PROCESS, grid) for grid in grids], errors


@functools.partial(jax.jit, static_argnums=0)
def moments_after(
    process: processes.Process,
    stacked: solver_tables.Table,
    mean: Array,
    variance: Array,
    start: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Mean and variance [G, D] after each of G tables, whose data are N(mean, variance)."""

    def after(table: solver_tables.Table) -> tuple[Array, Array]:
        score = moments.linear_score(process, table.time, mean, variance)
        return moments.push(table, *start, *score)

    return jax.vmap(after)(stacked)
