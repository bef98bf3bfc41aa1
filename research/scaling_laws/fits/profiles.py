"""Profile likelihood: how the best objective rises as one parameter is held away from its optimum.

Where an optimum is flat or several are close, standard errors say little and a profile shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from research.scaling_laws.fits import lanes
from research.scaling_laws.fits.fitting import Fit, restarts, tails

REACH, STEPS = 12.0, 49  # standard errors that an interval may reach, and points on the way


def profile(
    result: Fit, name: str, values: Sequence[float], num_starts: int = 8
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """The lowest objective with one parameter held at each of some values.

    Args:
        result: a fit.
        name: the parameter.
        values: [V] where it is held, in the caller's units.
        num_starts: starts a value: optima of the fit and points of its grid.
    Returns:
        Objectives [V], and the parameters there.
    """
    values = np.asarray(values, float)
    centred = result.problem.holding(name)
    starts = centred.parameters_from(result.problem, restarts(result, num_starts))  # [P, K]
    row = result.law.names.index(name)
    held = np.array([centred.theta_of({**result.parameters, name: v})[row] for v in values])
    thetas = np.repeat(starts[:, None, :], len(values), 1)  # [P, V, K]
    thetas[row] = held[:, None]
    flat = thetas.reshape(len(thetas), -1)
    solution = lanes.solve(
        centred.solver, flat, np.ones((1, len(centred.solver.targets))),
        np.zeros(flat.shape[1], int),
    )  # fmt: skip
    table = solution.objective.reshape(len(values), -1)
    best = np.argmin(table, 1) + np.arange(len(values)) * table.shape[1]
    objectives = table.min(1)
    named = centred.parameters_of(solution.theta[:, best])
    found = [{k: float(v[i]) for k, v in named.items()} for i in range(len(values))]
    return objectives, found


def profile_interval(result: Fit, name: str, level: float = 0.95) -> tuple[float, float]:
    """Likelihood interval of one parameter from its profile: all values whose objective is close.

    With the residuals' scale profiled out, a least-squares fit of n runs has the likelihood ratio
    n log(objective / best); with Huber's loss the same holds for the Laplace-like tails with 2 n.
    An end that lies outside exp(+-12 standard errors) of the estimate is returned as 0 or inf.

    Args:
        result: a fit.
        name: the parameter.
        level: coverage.
    Returns:
        (low, high).
    """
    import scipy.stats  # here: it takes as long to import as the whole topic

    tails(level)
    count, best = len(result.problem.solver.targets), result.objective
    factor = count if math.isinf(result.problem.solver.delta) else 2 * count
    bound = best * math.exp(scipy.stats.chi2.ppf(level, 1) / factor)
    centre, error = result.parameters[name], result.standard_errors[name]
    width = error / abs(centre) if error == error and error > 0 else 0.1
    ends = []
    for sign in (-1, 1):
        steps = np.linspace(0, REACH, STEPS)[1:] * sign * min(width, 0.5)
        values = centre * np.exp(steps)
        objectives, _ = profile(result, name, values)
        outside = np.flatnonzero(objectives > bound)
        if not len(outside):
            ends.append(0.0 if sign < 0 else math.inf)
            continue
        last = outside[0]
        low_x, low_y = (steps[last - 1], objectives[last - 1]) if last else (0.0, best)
        share = (bound - low_y) / (objectives[last] - low_y)
        ends.append(float(centre * np.exp(low_x + share * (steps[last] - low_x))))
    return ends[0], ends[1]
