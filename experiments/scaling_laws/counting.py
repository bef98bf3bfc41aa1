"""Does the exponent of the optimal size depend on what is counted and tuned?

Claim: ten exponents from RefinedWeb runs lie inside the published 95 % intervals, from 0.835 as
Kaplan et al. counted to 0.497 with a tuned optimizer (Porian et al. 2024).
Cost: 5 seconds on 2 CPU cores.
    python -m experiments scaling_laws.counting

Approach 2 of Hoffmann et al. 2022 on the IsoFLOP points of Porian et al. 2024 (arXiv:2406.19146):
Akima interpolation of each budget's losses in log N, unweighted least squares through the minima.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import frontiers, published

FITS = claims.paper("Porian et al. 2024, arXiv:2406.19146, their repository's fits")


@dataclasses.dataclass(frozen=True)
class Config:
    """How the minima are found and resampled."""

    interpolation: str = "akima"  # of the loss in log N: akima or parabola
    num_resamples: int = 1000  # of the budgets, for our own interval
    seed: int = 0  # of the resamples


PRESETS = {
    "smoke": Config(num_resamples=10),
    "default": Config(),
    "accelerator": Config(num_resamples=10_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """One exponent a variant, each beside the published interval."""
    fits = published.table("porian_refinedweb", "published_fits.csv")
    metrics, stated, rows = {}, [], []
    for index, name in enumerate(fits["experiment"]):
        minima = frontiers.isoflop_minima(published.isoflop(name), config.interpolation)
        law = frontiers.power_law(minima.flops, minima.parameters)
        low, high = (fits[f"n_exp_{end}95"][index] for end in ("lo", "hi"))
        ours = frontiers.exponent_interval(
            minima, 0.95, np.random.default_rng(config.seed), config.num_resamples
        )
        label = name.removeprefix("rw-").rsplit("-", 1)[0]
        metrics |= {
            f"{label}_a": law.exponent,
            f"{label}_low": ours[0],
            f"{label}_high": ours[1],
            f"{label}_skipped": len(minima.skipped),
        }
        what, middle = f"a of {label}: middle of the published interval", (low + high) / 2
        reach = (high - low) / 2
        stated.append(claims.within(what, law.exponent, middle, reach, source=FITS))
        rows.append((label, law.exponent, (fits["n_exponent"][index], low, high)))
    labels, measured, theirs = zip(*rows)
    out.figure("exponents", _figure(labels, measured, theirs))
    return claims.Result(metrics, stated)


def _figure(
    labels: Sequence[str],
    measured: Sequence[float],
    theirs: Sequence[tuple[float, float, float]],
) -> Figure:
    """Measured values (dots) on published ones with their intervals (bars), one a row."""
    title = "N ~ C^a by what is counted and tuned"
    figure, place = figure_style.single(title, "a", "")
    rows = np.arange(len(labels))[::-1]
    _, low, high = np.array(theirs).T
    bars = {"color": figure_style.PALETTE[5], "linewidth": 7, "alpha": 0.5}
    place.hlines(rows, low, high, **bars, label="published, 95 %")
    place.plot(measured, rows, "o", color=figure_style.PALETTE[1], markersize=5, label="here")
    place.set_yticks(rows, labels)
    figure_style.legend(place)
    return figure
