"""Orders of stochastic solvers: weak by the recursion of moments, strong on the same paths."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from experiments.score_sde.orders import problems
from experiments.score_sde.orders.problems import MEAN, PROCESS, THEORY
from library import claims
from library.types import Array
from research.diffusion import moments, samplers, solver_tables

END = 0.1  # time at which the solvers are compared
SOLVERS = {
    "euler_maruyama": samplers.euler_maruyama(),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "ancestral": samplers.ancestral(),
}


def orders(names: Sequence[str], num_doublings: int, num_paths: int) -> claims.Result:
    """Weak orders of some of `SOLVERS` from 1 to `END`, and the strong order of Euler-Maruyama.

    Args:
        names: in `SOLVERS`.
        num_doublings: of the number of steps.
        num_paths: Brownian paths on which the strong order is measured.
    """
    variances = jnp.diag(jnp.asarray(problems.COVARIANCE))
    sizes = [128 * 2**k for k in range(num_doublings + 1)]
    start, exact = _moments_at(PROCESS.t_max, variances), _moments_at(END, variances)
    metrics, stated = {}, []
    for name in names:
        grids = [samplers.uniform_grid(size, t_end=END) for size in sizes]
        stacked = _exact.stacked_tables(SOLVERS[name], PROCESS, grids, sizes[-1])
        laws = problems.moments_after(PROCESS, stacked, jnp.asarray(MEAN), variances, start)
        gaps = np.array([moments.wasserstein(*law, *exact) for law in zip(*laws)])
        slopes = np.log2(gaps[:-1] / gaps[1:])
        metrics[f"weak_slope_{name}"] = float(slopes[-1])
        stated.append(
            claims.largest(f"{name}: weak slope - 1 at any doubling", slopes - 1, 0.15, THEORY)
        )
    slopes = _strong_slopes(num_paths, num_doublings)
    metrics["strong_slope_euler_maruyama"] = float(slopes[-1])
    name = "euler_maruyama: strong slope - 1 at any doubling"
    return claims.Result(metrics, [*stated, claims.largest(name, slopes - 1, 0.15, THEORY)])


def _moments_at(t: float, variances: Array) -> tuple[Array, Array]:
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return alpha * MEAN, alpha**2 * variances + sigma**2


def _strong_slopes(num_paths: int, num_doublings: int) -> np.ndarray:
    """Slopes of the pathwise distance between neighbouring step sizes on the same noise."""
    score, finest = problems.laws()[0], 32 * 2**num_doublings
    brownian = jax.random.normal(jax.random.key(0), (finest, num_paths, 2))
    x = jax.random.normal(jax.random.key(1), (num_paths, 2))

    @functools.partial(jax.jit, static_argnums=0)
    def end_states(size: int) -> Array:
        noise = brownian.reshape(size, -1, num_paths, 2).sum(1) / np.sqrt(finest // size)
        grid = samplers.uniform_grid(size, t_end=END)
        table = samplers.solver_table(samplers.euler_maruyama(), PROCESS, grid)
        return solver_tables.run(table, score, x, lambda row: noise[row])[0]

    states = [np.asarray(end_states(finest // 2**k)) for k in range(num_doublings + 1)]
    gaps = np.array([np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(states[1:], states[:-1])])
    return np.log2(gaps[1:] / gaps[:-1])
