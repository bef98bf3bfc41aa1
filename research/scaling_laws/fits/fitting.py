"""Fits of a law to runs, with bootstrap and profile intervals and a report on what they can tell.

    result = fit(laws.chinchilla, data, loss="huber", delta=1e-3)
    boot = bootstrap(laws.chinchilla, data, num_resamples=4000, rng=jax.random.key(0))

Everything is float64 inside, whatever the caller's precision; regressors are centred; the objective
is a sum over runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from library.statistics import intervals
from research.scaling_laws.fits import centring, identifiability
from research.scaling_laws.fits import lanes as solver
from research.scaling_laws.laws import Law
from research.scaling_laws.runs import Runs

DISTINCT = 1e-5  # relative difference of objectives by which two optima are told apart
Unidentifiable = identifiability.Unidentifiable
tails, resample_counts = intervals.tails, intervals.resample_counts
generator = intervals.generator


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to runs.

    Attributes:
        law: what was fitted.
        parameters: {name: value} in the caller's units.
        objective: the sum over runs of Huber's loss of the residuals.
        standard_errors: {name: value}, sandwich estimate H^-1 (sum_n g_n g_n^T) H^-1 with the
            Gauss-Newton H of the runs inside Huber's threshold; nan where
            the optimum determines no curvature.
        optima: [K] objectives of distinct local minima, best first, and how often each was found.
        report: what the runs can tell about the law.
        objectives: [S] objective that each start ended in.
        problem: data and units, for `planning` and `profile`.
        theta: [P] the optimum in centred units, scales as logarithms.
        covariance: [P, P] of theta.
    """

    law: Law
    parameters: dict[str, float]
    objective: float
    standard_errors: dict[str, float]
    optima: list[tuple[float, int]]
    report: identifiability.Report
    objectives: np.ndarray
    problem: centring.Centred
    theta: np.ndarray
    covariance: np.ndarray

    def predict(self, **columns: Any) -> np.ndarray:
        """The law's target at columns given by name, e.g. `predict(parameters=..., tokens=...)`."""
        return self.law.predict(self.parameters, **columns)


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The law fitted to resamples of the runs.

    Attributes:
        fit: the fit to all runs.
        draws: {name: [R]} parameters of each resample.
        objectives: [R] the best objective of each resample.
        thetas: [P, R] the same draws in centred units.
    """

    fit: Fit
    draws: dict[str, np.ndarray]
    objectives: np.ndarray
    thetas: np.ndarray

    @property
    def standard_errors(self) -> dict[str, float]:
        """{name: standard deviation over resamples}."""
        return {name: float(np.std(values)) for name, values in self.draws.items()}

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """{name: (low, high)}, percentile intervals; infinite where a lost resample decides.

        Raises:
            ValueError: if the level is not inside (0, 1).
        """
        return {name: intervals.percentile(draws, level) for name, draws in self.draws.items()}


def fit(
    law: Law,
    runs: Runs,
    *,
    loss: str = "huber",
    delta: float = 1e-3,
    space: str = "log",
    method: str = "projection",
    starts: Sequence[Mapping[str, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    allow_unidentified: bool = False,
) -> Fit:
    """The parameters that minimise sum_n rho(log y_n - log prediction_n) over many starts.

    Args:
        law: one of `laws`.
        runs: the columns that the law needs and its target.
        loss: "huber", or "squared" for least squares.
        delta: Huber's threshold, in nats of log loss (of the loss itself with space="linear").
        space: "log" or "linear": residuals of the logarithm or of the target.
        method: "projection" starts from a grid over the exponents only, the coefficients
            eliminated by a fit at each grid point (variable projection), and then moves all by
            damped Newton steps. "newton" takes all parameters from `starts`. "bfgs" runs SciPy's
            BFGS from each start with its own stopping rule: the reference, which stops early.
        starts: parameters in the caller's units; "projection" adds them to its grid.
        fixed: parameters that are held, in the caller's units.
        allow_unidentified: fit, with a warning, also what the runs cannot tell.
    Returns:
        `Fit`.
    Raises:
        ValueError: for a column that the runs lack, too few runs, an unknown option.
        Unidentifiable: where all runs share one ratio D / N.
    """
    problem = centring.centre(law, runs, loss, delta, space, fixed or {})
    report = identifiability.before(law, runs, allow_unidentified)
    if method not in ("projection", "newton", "bfgs"):
        raise ValueError(f"method={method!r}: expected 'projection', 'newton' or 'bfgs'")
    if method != "projection" and not starts:
        raise ValueError(f"method={method!r} needs starts")
    given = [problem.with_fixed(problem.theta_of(start)) for start in starts or ()]
    grid = _projected(problem) if method == "projection" else np.empty((len(law.names), 0))
    thetas = np.concatenate([np.array(given).reshape(-1, len(law.names)).T, grid], 1)  # [P, S]
    weights = np.ones((1, len(runs)))
    if method == "bfgs":
        solution = _bfgs(problem, thetas)
    else:
        solution = solver.solve(problem.solver, thetas, weights, np.zeros(thetas.shape[1], int))
    return _finish(problem, report, solution)


def bootstrap(
    law: Law,
    runs: Runs,
    num_resamples: int,
    rng: Any,
    *,
    num_starts: int = 2,
    **options: Any,
) -> Bootstrap:
    """Fits to `num_resamples` resamples of the runs, each the best of several starts.

    Args:
        law, runs: as for `fit`.
        num_resamples: how many.
        rng: a JAX key, a NumPy generator or a seed.
        num_starts: starts a resample: the distinct optima of the fit to all runs first, then the
            best points of the projected grid.
        options: as for `fit`.
    Returns:
        `Bootstrap`.
    Raises:
        ValueError: as `fit`, and for counts below 1.
    """
    if num_resamples < 1 or num_starts < 1:
        raise ValueError(
            f"num_resamples={num_resamples}, num_starts={num_starts}: expected at least 1"
        )
    whole = fit(law, runs, **options)
    counts = resample_counts(rng, len(runs), num_resamples)  # [R, n]
    starts = restarts(whole, num_starts)  # [P, K]
    return bootstrap_from(whole, counts, starts)


def bootstrap_from(whole: Fit, counts: np.ndarray, starts: np.ndarray) -> Bootstrap:
    """The bootstrap of a fit by given counts [R, n] from given starts [P, K] in centred units."""
    num_resamples, num_starts = len(counts), starts.shape[1]
    lanes_of = np.tile(np.arange(num_resamples), num_starts)
    thetas = np.repeat(starts, num_resamples, axis=1)  # [P, K R]
    solution = solver.solve(whole.problem.solver, thetas, counts, lanes_of)
    objectives = solution.objective.reshape(num_starts, num_resamples)
    best = np.argmin(objectives, 0)
    lanes = best * num_resamples + np.arange(num_resamples)
    thetas = solution.theta[:, lanes]
    return Bootstrap(whole, whole.problem.parameters_of(thetas), objectives.min(0), thetas)


def restarts(result: Fit, count: int) -> np.ndarray:
    """[P, K] starts: the optimum, the other optima of the fit, then points of the grid."""
    found = [result.theta[:, None]] + [theta[:, None] for theta in result.problem.others[:count]]
    theta = np.concatenate(found, 1)[:, :count]
    for refined in range(4):  # each time the exponents between those of the grid before
        missing = count - theta.shape[1]
        if missing > 0:
            theta = np.concatenate([theta, _projected(result.problem, refined)[:, :missing]], 1)
    return theta


def _projected(problem: centring.Centred, refined: int = 0) -> np.ndarray:
    """[P, G] the grid over the exponents, best first, with the scales fitted at each point.

    A grid that is refined holds the points that were not in the one before.
    """
    law, fixed = problem.law, problem.fixed
    axes = [(fixed[shape.name],) if shape.name in fixed else shape.grid for shape in law.shapes]
    level = float(np.mean(np.log(np.maximum(problem.raw_target, 1e-300))))
    before: set = set()
    for _ in range(refined):
        before |= set(itertools.product(*axes))
        axes = [sorted({*axis, *((a + b) / 2 for a, b in zip(axis, axis[1:]))}) for axis in axes]
    thetas = []
    for values in itertools.product(*axes):
        if values in before:
            continue
        shapes = dict(zip((shape.name for shape in law.shapes), values))
        scales = [float(scale.start(shapes, level)) for scale in law.scales]
        thetas.append(problem.with_fixed(np.array(scales + list(values), float)))
    if not thetas:
        return np.empty((len(law.names), 0))
    thetas = np.array(thetas).T  # [P, G]
    scales_only = problem.solver.free & (np.arange(len(law.names)) < len(law.scales))
    held = dataclasses.replace(problem.solver, free=scales_only)
    # Few and short steps: where a term wants to vanish, the start keeps some of it.
    weights, row = np.ones((1, len(problem.raw_target))), np.zeros(thetas.shape[1], int)
    solution = solver.solve(held, thetas, weights, row, max_iterations=36, far=False)
    return solution.theta[:, np.argsort(solution.objective)]


def _bfgs(problem: centring.Centred, starts: np.ndarray) -> solver.Solution:
    """SciPy's BFGS in the parameters (log scales, shapes) of the caller's own units."""
    import scipy.optimize  # here, as this reference alone needs it

    plain = problem.uncentred()
    value = solver.value_and_gradient(plain.solver)
    ends = [
        scipy.optimize.minimize(value, theta, jac=True, method="BFGS")
        for theta in plain.parameters_from(problem, starts).T
    ]
    theta = np.stack([end.x for end in ends], 1)
    return solver.Solution(
        problem.parameters_from(plain, theta),
        np.array([end.fun for end in ends]),
        np.array([end.success for end in ends]),
        np.array([end.nit for end in ends]),
    )


def _finish(
    problem: centring.Centred, report: identifiability.Report, solution: solver.Solution
) -> Fit:
    order = np.argsort(solution.objective)
    best = order[0]
    if not np.isfinite(solution.objective[best]):
        raise ValueError(f"{problem.law.name}: no start has a finite objective")
    optima, thetas = [], []
    for lane in order:
        value = float(solution.objective[lane])
        if not np.isfinite(value):
            break
        if optima and value - optima[-1][0] <= DISTINCT * abs(optima[-1][0]):
            optima[-1] = (optima[-1][0], optima[-1][1] + 1)
        elif len(optima) < 64:
            optima.append((value, 1))
            thetas.append(solution.theta[:, lane])
    theta = solution.theta[:, best]
    problem = dataclasses.replace(problem, others=tuple(thetas[1:]))
    residuals, jacobian, matrix = solver.curvature(problem.solver, theta)
    report = identifiability.after(report, jacobian[:, problem.solver.free])
    if report.rank < problem.solver.free.sum():
        warnings.warn(report.message, identifiability.IdentifiabilityWarning, stacklevel=3)
    covariance = _sandwich(problem.solver, residuals, jacobian, matrix)
    named = problem.parameters_of(theta[:, None])
    errors = problem.errors_of(theta, covariance)
    return Fit(
        law=problem.law,
        parameters={name: float(values[0]) for name, values in named.items()},
        objective=float(solution.objective[best]),
        standard_errors=errors,
        optima=optima,
        report=report,
        objectives=solution.objective,
        problem=problem,
        theta=theta,
        covariance=covariance,
    )


def _sandwich(
    problem: solver.Problem, residuals: np.ndarray, jacobian: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    """[P, P]; zero for parameters that are held, nan where the Hessian is singular."""
    free = np.flatnonzero(problem.free)
    covariance = np.zeros_like(matrix)
    pull = np.clip(residuals, -problem.delta, problem.delta)
    scores = jacobian[:, free] * pull[:, None]  # [n, F]
    block = np.ix_(free, free)
    try:
        inverse = np.linalg.inv(matrix[block])
    except np.linalg.LinAlgError:
        inverse = np.full((len(free), len(free)), np.nan)
    correction = len(residuals) / max(len(residuals) - len(free), 1)
    covariance[block] = correction * inverse @ (scores.T @ scores) @ inverse
    return covariance
