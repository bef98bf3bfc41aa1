"""Figures of the studies by width, by training size and by data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from library import figure_style, plots

MARKERS = "osD^v"


def power_laws(
    axes: Axes, widths: Sequence[int], errors: Mapping[str, np.ndarray], slope: float | None = None
) -> None:
    """Errors against width, a colour a series, its fit as a line and its slope in the legend.

    Args:
        axes: where to draw.
        widths: [W].
        errors: [W] positive by name.
        slope: of a dashed line through the first series' centre.
    """
    x = np.asarray(widths, float)
    for colour, marker, (name, y) in zip(figure_style.PALETTE, MARKERS, errors.items()):
        fitted, intercept, deviation = plots.power_law(x, y)
        number = f"{fitted:.2f}".replace("-", "\N{MINUS SIGN}")
        text = f"{name}: slope {number} ± {deviation:.2f}"
        axes.plot(x, np.exp(intercept) * x**fitted, color=colour, linewidth=1.5)
        axes.plot(x, y, marker, color=colour, markersize=5.5, mec="white", label=text)
    if slope is not None:
        first = np.asarray(next(iter(errors.values())))
        shift = np.mean(np.log(first)) - slope * np.mean(np.log(x))
        text = f"expected {slope:g}".replace("-", "\N{MINUS SIGN}")
        axes.plot(x, np.exp(shift) * x**slope, color=figure_style.FAINT, linewidth=1.2,
                  linestyle=(0, (5, 3)), label=text)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(x, [str(width) for width in widths])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 2)
