"""Your own runs from a CSV file, or runs of a made-up law; what must be said of them first."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes

from library import figure_style
from research.scaling_laws import laws, planning, run_files
from research.scaling_laws.runs import Runs

LAW = {"E": 1.7, "A": 400.0, "B": 1000.0, "alpha": 0.34, "beta": 0.32}  # of the made-up runs


def read(path: str, columns: tuple[str, ...], skip_failed: bool) -> Runs | None:
    """The runs of a file, once it is said what was taken for what; None where no file is named.

    Args:
        path: of the file, or empty.
        columns: "loss=eval/loss" and the like, where a column has another name.
        skip_failed: leave out the runs without a loss.
    Raises:
        ValueError: in one line.
    """
    if not path:
        if columns or skip_failed:
            raise ValueError("--columns and --skip-failed are for a file: expected --runs FILE.csv")
        return None
    for pair in columns:
        if "=" not in pair:
            raise ValueError(f"columns: {pair!r}: expected NAME=COLUMN, e.g. loss=eval_loss")
    named = dict(pair.split("=", 1) for pair in columns)
    runs = run_files.read(path, columns=named, skip_failed=skip_failed)
    print("\n".join((f"{len(runs)} runs of {path}", *runs.notes)))
    return runs


def made_up(size: np.ndarray, tokens: np.ndarray, noise: float) -> Runs:
    """Runs [N] of the made-up law, with normal noise of the log loss."""
    loss = laws.chinchilla.predict(LAW, parameters=size, tokens=tokens)
    draw = np.random.default_rng(0).normal(size=len(size))
    return Runs(parameters=size, tokens=tokens, loss=loss * np.exp(noise * draw))


@contextlib.contextmanager
def warnings_first() -> Iterator[None]:
    """Prints what is warned of inside, a line each, as soon as it ends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"warning: {message}")


def mark_plan(axes: Axes, compute: float, largest: float) -> None:
    """A line at the planned budget, and a shade where a plan is beyond `planning.FAR` times."""
    axes.axvline(compute, color=figure_style.PALETTE[1], linewidth=1, linestyle="--", label="plan")
    far = planning.FAR * largest
    if compute > far:
        label = f"beyond {planning.FAR:g} times the runs"
        axes.axvspan(far, compute, color=figure_style.GRID, zorder=0, label=label)
