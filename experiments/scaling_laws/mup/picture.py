"""The figure of `scaling_laws.mup`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from library import figure_style


def transfer(curves: Mapping[tuple[str, int], tuple[Sequence[float], np.ndarray]]) -> Figure:
    """Loss against learning rate, a panel a parametrisation, a colour a width; dots are seeds."""
    kinds = list(dict.fromkeys(kind for kind, _ in curves))
    figure, places = figure_style.row(
        len(kinds), width=2 * figure_style.WIDTH, sharex=True, sharey=True
    )
    widths = sorted({width for _, width in curves})
    for (kind, width), (rates, losses) in curves.items():
        place, colour = places[kinds.index(kind)], figure_style.PALETTE[widths.index(width)]
        figure_style.style(place, kind, "peak learning rate", "held-out loss, nats per token")
        place.plot(rates, losses.mean(1), "-", color=colour, label=f"width {width}")
        place.plot(rates, losses, ".", color=colour, markersize=4)
        place.set_xscale("log", base=2)
    for place in places:
        figure_style.legend(place)
    return figure
