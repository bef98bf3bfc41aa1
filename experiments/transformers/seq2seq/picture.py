"""The picture of the question: exact match against length, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from library import figure_style

TITLES = {"sort": "Sorting", "reverse": "Reversal", "add": "Addition"}
NAMES = {
    "none": "none",
    "sinusoidal": "sinusoidal",
    "learned": "learned",
    "rotary": "RoPE",
    "alibi": "ALiBi",
    "t5": "T5 buckets",
}


def draw(means: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """A line an encoding, trained lengths shaded.

    Args:
        means: [2 N] shares of right answers by task and encoding.
    """
    tasks = list(dict.fromkeys(task for task, _ in means))
    figure, places = figure_style.row(len(tasks), width=1.65 * figure_style.WIDTH, sharey=True)
    colours = dict(zip(NAMES, (figure_style.FAINT, *figure_style.PALETTE)))
    for axes, task in zip(places, tasks):
        for (_, encoding), row in ((key, row) for key, row in means.items() if key[0] == task):
            style = "--" if encoding == "none" else "-"
            axes.plot(
                range(1, len(row) + 1), 100 * row, style, color=colours[encoding], linewidth=1.8,
                label=NAMES[encoding],
            )  # fmt: skip
        axes.axvspan(1, len(row) / 2, color=figure_style.GRID, alpha=0.5, linewidth=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        figure_style.style(
            axes, TITLES[task], "digits of each number" if task == "add" else "digits"
        )
    places[0].set_ylabel("exact answers, %", fontsize=figure_style.FONT_SIZE)
    figure_style.legend(places[0], title="positions")
    return figure
