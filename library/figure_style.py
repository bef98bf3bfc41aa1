"""The house style: colours, sizes, and figures of one or several panels to draw in by hand.

`library.plots` draws whole figures in it. All are made without pyplot: no display, no global state,
nothing to close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Any two are 16 units of CIELAB apart for every dichromat (Machado et al. 2009, doi
# 10.1109/TVCG.2009.113), and each is dark enough on white to write in.
PALETTE = ("#3963bd", "#be4629", "#0c8463", "#b98b00", "#7a2f7a", "#4a9fd8")
INK, FAINT, GRID = "#22272e", "#6e7781", "#e3e7ec"
FONT_SIZE = 11  # points; the figures are 6.4 inches wide, so it survives a README's column
WIDTH, HEIGHT = 6.4, 3.8  # inches

_SPINE = "#b6bec8"
_PAD = 0.08  # inches around the panels


def single(
    title: str,
    x_label: str = "",
    y_label: str = "",
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches, and its styled axes."""
    made = empty(width, height)
    return made, style(made.add_subplot(), title, x_label, y_label)


def row(
    count: int, *, width: float = WIDTH, height: float = HEIGHT, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure, in inches, and the axes [count] of panels side by side, to be styled.

    Options are those of `matplotlib.figure.Figure.subplots`.
    """
    made = empty(width, height)
    return made, made.subplots(1, count, squeeze=False, **options)[0]


def mosaic(
    layout: Sequence[Sequence[str]], width: float, height: float, width_ratios: Sequence[float]
) -> tuple[Figure, dict[str, Axes]]:
    """A figure, in inches, and its axes by name, one a rectangle of the layout, to be styled."""
    made = empty(width, height)
    return made, made.subplot_mosaic(layout, width_ratios=width_ratios)


def empty(width: float, height: float) -> Figure:
    """A figure without panels, in inches, that keeps its texts inside."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=_PAD, h_pad=_PAD)
    return figure


def style(axes: Axes, title: str = "", x_label: str = "", y_label: str = "") -> Axes:
    """The axes, with a light grid, two thin spines and dark text."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_SPINE)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, pad=5, labelsize=FONT_SIZE - 1, labelcolor=INK)
    axes.set_xlabel(x_label, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE, color=INK)
    if title:
        axes.set_title(title, fontsize=FONT_SIZE + 1, color=INK, loc="left", pad=10, weight="bold")
    return axes


def legend(axes: Axes, **options: Any) -> None:
    """The labels of what was drawn, without a frame; options of `Axes.legend`."""
    axes.legend(**{"frameon": False, "fontsize": FONT_SIZE - 1, "labelcolor": INK, **options})


def bare(axes: Axes, title: str) -> None:
    """No axes at all, for pictures and points in the plane."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=FONT_SIZE, color=INK, loc="left")
