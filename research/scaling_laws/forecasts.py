"""The loss of runs that have not been made, each with an interval that past predictions calibrate.

Three things go wrong between a fitted law and a larger run: the parameters are uncertain (resampled
runs), a single run is noisy (residuals), and the law is not quite true beyond the runs. The last
shows only in predictions: the largest runs are predicted from smaller ones, and where those errors
exceed what the first two explain, every interval is widened by their ratio. What a wrong law does
grows with the distance, so the past predictions should reach as far as the one to come.

A fit of p parameters to n runs leaves residuals that are too small by (1 - p / n)^1/2, so resamples
of the runs vary too little by as much. Their spread is widened by (n / (n - p))^1/2, as are the
standard errors of `fitting.fit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.scaling_laws.fits import fitting
from research.scaling_laws.laws import Law
from research.scaling_laws.runs import Runs


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predictions with intervals.

    Attributes:
        boot: the law, fitted to all runs and to resamples of them.
        predicted: [M] the law's target.
        low, high: [M] where a single run falls with probability `level`.
        parameters: {name: (low, high)} of the law, widened alike: see `intervals`.
        residual: standard deviation of log residuals of the fit.
        inflation: >= 1, by how much the largest runs, predicted from the others, were further off
            than resampling and residuals explain.
        level: coverage aimed at.
    """

    boot: fitting.Bootstrap
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    parameters: dict[str, tuple[float, float]]
    residual: float
    inflation: float
    level: float


def forecast(
    law: Law,
    runs: Runs,
    targets: Mapping[str, Any],
    *,
    num_resamples: int,
    rng: Any,
    level: float = 0.95,
    by: str = "flops",
    share: float = 0.5,
    distance: float | None = None,
    **options: Any,
) -> Forecast:
    """Predicts runs at given columns.

    Args:
        law, runs: as for `fitting.fit`.
        targets: the law's columns of the runs to come, [M] each.
        num_resamples, rng: of the bootstrap.
        level: coverage of the intervals.
        by, share: the past predictions are those of the runs whose column `by` is at least
            `share` of its maximum, from all others;
        distance: if given, >= 1 / share, from those only that are smaller than the maximum by this
            factor or more.
        options: as for `fitting.fit`.
    Returns:
        `Forecast`.
    Raises:
        ValueError: as `fitting.bootstrap`, and if no run is left to fit or none to predict.
    """
    low, high = fitting.tails(level)
    size = runs.column(by)
    large, small = _split(law, size, share, distance, by)
    past = fitting.bootstrap(law, runs.take(small), num_resamples, rng, **options)
    known = {name: runs.column(name)[large] for name in law.columns}
    centre, spread = _spread(past, known, rng)
    errors = np.log(runs.column(law.target)[large]) - centre
    inflation = max(1.0, float(np.sqrt(np.mean((errors / spread.std(1)) ** 2))))

    boot = fitting.bootstrap(law, runs, num_resamples, rng, **options)
    columns = {name: np.atleast_1d(np.asarray(targets[name], float)) for name in law.columns}
    centre, spread = _spread(boot, columns, rng)
    ends = centre[:, None] + inflation * np.quantile(spread, [low, high], axis=1).T  # [M, 2]
    with np.errstate(over="ignore"):  # an upper end may be infinite
        ends = np.exp(ends)
    return Forecast(
        boot=boot,
        predicted=np.exp(centre),
        low=ends[:, 0],
        high=ends[:, 1],
        parameters=intervals(boot, level, inflation),
        residual=residual(boot.fit),
        inflation=inflation,
        level=level,
    )


def intervals(
    boot: fitting.Bootstrap, level: float = 0.95, inflation: float = 1.0
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of the law's parameters, widened for the parameters that were fitted.

    Args:
        boot: the law, fitted to resamples.
        level: coverage aimed at.
        inflation: by how much more they are widened; in the logarithm where all is positive.
    Raises:
        ValueError: if the level is not inside (0, 1).
    """
    factor, point = inflation * _lost_freedom(boot.fit), boot.fit.parameters
    return {
        name: tuple(_widened(point[name], end, factor) for end in pair)
        for name, pair in boot.interval(level).items()
    }


def residual(fit: fitting.Fit) -> float:
    """Standard deviation of log(measured / fitted), by n less the parameters that are free."""
    problem = fit.problem
    columns = {n: np.exp(c + problem.log_unit[n]) for n, c in problem.solver.columns.items()}
    gap = np.log(problem.raw_target / fit.predict(**columns))
    return float(np.sqrt(np.mean(gap**2))) * _lost_freedom(fit)


def _lost_freedom(fit: fitting.Fit) -> float:
    """(n / (n - p))^1/2 of n runs and p parameters that are free."""
    count, free = len(fit.problem.raw_target), int(fit.problem.solver.free.sum())
    return float(np.sqrt(count / max(count - free, 1)))


def _split(
    law: Law, size: np.ndarray, share: float, distance: float | None, by: str
) -> tuple[np.ndarray, np.ndarray]:
    """[n] bool each: the runs that past predictions are of, and those that they are made from."""
    if distance is not None and not distance * share >= 1:
        raise ValueError(f"distance={distance}: less than 1 / share = {1 / share:g}")
    large = size >= share * size.max()
    small = ~large if distance is None else size * distance <= size.max() * (1 + 1e-9)
    if not len(law.names) < small.sum() < len(size):  # as many pass through every resample
        limit = f"below {share}" if distance is None else f"at most 1/{distance:g}"
        raise ValueError(
            f"{small.sum()} of {len(size)} runs have {by} {limit} of the largest: "
            f"{law.name} needs more than {len(law.names)} there, and a larger run to predict"
        )
    return large, small


def _spread(
    boot: fitting.Bootstrap, columns: Mapping[str, np.ndarray], rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """log of the prediction [M], and of a single new run about it, [M, R] draws."""
    fit = boot.fit
    point = np.log(fit.predict(**columns))
    wide = {name: values[:, None] for name, values in columns.items()}
    # By logarithms of the coefficients: those of a lost resample may exceed every float.
    theta = fit.problem.uncentred().parameters_from(fit.problem, boot.thetas)  # [P, R]
    with jax.enable_x64(True):
        named = {name: jnp.asarray(theta[i])[None] for i, name in enumerate(fit.law.names)}
        logs = {name: jnp.log(jnp.asarray(values)) for name, values in wide.items()}
        drawn = np.asarray(fit.law.log_value(named, logs))  # [M, R]
    normal = fitting.generator(rng).standard_normal(drawn.shape)
    return point, _lost_freedom(fit) * (drawn - point[:, None]) + residual(fit) * normal


def _widened(point: float, end: float, factor: float) -> float:
    """The end of an interval, moved away from the point; in the logarithm where there is one."""
    if not (point > 0 and end > 0):
        return float(point + factor * (end - point))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ends; nan about infinity
        return float(np.exp(np.log(point) + factor * (np.log(end) - np.log(point))))
