"""Moments of predictors and correctors on a random field; the score is wrong by a known factor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.diffusion import moments, samplers
from research.diffusion.processes import Process
from research.diffusion.sampling.solvers import Solver

PREDICTORS = {
    "ancestral": samplers.ancestral(),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "flow": samplers.reverse_diffusion(flow=True),
}
BUMP_CENTRE, BUMP_WIDTH = -1.2 + np.log(2), 1.2  # of ln(sigma/alpha) in units of the data's std

Samplers = Mapping[str, tuple[Solver, int]]  # solver and number of steps by column of the table


@dataclasses.dataclass(frozen=True)
class Setting:
    """A process with the data range and the last time that the paper uses with it.

    Attributes:
        process: the process.
        data_std: of a pixel; the range is [0, 1] for VE, [-1, 1] for VP.
        t_end: last noisy time.
        delta: relative error of the score at the bump, for the table.
    """

    process: Process
    data_std: float
    t_end: float
    delta: float


def samplers_of(predictors: Sequence[str], num_steps: int, snr: float) -> Samplers:
    """Every column of the table: C2000, and P1000, P2000 and PC1000 of each predictor.

    Args:
        predictors: names in `PREDICTORS`.
        num_steps: of P1000 and PC1000; the others take twice as many.
        snr: of the corrector.
    """
    corrector = samplers.langevin(snr, measured=False)
    columns = {"C2000": (corrector, 2 * num_steps)}
    for name in predictors:
        predictor = PREDICTORS[name]
        both = samplers.predictor_corrector(predictor, corrector)
        columns[f"P1000_{name}"] = predictor, num_steps
        columns[f"P2000_{name}"] = predictor, 2 * num_steps
        columns[f"PC1000_{name}"] = both, num_steps
    return columns


def distances(
    columns: Samplers, setting: Setting, size: int, deltas: np.ndarray
) -> dict[str, np.ndarray]:
    """Squared Frechet distance to the data over the data's total variance, [D] by column.

    Args:
        columns: the samplers.
        setting: the process.
        size: pixels along a side of the field.
        deltas: [D], relative errors of the score.
    """
    variances, counts = _spectrum(size, setting)
    mean = np.zeros_like(variances)

    def distance(solver: Solver, num_steps: int, delta: Array) -> Array:
        def perturb(t: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
            factor = _factor(setting, t, delta)
            return factor * slope, factor * offset

        grid = _grid(setting, num_steps)
        _, sampled = moments.sampled(
            solver, setting.process, grid, mean, variances, perturb=perturb
        )
        gaps = (jnp.sqrt(sampled) - np.sqrt(variances)) ** 2
        return jnp.sum(counts * gaps) / np.sum(counts * variances)

    found = {}
    for name, (solver, num_steps) in columns.items():
        of_delta = functools.partial(distance, solver, num_steps)
        found[name] = np.asarray(jax.jit(jax.vmap(of_delta))(deltas))
    return found


def deviation_of_samples(columns: Samplers, setting: Setting, size: int, num: int) -> float:
    """Largest deviation of sampled mean and variance from the recursion, in standard errors.

    Args:
        columns: the samplers that are run.
        setting: the process, with the score's error.
        size: pixels along a side of the field.
        num: samples of each.
    """
    variances, _ = _spectrum(size, setting)
    variances = variances[:: max(1, len(variances) // 8)]  # as many as are worth the time
    mean = np.zeros_like(variances)
    shape, process = (num, len(mean)), setting.process

    def wrong(t: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
        factor = _factor(setting, t, setting.delta)
        return factor * slope, factor * offset

    def score(x: Array, t: Array) -> Array:
        slope, offset = moments.linear_score(
            process, t[:1], jnp.asarray(mean), jnp.asarray(variances)
        )
        slope, offset = wrong(t[:1], slope, offset)
        return slope * x + offset

    def both(solver: Solver, grid: samplers.Grid, rng: Array) -> tuple[Array, tuple]:
        draws, _ = samplers.sample(score, process, rng, shape, solver=solver, grid=grid)
        return draws, moments.sampled(solver, process, grid, mean, variances, perturb=wrong)

    deviations = []
    for solver, num_steps in columns.values():
        run = jax.jit(functools.partial(both, solver, _grid(setting, num_steps)))
        draws, (expected, spread) = run(jax.random.key(0))
        deviations += [np.abs((draws.mean(0) - expected) / np.sqrt(spread / num)).max()]
        deviations += [np.abs((draws.var(0) / spread - 1) / np.sqrt(2 / num)).max()]
    return float(max(deviations))


def _grid(setting: Setting, num_steps: int) -> samplers.Grid:
    """The published grid: equal steps in t, and a last step that removes the noise."""
    return samplers.uniform_grid(num_steps + 1, to_zero=True, t_end=setting.t_end)


def _spectrum(size: int, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the field's modes that differ, [D], and how often each occurs."""
    frequency = np.fft.fftfreq(size, 1 / size)
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None]), 1.0)
    values, counts = np.unique(np.round(radius**2, 6), return_counts=True)
    return setting.data_std**2 * counts.sum() / np.sum(counts / values) / values, counts


def _factor(setting: Setting, t: Array, delta: Array) -> Array:
    """1 + delta b: the wrong factor of the score at times t [R], [R, 1]."""
    level = -0.5 * setting.process.log_snr(t) - np.log(setting.data_std)
    bump = jnp.exp(-0.5 * ((level - BUMP_CENTRE) / BUMP_WIDTH) ** 2)
    return (1 + delta * bump)[:, None]
