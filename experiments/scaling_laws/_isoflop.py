"""The parts of the sweep of one language: tune, sweep, predict, seal, and train the large run."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import warnings
from typing import Any

import numpy as np

from experiments.scaling_laws import _gpt
from library import job_queue
from library.report import sealed as _sealed
from research.scaling_laws import fitting, forecasts, identifiability, laws, planning
from research.scaling_laws import runs as runs_module
from research.scaling_laws.runs import Runs

OPTIONS = {"delta": 3e-3}  # Huber's threshold, about the noise of these runs


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


@dataclasses.dataclass(frozen=True)
class Study:
    """The sweep of one language, resumable: every run leaves a file, and none is made twice.

    Attributes:
        config: `sweep.Config`.
        recipe: of every run.
        language: a `_languages.Known` or `_languages.Written`.
        folder: where the files go.
    """

    config: Any
    recipe: _gpt.Recipe
    language: Any
    folder: pathlib.Path

    def carry_out(self) -> Outcome:
        """Everything in its order; the large run comes last."""
        with warnings.catch_warnings():  # what the fit has to say goes into the prediction
            warnings.simplefilter("ignore", identifiability.IdentifiabilityWarning)
            return self._carry_out()

    def _carry_out(self) -> Outcome:
        config = self.config
        rule = self._tune()
        data, noise = self._sweep(rule)
        runs_module.write_csv(self.folder / "runs.csv", data)
        fit = fitting.fit(laws.chinchilla, data, **OPTIONS)
        flops = config.factor * max(config.budgets)
        frontier = planning.frontier(laws.chinchilla, fit.parameters, "compute", flops)
        best = float(frontier["parameters"])
        width = self._width(best, flops)
        target = self._columns(width, flops)
        forecast = forecasts.forecast(
            laws.chinchilla,
            data,
            {name: target[name] for name in laws.chinchilla.columns},
            num_resamples=config.num_resamples,
            rng=config.seed,
            by="budget",
            share=0.75,  # the largest budget, not one of half of it
            distance=config.distance,
            **OPTIONS,
        )
        rate = self._rate(rule, width, flops)
        digest = _sealed.write(
            self.folder / "prediction.json",
            {
                "law": laws.chinchilla.formula,
                "fitted": forecast.boot.fit.parameters,
                "intervals": forecast.parameters,
                "optimal_parameters": best,
                "run": target,
                "learning_rate": rate,
                "loss": forecast.predicted[0],
                "low": forecast.low[0],
                "high": forecast.high[0],
                "level": forecast.level,
                "inflation": forecast.inflation,
                "warning": forecast.boot.fit.report.message,
            },
        )
        jobs = {"large": self._job(width, flops, [rate], [config.seed], digest)}
        large = job_queue.run_queue(self._cell, jobs, self.folder)["large"]
        lead = _sealed.check(self.folder / "prediction.json", digest, large["started"])
        return Outcome(
            data, forecast, target, large["losses"][0], noise, rule, lead,
            (large["noise_scale"], large["noise_scale_error"]),
        )  # fmt: skip

    def _tune(self) -> dict[str, float]:
        """The rule rate = c D^q at the base width, from the vertex of a parabola in every cell."""
        config, seeds = self.config, [self.config.seed] * len(self.config.rates)
        cells = [(w, c) for c in config.tune_budgets for w in config.tune_widths]
        jobs = {_name("tune", w, c): self._job(w, c, list(config.rates), seeds) for w, c in cells}
        found = job_queue.run_queue(self._cell, jobs, self.folder)
        best = [_gpt.vertex(config.rates, found[name]["losses"]) for name in jobs]
        columns = [self._columns(*cell) for cell in cells]
        data = Runs(
            parameters=np.array([c["parameters"] for c in columns]),
            tokens=np.array([c["tokens"] for c in columns]),
            loss=np.array([min(found[name]["losses"]) for name in jobs]),
            extra={"learning_rate": np.array(best)},
        )
        if len(cells) < 2:
            return {"c": best[0], "p": 0.0, "q": 0.0}
        fit = fitting.fit(laws.learning_rate, data, loss="squared", fixed={"p": 0.0})
        return fit.parameters

    def _sweep(self, rule: dict[str, float]) -> tuple[Runs, float]:
        """The runs of all budgets, and the relative noise between runs of the middle cell."""
        config, cells = self.config, self._cells()
        middle = cells[len(cells) // 2]
        jobs = {
            _name("run", w, c): self._job(w, c, [self._rate(rule, w, c)], [config.seed])
            for w, c in cells
        }
        again = [f"noise-{i}" for i in range(1, config.num_seeds)]
        for i, name in enumerate(again, 1):  # other parameters and other data
            jobs[name] = self._job(*middle, [self._rate(rule, *middle)], [config.seed + i])
        found = job_queue.run_queue(self._cell, jobs, self.folder)
        columns = [self._columns(*cell) for cell in cells]
        data = Runs(
            loss=np.array([found[_name("run", w, c)]["losses"][0] for w, c in cells]),
            **{
                name: np.array([c[name] for c in columns])
                for name in ("parameters", "tokens", "flops")
            },
            extra={"budget": np.array([flops for _, flops in cells])},
        )
        alike = [_name("run", *middle), *again]
        return data, float(np.std(np.log([found[name]["losses"][0] for name in alike]), ddof=1))

    def _cells(self) -> list[tuple[int, float]]:
        """(width, FLOP) of the runs: with updates enough, and no more than the language has."""
        cells = [
            (width, flops)
            for flops in self.config.budgets
            for width in self.config.widths
            if self.recipe.num_steps(width, flops) >= self.config.min_steps
            and self._long_enough(width, flops)
        ]
        if not cells:
            raise ValueError("no run of the sweep has updates enough and a text as long")
        return cells

    def _width(self, best: float, flops: float) -> int:
        """The width next to the best size, of those for whose run the language is long enough."""
        long_enough = [width for width in self.config.widths if self._long_enough(width, flops)]
        if not long_enough:
            raise ValueError(f"no width for {flops:.3g} FLOP: the language is too short")
        sizes = np.array([self.recipe.num_parameters(width) for width in long_enough])
        return long_enough[int(np.argmin(np.abs(np.log(sizes / best))))]

    def _long_enough(self, width: int, flops: float) -> bool:
        """Whether the language has as many windows as the run reads, none of them twice."""
        read = self.recipe.num_steps(width, flops) * self.recipe.batch_size
        return read <= self.language.num_windows

    def _columns(self, width: int, flops: float) -> dict[str, float]:
        """What a run of a width and a budget counts: its true tokens and their FLOP."""
        size, steps = self.recipe.num_parameters(width), self.recipe.num_steps(width, flops)
        tokens = float(steps * self.recipe.batch_size * self.recipe.length)
        return {
            "width": width, "parameters": float(size), "tokens": tokens, "flops": 6 * size * tokens,
        }  # fmt: skip

    def _rate(self, rule: dict[str, float], width: int, flops: float) -> float:
        return float(rule["c"] * self._columns(width, flops)["tokens"] ** rule["q"])

    def _job(
        self, width: int, flops: float, rates: list[float], seeds: list[int], sealed: str = ""
    ) -> dict[str, Any]:
        steps = self.recipe.num_steps(width, flops)
        return {
            "width": width, "num_steps": steps, "rates": rates, "seeds": seeds, "sealed": sealed,
        }  # fmt: skip

    def _cell(
        self, width: int, num_steps: int, rates: list[float], seeds: list[int], sealed: str
    ) -> dict[str, Any]:
        """Trains the runs of one shape on new windows; the noise scale where a seal is given."""
        started = _sealed.now()
        stream = 1000 * width + 1_000_000 * num_steps + seeds[0]
        windows = self.language.windows(stream, num_steps * self.recipe.batch_size)
        model, params = _gpt.train(self.recipe, width, windows, rates, seeds)
        result = {
            "started": started,
            "losses": _gpt.evaluate(model, params, self._held_out).tolist(),
        }
        if sealed:
            scale = _gpt.noise_scale(model, params, self._held_out, self.recipe.batch_size)
            result |= {"noise_scale": scale.examples * self.recipe.length,
                       "noise_scale_error": scale.standard_error * self.recipe.length}  # fmt: skip
        return result

    @functools.cached_property
    def _held_out(self) -> np.ndarray:
        return self.language.held_out(self.config.num_windows)


def _name(kind: str, width: int, flops: float) -> str:
    """Of a job: run-16-1e10."""
    return f"{kind}-{width}-{flops:.3g}".replace("e+", "e")
