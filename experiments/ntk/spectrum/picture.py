"""The figure of `ntk.spectrum`."""

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
        low, high = aligned - 2 * error, aligned + 2 * error
        right.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    left.plot([], [], "o", mfc="none", color=figure_style.INK, label="Lanczos, no matrix")
    left.set(xscale="log", yscale="log")
    right.set_xscale("symlog", linthresh=1)
    figure_style.style(left, "Eigenvalues of the full kernel", "rank", "eigenvalue")
    figure_style.style(
        right, "Alignment with the targets", "training step", "alignment (± 2 standard errors)"
    )
    left.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 2)
    return figure
