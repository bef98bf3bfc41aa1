"""Figures of several panels in the house style, for what no single plot of the library shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from library.plots import FONT_SIZE, GRID, INK


def figure(rows: int, cols: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """An empty figure, in inches, and its axes [rows * cols]."""
    made = Figure(figsize=(width, height), layout="constrained")
    made.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return made, np.asarray(made.subplots(rows, cols)).reshape(-1)


def style(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Light grid, two thin spines, dark text."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b6bec8")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, pad=5, labelsize=FONT_SIZE - 1, labelcolor=INK)
    axes.set_xlabel(x_label, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE, color=INK)
    axes.set_title(title, fontsize=FONT_SIZE + 1, color=INK, loc="left", pad=10, weight="bold")


def legend(axes: Axes, **options) -> None:
    """The labels of what was drawn, without a frame."""
    axes.legend(frameon=False, fontsize=FONT_SIZE - 1, labelcolor=INK, **options)


def bare(axes: Axes, title: str) -> None:
    """No axes at all, for pictures and points in the plane."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=FONT_SIZE, color=INK, loc="left")


def mosaic(
    layout: Sequence[Sequence[str]], width: float, height: float, width_ratios: Sequence[float]
) -> tuple[Figure, dict[str, Axes]]:
    """An empty figure, in inches, and its axes by name, one a rectangle of the layout."""
    made = Figure(figsize=(width, height), layout="constrained")
    made.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    return made, made.subplot_mosaic(layout, width_ratios=width_ratios)
