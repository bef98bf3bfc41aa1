"""The figure of `ntk.mnist`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from library import figure_style


def errors(records: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> Figure:
    """Test error against the number of training images, a colour a method.

    Args:
        records: {"images": number, method: accuracy in percent} of every training size.
        names: label of every method that is drawn.
    """
    figure, (axes,) = figure_style.row(1)
    sizes = [record["images"] for record in records]
    for colour, (key, name) in zip(figure_style.PALETTE, names.items()):
        errors = [100 - record[key] for record in records]
        axes.plot(sizes, errors, "o-", color=colour, linewidth=1.6, markersize=5, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50) if min(axes.get_ylim()) < tick]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 2)
    figure_style.style(axes, "Test error by number of training images", "images", "%")
    return figure
