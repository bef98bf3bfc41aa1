"""Training runs as columns: made, read and written with every value checked; nothing is dropped."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from library.storage import files

COLUMNS = ("parameters", "tokens", "flops", "loss")  # the schema; more columns may follow
MAX_LOSS = 100.0  # nats per token: uniform guessing over 10^43 symbols; more is a diverged run


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

    def __post_init__(self) -> None:
        known_both = self.parameters is not None and self.tokens is not None
        if self.flops is None and known_both:
            product = 6.0 * np.asarray(self.parameters, float) * np.asarray(self.tokens, float)
            object.__setattr__(self, "flops", product)
        for name in COLUMNS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _column(name, getattr(self, name)))
        extra = {name: _column(name, values) for name, values in self.extra.items()}
        object.__setattr__(self, "extra", extra)
        _check(self)

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


def read_csv(path: str | os.PathLike, allow_duplicates: bool = False) -> Runs:
    """Runs from a CSV file with a header: `loss` and any of parameters, tokens, flops, and more.

    Columns that hold text (a run's name) are skipped; a column of the schema must be numbers.

    Raises:
        ValueError: in one line, naming file, row (the header is row 1) and column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    header = [name.strip() for name in table[0]] if table else []
    if "loss" not in header or not set(header) & set(COLUMNS[:3]):
        raise ValueError(
            f"{path} has columns {', '.join(header) or '(none)'}: expected loss and "
            "at least one of parameters, tokens, flops"
        )
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"{path} has the column {sorted(twice)[0]!r} twice")
    columns = {}
    for index, name in enumerate(header):
        cells = [_cell(path, row, number, index, header) for number, row in _rows(table)]
        try:
            columns[name] = np.array([float(cell) for cell in cells])
        except ValueError:
            if name in COLUMNS:
                number, cell = next((n + 2, c) for n, c in enumerate(cells) if not _is_number(c))
                raise ValueError(
                    f"{path} row {number}, column {name}: {cell!r} is not a number"
                ) from None
    named = {name: columns.pop(name) for name in COLUMNS if name in columns}
    extra = {name: values for name, values in columns.items() if np.all(values > 0)}
    try:
        return Runs(**named, extra=extra, allow_duplicates=allow_duplicates)
    except ValueError as error:
        raise ValueError(f"{path}: {error} (run 1 is row 2 of the file)") from None


def write_csv(path: str | os.PathLike, runs: Runs) -> None:
    """Writes every column; `read_csv` gives the same runs to the bit."""
    columns = runs.columns()
    lines = [",".join(columns)]
    lines += [",".join(repr(float(v)) for v in row) for row in zip(*columns.values())]
    files.write_atomic(path, ("\n".join(lines) + "\n").encode())


def _rows(table: list[list[str]]) -> list[tuple[int, list[str]]]:
    return [(number, row) for number, row in enumerate(table[1:], start=2) if row]


def _cell(path: object, row: list[str], number: int, index: int, header: list[str]) -> str:
    if len(row) != len(header):
        raise ValueError(f"{path} row {number} has {len(row)} cells: expected {len(header)}")
    return row[index].strip()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(name: str, values: object) -> np.ndarray:
    try:
        values = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column {name} is not numbers") from None
    if values.ndim != 1:
        raise ValueError(f"column {name} has shape {values.shape}: expected [N]")
    return values


def _check(runs: Runs) -> None:
    """Lengths, values and duplicates."""
    columns = runs.columns()
    for name, values in columns.items():
        if len(values) != len(runs.loss):
            raise ValueError(f"column {name} has {len(values)} rows, loss has {len(runs.loss)}")
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise ValueError(
                f"run {bad[0] + 1}, column {name}: {values[bad[0]]:g} is not positive and finite"
            )
    diverged = np.flatnonzero(runs.loss > MAX_LOSS)
    if len(diverged):
        row = diverged[0]
        raise ValueError(
            f"run {row + 1}, column loss: {runs.loss[row]:g} nats per token is a diverged run"
        )
    if not runs.allow_duplicates:
        seen: dict[tuple, int] = {}
        for row, values in enumerate(zip(*columns.values())):
            first = seen.setdefault(values, row)
            if first != row:
                raise ValueError(
                    f"run {row + 1} repeats run {first + 1} in every column (loss included)"
                )
