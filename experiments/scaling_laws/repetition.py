"""How well do 182 runs on repeated data identify the half-life of repetition?

Claims: the published pair (R_D, R_N) has the published objective; a lower optimum of 0.0158047
exists; the profile over R_D from 12 to 300 is flat to 0.4 %.
Cost: 20 seconds on 2 CPU cores.
    python -m experiments scaling_laws.repetition

Muennighoff et al. 2023 (arXiv:2305.16264): E, A, B and alpha = beta held at their values, R_D and
R_N fitted by Huber's loss of the log loss, summed. The fit shows what the published pair is: a
local minimum on a profile so flat that runs of tens of epochs are hardly predicted by it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, profiles, published
from research.scaling_laws.runs import Runs

NOTEBOOK = claims.paper("Muennighoff et al. 2023, arXiv:2305.16264, notebook")
ANCHOR = claims.baseline("SciPy on the same 182 runs and objective")
FIXED = {
    "E": math.exp(0.6254804),
    "A": math.exp(6.255414),
    "B": math.exp(7.3049974),
    "alpha": 0.3526596,
    "beta": 0.3526596,
}
PUBLISHED = {"R_D": 15.387756, "R_N": 5.309743}


@dataclasses.dataclass(frozen=True)
class Config:
    """Resolution of the profile and of the starts."""

    profile_points: int = 49  # values of R_D between 4 and 1,000, equally spaced in log
    start_grid: int = 8  # starts a side over (R_D, R_N)


PRESETS = {
    "smoke": Config(profile_points=3, start_grid=2),
    "default": Config(),
    "accelerator": Config(profile_points=193, start_grid=24),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The published pair, the best pair and the profile between."""
    runs = published.repeated()
    near = _fit(runs, [PUBLISHED])
    starts = [
        {"R_D": float(d), "R_N": float(n)}
        for d in np.geomspace(3, 300, config.start_grid)
        for n in np.geomspace(0.5, 50, config.start_grid)
    ]
    best = _fit(runs, starts)
    values = np.geomspace(4, 1000, config.profile_points)
    objectives, _ = profiles.profile(best, "R_D", values, num_starts=4)
    flat = objectives[(values >= 12) & (values <= 300)]
    at_published = _objective(runs, PUBLISHED)
    out.figure("profile", _figure(values, objectives, at_published, best))
    four = {n: _effective(4 - 1, n) for n in (PUBLISHED["R_D"], best.parameters["R_D"])}
    forty = {n: _effective(40 - 1, n) for n in four}
    metrics = {
        "num_runs": len(runs),
        "objective_published": at_published,
        "objective_near": near.objective,
        "R_D_near": near.parameters["R_D"],
        "R_N_near": near.parameters["R_N"],
        "objective_best": best.objective,
        "R_D_best": best.parameters["R_D"],
        "R_N_best": best.parameters["R_N"],
        "profile_spread": float(flat.max() / flat.min() - 1),
        "worth_of_4_epochs_published": list(four.values())[0],
        "worth_of_4_epochs_best": list(four.values())[-1],
        "worth_of_40_epochs_published": list(forty.values())[0],
        "worth_of_40_epochs_best": list(forty.values())[-1],
    }
    spread, pair = metrics["profile_spread"], "from the published pair"
    r_d, r_n = near.parameters["R_D"], near.parameters["R_N"]
    what = "objective at the published pair"
    stated = [
        claims.within(what, at_published, 0.0158259353, 1.6e-8, source=NOTEBOOK),
        claims.within(f"R_D {pair}", r_d, PUBLISHED["R_D"], 0.154, source=NOTEBOOK),
        claims.within(f"R_N {pair}", r_n, PUBLISHED["R_N"], 0.053, source=NOTEBOOK),
        claims.at_most("lowest objective", best.objective, 0.0158047, source=ANCHOR),
        claims.at_most("spread of the profile, R_D 12 to 300", spread, 0.004, source=ANCHOR),
    ]
    return claims.Result(metrics, stated)


def _fit(runs: Runs, starts: list[dict[str, float]]) -> fitting.Fit:
    return fitting.fit(
        laws.repeated, runs, method="newton", fixed=FIXED, starts=[FIXED | s for s in starts]
    )


def _objective(runs: Runs, pair: dict[str, float]) -> float:
    """The objective at a pair, without a fit."""
    columns = {name: runs.column(name) for name in laws.repeated.columns}
    residual = np.log(runs.loss) - np.log(laws.repeated.predict(FIXED | pair, **columns))
    size = np.abs(residual)
    return float(np.sum(np.where(size <= 1e-3, 0.5 * residual**2, 1e-3 * (size - 0.5e-3))))


def _effective(repeats: float, half_life: float) -> float:
    """New data that one epoch and its repeats are worth, in epochs."""
    return 1 - half_life * math.expm1(-repeats / half_life)


def _figure(
    values: np.ndarray, objectives: np.ndarray, at_published: float, best: fitting.Fit
) -> Figure:
    figure, place = figure_style.single(
        "R_D is hardly identified: profile of 182 runs", "R_D held, epochs", "objective, summed"
    )
    place.plot(values, objectives, color=figure_style.PALETTE[0], label="lowest over R_N")
    place.plot(
        [PUBLISHED["R_D"]],
        [at_published],
        "o",
        color=figure_style.PALETTE[1],
        label="published pair",
    )
    lowest = [best.parameters["R_D"]], [best.objective]
    place.plot(*lowest, "o", color=figure_style.PALETTE[2], label="lowest found")
    place.set_xscale("log")
    place.set_ylim(best.objective * 0.998, best.objective * 1.02)
    figure_style.legend(place)
    return figure
