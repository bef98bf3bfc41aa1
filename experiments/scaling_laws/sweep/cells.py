"""The runs of one language by width and compute: what each counts, and its training."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.scaling_laws import _gpt, _languages
from library import job_queue
from library.report.sealed import now


@dataclasses.dataclass(frozen=True)
class Cells:
    """Cells (width, FLOP) of a language. Every run leaves a file, and none is made twice.

    Attributes:
        recipe: of every run.
        language: whose windows are read.
        folder: where the files go.
        num_windows: held-out windows.
    """

    recipe: _gpt.Recipe
    language: _languages.Known | _languages.Written
    folder: pathlib.Path
    num_windows: int

    def long_enough(self, width: int, flops: float) -> bool:
        """Whether the language has as many windows as the run reads, none of them twice."""
        read = self.recipe.num_steps(width, flops) * self.recipe.batch_size
        return read <= self.language.num_windows

    def columns(self, width: int, flops: float) -> dict[str, float]:
        """What a run of a width and a budget counts: its true tokens and their FLOP."""
        size, steps = self.recipe.num_parameters(width), self.recipe.num_steps(width, flops)
        tokens = float(steps * self.recipe.batch_size * self.recipe.length)
        return {
            "width": width,
            "parameters": float(size),
            "tokens": tokens,
            "flops": 6 * size * tokens,
        }

    def table(self, cells: Sequence[tuple[int, float]], *names: str) -> dict[str, np.ndarray]:
        """The named columns of some cells."""
        rows = [self.columns(*cell) for cell in cells]
        return {name: np.array([row[name] for row in rows]) for name in names}

    def job(
        self,
        width: int,
        flops: float,
        rates: Sequence[float],
        seeds: Sequence[int],
        seal: str = "",
    ) -> dict[str, Any]:
        """The runs of a cell, one a rate and seed; a seal is that of their prediction."""
        return {
            "width": width,
            "num_steps": self.recipe.num_steps(width, flops),
            "rates": list(rates),
            "seeds": list(seeds),
            "sealed": seal,
        }

    def results(self, jobs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Of all jobs by name; those that have no file yet are done now."""
        return job_queue.run_queue(self._train, jobs, self.folder)

    def _train(
        self, width: int, num_steps: int, rates: list[float], seeds: list[int], sealed: str
    ) -> dict[str, Any]:
        """Trains the runs of one shape on new windows; the noise scale where a seal is given."""
        started = now()
        stream = 1000 * width + 1_000_000 * num_steps + seeds[0]
        windows = self.language.windows(stream, num_steps * self.recipe.batch_size)
        model, params = _gpt.train(self.recipe, width, windows, rates, seeds)
        result = {
            "started": started,
            "losses": _gpt.evaluate(model, params, self._held_out).tolist(),
        }
        if sealed:
            scale = _gpt.noise_scale(model, params, self._held_out, self.recipe.batch_size)
            result["noise_scale"] = scale.examples * self.recipe.length
            result["noise_scale_error"] = scale.standard_error * self.recipe.length
        return result

    @functools.cached_property
    def _held_out(self) -> np.ndarray:
        return self.language.held_out(self.num_windows)


def name(kind: str, width: int, flops: float) -> str:
    """Of a job: run-16-1e10."""
    return f"{kind}-{width}-{flops:.3g}".replace("e+", "e")
