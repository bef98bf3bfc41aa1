"""The picture of inpainting: bias against steps, and a field filled in by every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from library import figure_style
from library.figure_style import PALETTE

NAMES = {
    "exact": "exact conditional score",
    "guidance_true_covariance": "posterior mean, true covariance",
    "guidance": "posterior mean, diagonal",
    "replacement": "replacement",
    "replacement_pc": "replacement, corrector",
}
TITLES = {
    "mean": "exact mean",
    "exact": "exact sample",
    "guidance": "diagonal guidance",
    "replacement_pc": "with corrector",
}


def draw(
    num_steps: Sequence[int], curves: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]
) -> Figure:
    """Errors of the mean at the left, images at the right.

    Args:
        num_steps: [S].
        curves: by method, [S, 2] errors of mean and standard deviation of the hidden value.
        images: [H, W] by name; nan is hidden.
    """
    for name in ("exact", "guidance", "replacement", "replacement_pc"):
        images = {name: np.full_like(images["truth"], np.nan), **images}
    figure, axes = figure_style.mosaic(
        [["curve", "truth", "seen", "mean", "exact"],
         ["curve", "guidance", "replacement", "replacement_pc", "."]],
        width=11.0, height=4.2, width_ratios=[2.6, 1, 1, 1, 1],
    )  # fmt: skip
    figure_style.style(axes["curve"], "A correlated pair", "steps", "error of the conditional mean")
    for colour, (name, label) in zip(PALETTE, NAMES.items()):
        if name not in curves:
            continue
        style = "--" if name == "guidance_true_covariance" else "-"
        error = curves[name][:, 0]
        axes["curve"].loglog(num_steps, error, style, color=colour, lw=1.8, label=label)
    axes["curve"].set_ylim(top=60.0)  # room for the labels
    figure_style.legend(axes["curve"], loc="upper right")
    low, high = np.nanmin(images["truth"]), np.nanmax(images["truth"])
    for name, image in images.items():
        figure_style.bare(axes[name], TITLES.get(name, name))
        axes[name].imshow(image, cmap="gray", vmin=low, vmax=high)
    return figure
