"""Approaches 1 and 2 of Hoffmann et al. 2022: optimal sizes read off runs without a loss surface.

Approach 1 takes the lower envelope of loss curves over compute, approach 2 the minimum of each
IsoFLOP profile; both then fit N ~ k C^a through the minima.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from library.statistics import intervals
from library.statistics.power_law import PowerLaw, fit
from research.scaling_laws.runs import Runs, warn_of_units

SAME_BUDGET = 0.02  # relative difference up to which two budgets are one


def power_law(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> PowerLaw:
    """Least squares of log y = exponent log x + log coefficient; see `power_law.fit`.

    Args:
        x, y: [M] positive, at two x or more.
        weights: [M] of the squares, one each when None.
    Raises:
        ValueError: if there are fewer than two different x, or a point is not positive and finite.
    """
    return fit(x, y, np.ones(len(x)) if weights is None else weights)


@dataclasses.dataclass(frozen=True)
class Minima:
    """The optimum of each budget.

    Attributes:
        flops, parameters, tokens, loss: [M] the optimum of each budget.
        skipped: budgets whose minimum lies at the end of their profile: no optimum is in the data.
    """

    flops: np.ndarray
    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    skipped: tuple[float, ...]


def isoflop_minima(
    runs: Runs, interpolation: str = "akima", same_budget: float = SAME_BUDGET
) -> Minima:
    """Approach 2: the size with the lowest loss at each budget.

    Args:
        runs: parameters, tokens, flops and loss; of runs of one size and budget the best counts.
        same_budget: relative difference in flops up to which two neighbours are of one budget.
        interpolation: "akima", of log loss in log N (Porian et al. 2024, arXiv:2406.19146), or
            "parabola", of the loss by least squares (Hoffmann et al. 2022).
    Raises:
        ValueError: if fewer than two budgets have an optimum inside their profile (three sizes or
            more, the lowest loss not at an end), or an option does not fit.
    """
    if interpolation not in ("akima", "parabola"):
        raise ValueError(f"interpolation={interpolation!r}: expected 'akima' or 'parabola'")
    if not 0 <= same_budget < 1:
        raise ValueError(f"same_budget={same_budget}: expected a share in [0, 1)")
    warn_of_units(runs, stacklevel=3)
    find = _akima_minimum if interpolation == "akima" else _parabola_minimum
    rows, skipped = [], []
    for members in budgets(runs.column("flops"), same_budget):
        budget = float(np.exp(np.mean(np.log(runs.flops[members]))))
        log_n, loss = _profile(np.log(runs.column("parameters")[members]), runs.loss[members])
        found = find(log_n, loss) if len(log_n) >= 3 else None
        if found is None:
            skipped.append(budget)
            continue
        # Tokens at the optimum by interpolation: their convention need not be C / 6 N.
        order = np.argsort(runs.parameters[members])
        log_d = np.interp(found[0], np.log(runs.parameters[members])[order],
                          np.log(runs.column("tokens")[members])[order])  # fmt: skip
        rows.append((budget, np.exp(found[0]), np.exp(log_d), found[1]))
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} of {len(rows) + len(skipped)} budgets have an optimum inside their "
            "profile of three sizes or more: expected two"
        )
    return Minima(*np.array(rows).T, tuple(skipped))


def budgets(flops: np.ndarray, same_budget: float = SAME_BUDGET) -> list[np.ndarray]:
    """Indices of the runs of each budget, budgets ascending.

    Args:
        flops: [N] of the runs.
        same_budget: relative difference up to which two neighbours are of one budget.
    """
    order = np.argsort(flops, kind="stable")
    cuts = np.flatnonzero(np.diff(np.log(flops[order])) > same_budget) + 1
    return np.split(order, cuts)


def envelope(
    curves: list[tuple[float, np.ndarray, np.ndarray]], flops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Approach 1: at each compute the lowest loss that any training curve has reached there.

    Args:
        curves: (parameters, flops [T], loss [T]) of each run, flops increasing.
        flops: [M] where the envelope is read, by interpolation in log compute.
    Returns:
        Parameters [M] of the curve that is lowest and its loss [M]; nan where no curve reaches.
    """
    log_c = np.log(flops)
    table = np.stack(
        [np.interp(log_c, np.log(c), loss, left=np.inf, right=np.inf) for _, c, loss in curves]
    )
    best = np.argmin(table, 0)
    lowest = table.min(0)
    sizes = np.array([size for size, _, _ in curves], float)[best]
    return np.where(np.isfinite(lowest), sizes, np.nan), np.where(
        np.isfinite(lowest), lowest, np.nan
    )


def exponent_interval(
    minima: Minima,
    level: float,
    rng: np.random.Generator,
    num_resamples: int = 1000,
    of: str = "parameters",
) -> tuple[float, float]:
    """Percentile interval of a in N ~ C^a over resampled budgets, or of b in D ~ C^b.

    Two budgets tell nothing of an interval: nan.

    Args:
        minima: the optimum of each budget.
        level: coverage, in (0, 1).
        rng: of the resamples.
        num_resamples: how many; those that hold one budget only are left out.
        of: "parameters" or "tokens".
    Raises:
        ValueError: if an option does not fit.
    """
    laws = resampled(minima, rng, num_resamples, of)
    if len(minima.flops) < 3:
        return float("nan"), float("nan")
    return intervals.percentile([law.exponent for law in laws], level)


def resampled(
    minima: Minima, rng: np.random.Generator, num_resamples: int = 1000, of: str = "parameters"
) -> list[PowerLaw]:
    """The power laws, of parameters or tokens in compute, through resamples of the budgets.

    Args and errors as for `exponent_interval`.
    """
    if of not in ("parameters", "tokens"):
        raise ValueError(f"of={of!r}: expected 'parameters' or 'tokens'")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples}: expected at least 1")
    values, found = getattr(minima, of), []
    for _ in range(num_resamples):
        rows = rng.integers(len(minima.flops), size=len(minima.flops))
        if len(np.unique(minima.flops[rows])) > 1:
            found.append(power_law(minima.flops[rows], values[rows]))
    return found


def _profile(log_n: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ascending, one loss each: the lowest of runs of one size."""
    sizes = np.unique(log_n)
    return sizes, np.array([loss[log_n == size].min() for size in sizes])


def _akima_minimum(log_n: np.ndarray, loss: np.ndarray) -> tuple[float, float] | None:
    import scipy.interpolate  # here: it takes as long to import as the whole topic

    curve = scipy.interpolate.Akima1DInterpolator(log_n, np.log(loss))
    places = curve.derivative().roots(extrapolate=False)
    places = np.concatenate([places[np.isfinite(places)], log_n])
    best = places[np.argmin(curve(places))]
    if best in (log_n[0], log_n[-1]):
        return None
    return float(best), float(np.exp(curve(best)))


def _parabola_minimum(log_n: np.ndarray, loss: np.ndarray) -> tuple[float, float] | None:
    centre = log_n.mean()
    square, slope, level = np.polyfit(log_n - centre, loss, 2)
    if square <= 0:
        return None
    best = -slope / (2 * square)
    if not log_n[0] <= best + centre <= log_n[-1]:
        return None
    return float(best + centre), float(level + slope * best / 2)
