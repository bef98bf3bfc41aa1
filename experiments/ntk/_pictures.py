"""Figures of the kernel studies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from library import plots


def spectra(
    values: Mapping[str, Mapping[str, np.ndarray]], curves: Mapping[str, list[dict]]
) -> Figure:
    """Eigenvalues by every route, and alignment on the way of training, a colour a network."""
    figure = Figure(figsize=(2 * plots.WIDTH * 0.78, plots.HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, routes) in zip(plots.PALETTE, values.items()):
        dense = routes["dense"][routes["dense"] > 1e-7 * routes["dense"][0]]
        left.plot(1 + np.arange(len(dense)), dense, color=colour, linewidth=1.6, label=name)
        found = routes["Lanczos"]
        left.plot(1 + np.arange(len(found)), found, "o", mfc="none", color=colour, markersize=6)
        records = curves[name]
        steps = [record["step"] for record in records]
        aligned = np.array([record["alignment"] for record in records])
        error = np.array([record["alignment_error"] for record in records])
        right.plot(steps, aligned, color=colour, linewidth=1.6, label=name)
        right.fill_between(steps, aligned - 2 * error, aligned + 2 * error, color=colour,
                           alpha=0.18, linewidth=0)  # fmt: skip
    left.plot([], [], "o", mfc="none", color=plots.INK, label="Lanczos, no matrix")
    left.set(xscale="log", yscale="log")
    right.set_xscale("symlog", linthresh=1)
    _style(left, "Eigenvalues of the full kernel", "rank", "eigenvalue")
    _style(right, "Alignment with the targets", "training step", "alignment (± 2 standard errors)")
    left.legend(frameon=False, fontsize=plots.FONT_SIZE - 2)
    return figure


def attribution(scores: Mapping[str, tuple[float, float]]) -> Figure:
    """Linear datamodeling scores with twice their standard errors, a bar a method."""
    figure = Figure(figsize=(plots.WIDTH, plots.HEIGHT * 0.72), layout="constrained")
    axes = figure.subplots()
    names = list(scores)[::-1]
    for row, name in enumerate(names):
        value, error = scores[name]
        colour = plots.PALETTE[0] if "gradient" in name else plots.FAINT
        axes.barh(row, value, xerr=2 * error, color=colour, height=0.6, ecolor=plots.INK)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color=plots.INK, linewidth=0.8)
    title = "Do scores predict retraining on half of the data?"
    _style(axes, title, "rank correlation (± 2 standard errors over test digits)", "")
    return figure


def _style(axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=plots.FONT_SIZE, color=plots.INK, weight="bold")
    axes.set_xlabel(x_label, fontsize=plots.FONT_SIZE - 1)
    axes.set_ylabel(y_label, fontsize=plots.FONT_SIZE - 1)
    axes.grid(color=plots.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
