"""What a training run records: metrics of its steps, evaluations on the way, and its progress."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from library import checks, fit, metrics, progress, report
from library.types import TrainState


@dataclasses.dataclass(frozen=True)
class Every:
    """An evaluation on the way, e.g. `Every(250, lambda state: {"eval/loss": loss(state.params)})`.

    Attributes:
        period: steps between two evaluations; the last step is evaluated too.
        fn: state -> scalars by name. The next step donates the state: keep no reference to it.
            With several processes all of them call it.
    Raises:
        ValueError: if the period is no positive whole number.
    """

    period: int
    fn: Callable[[TrainState], Mapping[str, Any]]

    def __post_init__(self) -> None:
        checks.count("evaluate: period", self.period, of="steps")


@contextlib.contextmanager
def recorders(
    directory: pathlib.Path,
    num_steps: int,
    start: int,
    log_every: int,
    evaluate: Every | None = None,
    own: Collection[str] = (),
) -> Iterator[list[fit.Hook]]:
    """The hooks of every training run: metrics to disk, durable before a checkpoint, and a bar.

    Args:
        directory: the run's folder.
        num_steps: of the whole run.
        start: the step that it goes on from; later records are dropped.
        log_every: steps between two records.
        evaluate: an evaluation on the way, whose numbers join the record of its step.
        own: names of the training step's metrics, which an evaluation can't take.
    """
    with (
        metrics.MetricsWriter(directory, resume_step=start) as writer,
        progress.Progress(num_steps, "training", start=start) as bar,
    ):

        def write(step: int, values: Mapping[str, Any]) -> None:
            writer.write(step, values)
            # As floats: the bar may draw them when the arrays have been donated.
            bar.update(step, {name: float(value) for name, value in values.items()})

        hooks = [fit.BeforeSave(lambda step: writer.flush())]
        if evaluate is None:
            yield [fit.OnMetrics(log_every, write), *hooks]
        else:
            yield [*_merged(write, num_steps, log_every, evaluate, own), *hooks]


def _merged(
    write: Callable[[int, Mapping[str, Any]], None],
    num_steps: int,
    log_every: int,
    evaluate: Every,
    own: Collection[str],
) -> list[fit.Hook]:
    """Hooks that write one record a step, of its metrics and its evaluation."""
    held: dict[int, dict[str, float]] = {}

    def record(step: int, values: dict[str, float]) -> None:
        # Of one step the loop reads the metrics first and calls the hooks on the state then.
        if on_state.due(step) or step == num_steps:
            held[step] = values
        else:
            write(step, values)

    def judge(step: int, state: TrainState) -> None:
        found = evaluate.fn(state)
        taken = sorted(set(own) & set(found))
        if taken:
            raise ValueError(f"evaluate gives {taken}, which the training step records itself")
        write(step, {**held.pop(step, {}), **found})

    on_state = fit.OnState(evaluate.period, judge)
    return [fit.OnMetrics(log_every, record), on_state]


def evaluations(out: report.RunDir, name: str) -> np.ndarray:
    """The numbers of that name that a run has recorded, before a resume too.

    Args:
        out: the run's folder.
        name: as `evaluate` gave it, e.g. "eval/loss", or a metric of the training step.
    Returns:
        [N, 2] float64, (step, value), in the order of the steps.
    Raises:
        ValueError: if there is none.
    """
    records = metrics.read(out.path)
    found = [(record["step"], record[name]) for record in records if name in record]
    if not found:
        names = sorted({name for record in records for name in record} - {"step", "wall"})
        raise ValueError(f"{out.path} has no record of {name!r}: expected one of {names}")
    return np.array(found, np.float64)
