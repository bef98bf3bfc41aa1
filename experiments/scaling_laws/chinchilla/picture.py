"""The figure of `scaling_laws.chinchilla`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from library import figure_style
from research.scaling_laws import fitting, laws, planning


def optimum(boot: fitting.Bootstrap, printed: Mapping[str, float], mark: float) -> Figure:
    """Optimal tokens per parameter over compute, with the bootstrap's 80 % band.

    Beside it the law with `printed` parameters; `mark` is a budget in FLOP.
    """
    flops = np.geomspace(1e18, 1e26, 33)
    rows = [
        planning.frontier(laws.chinchilla, boot.draws, "compute", c)["tokens_per_parameter"]
        for c in flops
    ]
    low, middle, high = np.quantile(np.array(rows), [0.1, 0.5, 0.9], axis=1)
    figure, place = figure_style.single(
        "Optimal tokens per parameter, Chinchilla's data", "compute, FLOP", "D / N"
    )
    place.fill_between(
        flops, low, high, color=figure_style.PALETTE[5], alpha=0.35, label="80 % band"
    )
    place.plot(flops, middle, color=figure_style.PALETTE[0], label="median of resamples")
    theirs = [
        planning.frontier(laws.chinchilla, printed, "compute", c)["tokens_per_parameter"]
        for c in flops
    ]
    place.plot(
        flops, theirs, color=figure_style.PALETTE[1], linestyle="--", label="law as printed in 2022"
    )
    place.axvline(mark, color=figure_style.FAINT, linewidth=1, linestyle=":")
    place.set_xscale("log")
    place.set_yscale("log")
    figure_style.legend(place)
    return figure
