"""The picture of the question: losses of the validation text over the training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from library import figure_style, plots


def draw(steps: np.ndarray, curves: np.ndarray, trigram: float) -> Figure:
    """The mean over seeds of [seeds, evaluations], with their range, and the trigram model."""
    figure = plots.curves(
        [
            {"step": step, "validation": mean, "trigram": trigram}
            for step, mean in zip(steps, curves.mean(0))
        ],
        {"validation": "validation, mean of seeds", "trigram": "trigram model"},
        title="Loss of the validation text",
        x_label="update",
        y_label="nats per character",
    )
    band = (curves.min(0), curves.max(0))
    figure.axes[0].fill_between(steps, *band, color=figure_style.PALETTE[0], alpha=0.2, linewidth=0)
    return figure
