"""The picture of two laws: what guidance samples and what it is said to sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from library import figure_style
from library.figure_style import FAINT, PALETTE


def draw(
    densities: Mapping[str, np.ndarray],
    samples: np.ndarray,
    scales: np.ndarray,
    stds: Mapping[str, Sequence[float]],
    measured_scales: Sequence[float],
    measured: Mapping[str, Sequence[float]],
) -> Figure:
    """Densities with a histogram of samples at the left, spreads against the scale at the right.

    Args:
        densities: [P] each: "x", "class", "all", "tilted", "flow".
        samples: [N] of the flow.
        scales: [S], guidance weights.
        stds: [S] each: "tilted" and "flow", of Gaussian classes.
        measured_scales: [M], guidance weights of the next.
        measured: [M] each: "sampled" by the flow and "reverse_sde", of the same classes.
    """
    figure, (left, right) = figure_style.row(2, width=9.0, height=3.8)
    figure_style.style(left, "Two classes on a line, w = 2", "x", "density")
    x = densities["x"]
    left.hist(
        samples, bins=90, range=(-1, 5), density=True, color=PALETTE[0], alpha=0.25,
        label="samples of the guided flow",
    )  # fmt: skip
    left.plot(x, densities["flow"], color=PALETTE[0], lw=1.8, label="its law, by likelihood")
    left.plot(x, densities["tilted"], color=PALETTE[1], lw=1.8, label="p(x|c)² / p(x)")
    left.plot(x, densities["class"], color=FAINT, lw=1.2, ls="--", label="p(x|c)")
    left.plot(x, densities["all"], color=FAINT, lw=1.2, ls=":", label="p(x)")
    left.set_xlim(-2.5, 4.5)
    left.set_ylim(0, 1.25)  # room for the labels
    figure_style.style(right, "Gaussian classes", "guidance weight w", "standard deviation")
    right.plot(scales, stds["flow"], color=PALETTE[0], lw=1.8, label="law of the flow, closed form")
    right.plot(scales, stds["tilted"], color=PALETTE[1], lw=1.8, label="p(x|c)ʷ p(x)¹⁻ʷ")
    for name, mark, colour, label in (
        ("sampled", "o", PALETTE[0], "samples of the flow"),
        ("reverse_sde", "s", PALETTE[2], "reverse SDE of the same score"),
    ):
        right.plot(
            measured_scales, measured[name], mark, color=colour, ms=5.5, mec="white", label=label
        )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        figure_style.legend(axes)
    return figure
