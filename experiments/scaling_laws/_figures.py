"""Figures of the studies, in the style of `library.plots`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from library import plots


def axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure in the house style."""
    figure = Figure(figsize=(plots.WIDTH, plots.HEIGHT), layout="constrained")
    place = figure.add_subplot()
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    place.grid(color=plots.GRID, linewidth=0.8)
    place.set_axisbelow(True)
    place.tick_params(which="both", length=0, labelsize=plots.FONT_SIZE - 1, labelcolor=plots.INK)
    place.set_xlabel(x_label, fontsize=plots.FONT_SIZE, color=plots.INK)
    place.set_ylabel(y_label, fontsize=plots.FONT_SIZE, color=plots.INK)
    place.set_title(title, fontsize=plots.FONT_SIZE + 1, color=plots.INK, loc="left", weight="bold")
    return figure, place


def legend(place: Axes) -> None:
    """A legend without a frame."""
    place.legend(frameon=False, fontsize=plots.FONT_SIZE - 1, labelcolor=plots.INK)


def intervals(
    title: str,
    labels: Sequence[str],
    measured: Sequence[float],
    published: Sequence[tuple[float, float, float]],
    x_label: str,
) -> Figure:
    """Measured values (dots) on published ones with their intervals (bars), one a row."""
    figure, place = axes(title, x_label, "")
    rows = np.arange(len(labels))[::-1]
    value, low, high = np.array(published).T
    place.hlines(rows, low, high, color=plots.PALETTE[5], linewidth=7, alpha=0.5,
                 label="published, 95 %")  # fmt: skip
    place.plot(measured, rows, "o", color=plots.PALETTE[1], markersize=5, label="here")
    place.set_yticks(rows, labels)
    legend(place)
    return figure
