"""The ways to inpaint: a score, a solver, and whether what is seen is put back at every step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from library.types import Array, Key
from research.diffusion import inverse_problems, processes, samplers
from research.diffusion.predictions import Score
from research.diffusion.sampling.solvers import Solver

PROCESS = processes.vp()
BIASED = ("guidance", "replacement", "replacement_pc")
NAMES = ("exact", "guidance_true_covariance", *BIASED)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to sample given y: a score, a solver, and whether the seen part is replaced."""

    score: Score
    solver: Solver
    replaces: bool = False


def on_problem(
    names: Sequence[str],
    prior: Score,
    exact: Score,
    measurement: inverse_problems.Measurement,
    covariance: np.ndarray | None,
) -> dict[str, Method]:
    """The methods of those names on one problem.

    Args:
        names: in `NAMES`.
        prior: score of the whole.
        exact: score of it given the measurement.
        measurement: which parts are seen, and their values.
        covariance: of the whole, for guidance by the true one; without it that method is left out.
    """
    predictor = samplers.reverse_diffusion()
    corrected = samplers.predictor_corrector(predictor, samplers.langevin(0.2, measured=False))
    guide = functools.partial(inverse_problems.posterior_mean_guidance, PROCESS, prior, measurement)
    methods = {
        "exact": Method(exact, predictor),
        "guidance": Method(guide(), predictor),
        "replacement": Method(prior, predictor, replaces=True),
        "replacement_pc": Method(prior, corrected, replaces=True),
    }
    if covariance is not None:
        at = inverse_problems.gaussian_covariance(PROCESS, covariance, measurement)
        methods["guidance_true_covariance"] = Method(guide(covariance=at), predictor)
    return {name: methods[name] for name in names if name in methods}


def draw(
    method: Method,
    measurement: inverse_problems.Measurement,
    dim: int,
    grid: samplers.Grid,
    num_draws: int,
) -> np.ndarray:
    """Samples [num_draws, dim] of one method."""
    hook = inverse_problems.replacement(PROCESS, measurement) if method.replaces else None
    options = {"solver": method.solver, "grid": grid, "project": hook}

    @jax.jit
    def samples(rng: Key) -> Array:
        return samplers.sample(method.score, PROCESS, rng, (num_draws, dim), **options)[0]

    return np.asarray(samples(jax.random.key(0)))
