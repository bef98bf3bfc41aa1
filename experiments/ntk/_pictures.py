"""Figures of the kernel studies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from library import figure_style


def spectra(
    values: Mapping[str, Mapping[str, np.ndarray]], curves: Mapping[str, list[dict]]
) -> Figure:
    """Eigenvalues by every route, and alignment on the way of training, a colour a network."""
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    for colour, (name, routes) in zip(figure_style.PALETTE, values.items()):
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
    left.plot([], [], "o", mfc="none", color=figure_style.INK, label="Lanczos, no matrix")
    left.set(xscale="log", yscale="log")
    right.set_xscale("symlog", linthresh=1)
    figure_style.style(left, "Eigenvalues of the full kernel", "rank", "eigenvalue")
    figure_style.style(
        right, "Alignment with the targets", "training step", "alignment (± 2 standard errors)"
    )
    left.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 2)
    return figure


def attribution(scores: Mapping[str, tuple[float, float]]) -> Figure:
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
