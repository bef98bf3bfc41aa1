"""The figure of `ntk.attribution`."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from library import figure_style


def bars(scores: Mapping[str, tuple[float, float]]) -> Figure:
    """Linear datamodeling scores with twice their standard errors, a bar a method."""
    title = "Do scores predict retraining on half of the data?"
    label = "rank correlation (± 2 standard errors over test digits)"
    figure, axes = figure_style.single(title, label, height=0.72 * figure_style.HEIGHT)
    names = list(scores)[::-1]
    for row, name in enumerate(names):
        value, error = scores[name]
        colour = figure_style.PALETTE[0] if "gradient" in name else figure_style.FAINT
        axes.barh(row, value, xerr=2 * error, color=colour, height=0.6, ecolor=figure_style.INK)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color=figure_style.INK, linewidth=0.8)
    return figure
