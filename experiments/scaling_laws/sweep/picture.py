"""The figure of `scaling_laws.sweep`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.scaling_laws.sweep import study
from library import figure_style

LANGUAGES = {"known": "A language of known entropy", "written": "English novels"}


def isoflops(outcomes: Mapping[str, study.Outcome]) -> Figure:
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
            label = _flop(budget)
            points = data.parameters[rows], data.loss[rows]
            place.plot(*points, "o", color=colour, markersize=5, label=label)
            curve = fit.predict(parameters=sizes, tokens=budget / (6 * sizes))
            place.plot(sizes, curve, color=colour, linewidth=1.2)
        target, forecast = outcome.target, outcome.forecast
        curve = fit.predict(parameters=sizes, tokens=target["flops"] / (6 * sizes))
        place.plot(sizes, curve, "--", color=figure_style.INK, linewidth=1.2)
        middle = float(forecast.predicted[0])
        reach = [[middle - float(forecast.low[0])], [float(forecast.high[0]) - middle]]
        at, label = target["parameters"], f"predicted, {_flop(target['flops'])}"
        place.errorbar(at, middle, reach, color=figure_style.INK, capsize=4, label=label)
        star = {"color": figure_style.PALETTE[1], "markersize": 13}
        place.plot(at, outcome.measured, "*", **star, label="measured afterwards")
        place.set_xscale("log")
        place.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        place.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: f"{size / 1e3:g} k"))
        place.xaxis.set_minor_formatter(ticker.NullFormatter())
        place.set_ylim(top=1.03 * data.loss.max())
        figure_style.legend(place)
    return figure


def _flop(value: float) -> str:
    """2 x 10^9 FLOP, typeset."""
    digit, power = f"{value:.0e}".split("e")
    return rf"${digit} \times 10^{{{int(power)}}}$ FLOP"
