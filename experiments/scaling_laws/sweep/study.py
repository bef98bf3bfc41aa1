"""The sweep of one language in its order: tune, sweep, fit, predict and seal, train large."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from experiments.scaling_laws import _gpt
from experiments.scaling_laws.sweep import cells as cells_module
from experiments.scaling_laws.sweep.cells import Cells
from library.report import sealed
from research.scaling_laws import fitting, forecasts, identifiability, laws, planning, run_files
from research.scaling_laws.runs import Runs

OPTIONS = {"delta": 3e-3}  # Huber's threshold, about the noise of these runs
SEALED_TO = 1e-6  # relative: a resumed study fits and resamples again, perhaps by a newer version


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is swept for one language.

    Attributes:
        budgets: FLOP of a run.
        widths: of the models.
        min_steps: updates; a budget skips widths that get fewer.
        factor: compute of the large run over the largest budget.
        distance: the largest budget, predicted from those that are smaller by so much.
        tune_widths, tune_budgets, rates: the cells of the tuning, and what is tried in each.
        num_seeds: runs of one cell, to know the noise.
        num_resamples: of the bootstrap.
        seed: of parameters, order and resamples.
    """

    budgets: tuple[float, ...]
    widths: tuple[int, ...]
    min_steps: int
    factor: float
    distance: float
    tune_widths: tuple[int, ...]
    tune_budgets: tuple[float, ...]
    rates: tuple[float, ...]
    num_seeds: int
    num_resamples: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that came out for one language.

    Attributes:
        data: the runs of the sweep.
        forecast: of the large run, as it was sealed.
        target: the large run's parameters, tokens, flops, width.
        measured: its loss, nats a token.
        noise: relative standard deviation of the loss over seeds, within one cell.
        rule: of the learning rate, {"c", "p", "q"}.
        lead: seconds from the sealing to the start of the large run.
        noise_scale: of the large run's gradient, tokens, and its standard error.
    """

    data: Runs
    forecast: forecasts.Forecast
    target: dict[str, float]
    measured: float
    noise: float
    rule: dict[str, float]
    lead: float
    noise_scale: tuple[float, float]


def carry_out(plan: Plan, cells: Cells) -> Outcome:
    """Everything in its order; the large run comes last.

    Raises:
        ValueError: if no run of the sweep, or no large one, has a text that is long enough.
    """
    with warnings.catch_warnings():  # what the fit has to say goes into the prediction
        warnings.simplefilter("ignore", identifiability.IdentifiabilityWarning)
        rule = tune(plan, cells)
        data, noise = sweep(plan, cells, rule)
        run_files.write(cells.folder / "runs.csv", data)
        forecast, target, prediction = predict(plan, cells, data, rule)
    file, flops = cells.folder / "prediction.json", plan.factor * max(plan.budgets)
    digest = sealed.write(file, prediction, SEALED_TO)
    job = cells.job(target["width"], flops, [prediction["learning_rate"]], [plan.seed], digest)
    large = cells.results({"large": job})["large"]
    return Outcome(
        data=data,
        forecast=forecast,
        target=target,
        measured=large["losses"][0],
        noise=noise,
        rule=rule,
        lead=sealed.check(file, digest, large["started"]),
        noise_scale=(large["noise_scale"], large["noise_scale_error"]),
    )


def tune(plan: Plan, cells: Cells) -> dict[str, float]:
    """The rule rate = c D^q at the base width, from the vertex of a parabola in every cell."""
    places = [(w, c) for c in plan.tune_budgets for w in plan.tune_widths]
    names = [cells_module.name("tune", *place) for place in places]
    seeds = [plan.seed] * len(plan.rates)
    jobs = {n: cells.job(*place, plan.rates, seeds) for n, place in zip(names, places)}
    found = cells.results(jobs)
    best = [_gpt.vertex(plan.rates, found[name]["losses"]) for name in names]
    if len(places) < 2:
        return {"c": best[0], "p": 0.0, "q": 0.0}
    data = Runs(
        **cells.table(places, "parameters", "tokens"),
        loss=np.array([min(found[name]["losses"]) for name in names]),
        extra={"learning_rate": np.array(best)},
    )
    return fitting.fit(laws.learning_rate, data, loss="squared", fixed={"p": 0.0}).parameters


def sweep(plan: Plan, cells: Cells, rule: dict[str, float]) -> tuple[Runs, float]:
    """The runs of all budgets, and the relative noise between runs of the middle cell."""
    places = places_of(plan, cells)
    names, middle = [cells_module.name("run", *place) for place in places], len(places) // 2

    def job(place: tuple[int, float], seed: int) -> dict[str, Any]:
        return cells.job(*place, [_rate(rule, cells, *place)], [seed])

    jobs = {name: job(place, plan.seed) for name, place in zip(names, places)}
    again = {f"noise-{i}": plan.seed + i for i in range(1, plan.num_seeds)}
    jobs |= {name: job(places[middle], seed) for name, seed in again.items()}  # and other data
    losses = {name: result["losses"][0] for name, result in cells.results(jobs).items()}
    data = Runs(
        **cells.table(places, "parameters", "tokens", "flops"),
        loss=np.array([losses[name] for name in names]),
        extra={"budget": np.array([flops for _, flops in places])},
    )
    alike = [losses[name] for name in (names[middle], *again)]
    return data, float(np.std(np.log(alike), ddof=1))


def predict(
    plan: Plan, cells: Cells, data: Runs, rule: dict[str, float]
) -> tuple[forecasts.Forecast, dict[str, float], dict[str, Any]]:
    """The large run's loss, what that run is, and all that is sealed about both."""
    fit = fitting.fit(laws.chinchilla, data, **OPTIONS)
    flops = plan.factor * max(plan.budgets)
    frontier = planning.frontier(laws.chinchilla, fit.parameters, "compute", flops)
    best = float(frontier["parameters"])
    width = nearest_width(plan, cells, best, flops)
    target = cells.columns(width, flops)
    forecast = forecasts.forecast(
        laws.chinchilla,
        data,
        {name: target[name] for name in laws.chinchilla.columns},
        num_resamples=plan.num_resamples,
        rng=plan.seed,
        by="budget",
        share=0.75,  # the largest budget, not one of half of it
        distance=plan.distance,
        **OPTIONS,
    )
    prediction = {
        "law": laws.chinchilla.formula,
        "fitted": forecast.boot.fit.parameters,
        "intervals": forecast.parameters,
        "optimal_parameters": best,
        "run": target,
        "learning_rate": _rate(rule, cells, width, flops),
        "loss": forecast.predicted[0],
        "low": forecast.low[0],
        "high": forecast.high[0],
        "level": forecast.level,
        "inflation": forecast.inflation,
        "warning": forecast.boot.fit.report.message,
    }
    return forecast, target, prediction


def places_of(plan: Plan, cells: Cells) -> list[tuple[int, float]]:
    """(width, FLOP) of the runs: with updates enough, and no more than the language has."""
    found = [
        (width, flops)
        for flops in plan.budgets
        for width in plan.widths
        if cells.recipe.num_steps(width, flops) >= plan.min_steps
        and cells.long_enough(width, flops)
    ]
    if not found:
        raise ValueError("no run of the sweep has updates enough and a text as long")
    return found


def nearest_width(plan: Plan, cells: Cells, best: float, flops: float) -> int:
    """The width next to the best size, of those for whose run the language is long enough."""
    long_enough = [width for width in plan.widths if cells.long_enough(width, flops)]
    if not long_enough:
        raise ValueError(f"no width for {flops:.3g} FLOP: the language is too short")
    sizes = np.array([cells.recipe.num_parameters(width) for width in long_enough])
    best = np.clip(best, sizes.min(), sizes.max())  # 0 or inf where a term of the fit vanished
    return long_enough[int(np.argmin(np.abs(np.log(sizes / best))))]


def _rate(rule: dict[str, float], cells: Cells, width: int, flops: float) -> float:
    return float(rule["c"] * cells.columns(width, flops)["tokens"] ** rule["q"])
