"""Training runs as columns, with every value checked; `run_files` reads and writes them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping

import numpy as np

COLUMNS = ("parameters", "tokens", "flops", "loss")  # the schema; more columns may follow
MAX_LOSS = 100.0  # nats per token: uniform guessing over 10^43 symbols; more is a diverged run
UNITS = 2.0  # factor up to which flops and 6 parameters tokens count as one


class UnitsWarning(UserWarning):
    """The runs' FLOPs are not 6 parameters tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """The finished runs of a sweep, one row each.

    Attributes:
        loss: [N] held-out loss, nats per token, > 0.
        parameters: [N] size by one convention (`counting`), > 0, or None.
        tokens: [N] tokens seen in training, > 0, or None.
        flops: [N] training compute, FLOP; None is 6 parameters tokens where both are known.
        extra: further positive columns by name, [N] each: learning_rate, batch_size,
            unique_tokens, steps, error, ...
        allow_duplicates: whether a run may be there twice, equal in every column, the loss too.
        notes: what a file's columns were taken for, and what was left out.
    Raises:
        ValueError: naming row (counted from 1) and column of a value that is missing, not
            positive, not finite, diverged, or of a run that is there twice.
    """

    loss: np.ndarray
    parameters: np.ndarray | None = None
    tokens: np.ndarray | None = None
    flops: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    allow_duplicates: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known_both = self.parameters is not None and self.tokens is not None
        if self.flops is None and known_both:
            product = 6.0 * np.asarray(self.parameters, float) * np.asarray(self.tokens, float)
            object.__setattr__(self, "flops", product)
        for name in COLUMNS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _column(name, getattr(self, name)))
        taken = [name for name in self.extra if name in COLUMNS]
        if taken:
            raise ValueError(f"extra has the column {taken[0]!r}, which has an argument of its own")
        extra = {name: _column(name, values) for name, values in self.extra.items()}
        object.__setattr__(self, "extra", extra)
        check(self.columns())
        if not self.allow_duplicates:
            _refuse_duplicates(self.columns())

    def __len__(self) -> int:
        return len(self.loss)

    def column(self, name: str) -> np.ndarray:
        """[N] one column by name.

        Raises:
            ValueError: if the runs lack it.
        """
        values = self.columns().get(name)
        if values is None:
            raise ValueError(
                f"the runs have no column {name!r}: they have {', '.join(self.columns())}"
            )
        return values

    def columns(self) -> dict[str, np.ndarray]:
        """All columns that are there, in the order in which they are written."""
        named = {name: getattr(self, name) for name in COLUMNS}
        return {k: v for k, v in named.items() if v is not None} | dict(self.extra)

    def take(self, rows: np.ndarray) -> Runs:
        """The runs of some rows, by a mask [N] or indices; duplicates are then allowed."""
        columns = {name: values[rows] for name, values in self.columns().items()}
        named = {name: columns.pop(name) for name in COLUMNS if name in columns}
        return Runs(**named, extra=columns, allow_duplicates=True)


def warn_of_units(runs: Runs, stacklevel: int = 2) -> None:
    """Warns, `UnitsWarning`, where FLOPs are not 6 parameters tokens to within a factor of two.

    Counts differ by less: attention, embeddings and heads move a published sweep to between 0.7
    and 2. A ratio of 1e-15 is a unit. Nothing is said where a column is missing.
    """
    if runs.flops is None or runs.parameters is None or runs.tokens is None:
        return
    ratio = runs.flops / (6 * runs.parameters * runs.tokens)
    if np.all((ratio > 1 / UNITS) & (ratio < UNITS)):
        return
    message = (
        f"flops / (6 parameters tokens) is {np.median(ratio):.3g} (from {ratio.min():.3g} to "
        f"{ratio.max():.3g}): units differ, or parameters are counted otherwise than FLOPs; plans "
        "go by C = 6 N D"
    )
    warnings.warn(message, UnitsWarning, stacklevel=stacklevel)


def _column(name: str, values: object) -> np.ndarray:
    try:
        values = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column {name} is not numbers") from None
    if values.ndim != 1:
        raise ValueError(f"column {name} has shape {values.shape}: expected [N]")
    return values


def check(
    columns: Mapping[str, np.ndarray], label: Callable[[int], str] = lambda row: f"run {row + 1}"
) -> None:
    """Checks lengths and values of columns [N], `loss` among them.

    Args:
        columns: by name.
        label: what a row is called in a message.
    Raises:
        ValueError: naming row and column.
    """
    loss = columns["loss"]
    for name, values in columns.items():
        if len(values) != len(loss):
            raise ValueError(f"column {name} has {len(values)} rows, loss has {len(loss)}")
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise ValueError(
                f"{label(bad[0])}, column {name}: {values[bad[0]]:g} is not positive and finite"
            )
    diverged = np.flatnonzero(loss > MAX_LOSS)
    if len(diverged):
        row = diverged[0]
        raise ValueError(
            f"{label(row)}, column loss: {loss[row]:g} nats per token is a diverged run"
        )


def _refuse_duplicates(columns: Mapping[str, np.ndarray]) -> None:
    seen: dict[tuple, int] = {}
    for row, values in enumerate(zip(*columns.values())):
        first = seen.setdefault(values, row)
        if first != row:
            raise ValueError(
                f"run {row + 1} repeats run {first + 1} in every column (loss included)"
            )
