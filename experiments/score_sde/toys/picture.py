"""The picture of the toys: samples, and flow lines from noise to data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from library import figure_style
from library.figure_style import PALETTE


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """What one score made.

    Attributes:
        samples: [N, 2].
        path: [T, L, 2], L of them on their way from noise.
        title: of the panel.
    """

    samples: np.ndarray
    path: np.ndarray
    title: str


def draw(panels: Sequence[Panel]) -> Figure:
    """Samples with flow lines from noise to data."""
    figure, all_axes = figure_style.row(len(panels), width=3.3 * len(panels), height=3.7)
    for axes, panel in zip(all_axes, panels):
        path = panel.path
        axes.plot(path[..., 0], path[..., 1], color=PALETTE[0], lw=0.6, alpha=0.45, zorder=1)
        axes.plot(*path[0].T, "o", color=PALETTE[0], ms=1.6, mew=0, alpha=0.8, zorder=2)
        axes.plot(*panel.samples.T, "o", color=PALETTE[1], ms=1.6, mew=0, alpha=0.5, zorder=3)
        figure_style.bare(axes, panel.title)
        axes.set_aspect("equal")
        axes.set_xlim(-2.7, 2.7)
        axes.set_ylim(-2.7, 2.7)
    return figure
