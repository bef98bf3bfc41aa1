"""The figure of `ntk.uci`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.ntk import _by_width
from experiments.ntk.uci import methods
from library import figure_style


def accuracies(tables: Sequence[str], values: np.ndarray, ranks: Mapping[str, float]) -> Figure:
    """Accuracy less the table's mean over methods, a row a table.

    Args:
        tables: names of the K tables.
        values: [K, methods] accuracies, methods in the order of `methods.NAMES`.
        ranks: mean rank of every method.
    """
    figure, (axes,) = figure_style.row(1)
    figure.set_size_inches(figure_style.WIDTH, 2.0 + 0.2 * len(tables))
    order = np.argsort(values.mean(axis=1))
    centred = 100 * (values - values.mean(axis=1, keepdims=True))[order]
    looks = zip(methods.NAMES.items(), figure_style.PALETTE, _by_width.MARKERS)
    for column, ((key, name), colour, marker) in enumerate(looks):
        axes.plot(
            centred[:, column],
            np.arange(len(tables)),
            marker,
            color=colour,
            alpha=0.85,
            markersize=5.5,
            mec="white",
            label=f"{name}, mean rank {ranks[key]:.2f}",
        )
    percent = 100 * values.mean(axis=1)[order]
    axes.set_yticks(range(len(tables)), [f"{tables[i]} ({p:.0f})" for i, p in zip(order, percent)])
    axes.axvline(0, color=figure_style.INK, linewidth=0.8)
    title = "Test accuracy less the mean of the four methods"
    figure_style.style(axes, title, "percentage points (the mean beside the name, %)", "")
    figure.legend(
        loc="outside lower center", ncols=2, frameon=False, fontsize=figure_style.FONT_SIZE - 2
    )
    return figure
