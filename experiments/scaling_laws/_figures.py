"""Figures of the studies, in the style of `library.figure_style`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from library import figure_style

if TYPE_CHECKING:
    from experiments.scaling_laws import _isoflop


LANGUAGES = {"known": "A language of known entropy", "written": "English novels"}


def intervals(
    title: str,
    labels: Sequence[str],
    measured: Sequence[float],
    published: Sequence[tuple[float, float, float]],
    x_label: str,
) -> Figure:
    """Measured values (dots) on published ones with their intervals (bars), one a row."""
    figure, place = figure_style.single(title, x_label, "")
    rows = np.arange(len(labels))[::-1]
    value, low, high = np.array(published).T
    place.hlines(rows, low, high, color=figure_style.PALETTE[5], linewidth=7, alpha=0.5,
                 label="published, 95 %")  # fmt: skip
    place.plot(measured, rows, "o", color=figure_style.PALETTE[1], markersize=5, label="here")
    place.set_yticks(rows, labels)
    figure_style.legend(place)
    return figure


def isoflops(outcomes: Mapping[str, _isoflop.Outcome]) -> Figure:
    """Loss against size, one colour a budget, with the fitted law and the run it predicted."""
    width = figure_style.WIDTH * min(len(outcomes), 2)
    figure, places = figure_style.row(len(outcomes), width=width)
    for place, (name, outcome) in zip(places, outcomes.items()):
        figure_style.style(place, LANGUAGES[name], "parameters", "loss, nats per token")
        data, fit = outcome.data, outcome.forecast.boot.fit
        budgets = np.unique(data.column("budget"))
        sizes = np.geomspace(data.parameters.min() / 1.3, data.parameters.max() * 1.3, 100)
        for index, budget in enumerate(budgets):
            rows = data.column("budget") == budget
            colour = figure_style.PALETTE[index]
            place.plot(data.parameters[rows], data.loss[rows], "o", color=colour, markersize=5,
                       label=_flop(budget))  # fmt: skip
            curve = fit.predict(parameters=sizes, tokens=budget / (6 * sizes))
            place.plot(sizes, curve, color=colour, linewidth=1.2)
        target, forecast = outcome.target, outcome.forecast
        curve = fit.predict(parameters=sizes, tokens=target["flops"] / (6 * sizes))
        place.plot(sizes, curve, "--", color=figure_style.INK, linewidth=1.2)
        middle = float(forecast.predicted[0])
        reach = [[middle - float(forecast.low[0])], [float(forecast.high[0]) - middle]]
        place.errorbar(target["parameters"], middle, reach, color=figure_style.INK, capsize=4,
                       label=f"predicted, {_flop(target['flops'])}")  # fmt: skip
        place.plot(target["parameters"], outcome.measured, "*", color=figure_style.PALETTE[1],
                   markersize=13, label="measured afterwards")  # fmt: skip
        place.set_xscale("log")
        place.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        place.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: f"{size / 1e3:g} k"))
        place.xaxis.set_minor_formatter(ticker.NullFormatter())
        place.set_ylim(top=1.03 * data.loss.max())
        figure_style.legend(place)
    return figure


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


def _flop(value: float) -> str:
    """2 x 10^9 FLOP, typeset."""
    digit, power = f"{value:.0e}".split("e")
    return rf"${digit} \times 10^{{{int(power)}}}$ FLOP"
