"""The picture of predictors and correctors: distance against the error of the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from library import figure_style
from library.figure_style import PALETTE

TITLES = {"ve": "Variance exploding", "vp": "Variance preserving"}


def draw(
    deltas: np.ndarray,
    curves: Mapping[str, Mapping[str, np.ndarray]],
    marked: Mapping[str, float],
    predictors: Sequence[str],
) -> Figure:
    """Distance against the score's error, one panel a process.

    Args:
        deltas: [D], negative relative errors of the score.
        curves: by process and column of the table, [D + 1]; the last is not drawn.
        marked: by process, the error of the table.
        predictors: names of those drawn.
    """
    figure, places = figure_style.row(2, width=8.8, height=3.6)
    for axes, (name, columns) in zip(places, curves.items()):
        figure_style.style(
            axes, TITLES[name], "relative error of the score", "squared distance to data"
        )
        for colour, predictor in zip(PALETTE, predictors):
            label = predictor.replace("_", " ")
            plain, both = (columns[f"{kind}_{predictor}"][:-1] for kind in ("P2000", "PC1000"))
            axes.loglog(-deltas, plain, color=colour, lw=1.6, ls="--", label=f"{label}, P2000")
            axes.loglog(-deltas, both, color=colour, lw=1.8, label=f"{label}, PC1000")
        axes.loglog(-deltas, columns["C2000"][:-1], color=PALETTE[4], lw=1.8, ls=":", label="C2000")
        axes.axvline(-marked[name], color="#b6bec8", lw=1.0, zorder=0)
        axes.set_ylim(5e-7, 0.05)
    figure_style.legend(places[1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
