"""Sweeps in CSV files as people have them: read by the usual names, with what was taken said.

runs = read("sweep.csv", skip_failed=True)
print("\\n".join(runs.notes))  # params is read as parameters; tokens are flops / (6 parameters)
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from library.storage import files
from research.scaling_laws.runs import COLUMNS, MAX_LOSS, Runs, check

# Other names of the columns: small letters and digits alone, so `num_params` is `Num Params`.
ALIASES = {
    "parameters": "params n numparams nparams numparameters nparameters modelparams modelsize size",
    "tokens": "d numtokens ntokens traintokens trainingtokens totaltokens tokensseen datasize",
    "flops": "c compute flop totalflops trainflops trainingflops trainingflop numflops",
    "loss": "l valloss validationloss evalloss testloss finalloss heldoutloss",
}
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}  # as in 125M parameters
# The last word of a column's name, as in `params (M)` and `tokens_b`.
UNITS = SUFFIXES | {"millions": 1e6, "billions": 1e9, "trillions": 1e12}


def read(
    path: str | os.PathLike,
    *,
    columns: Mapping[str, str] | None = None,
    skip_failed: bool = False,
    allow_duplicates: bool = False,
) -> Runs:
    """Runs from a file with a header: `loss` and any of parameters, tokens, flops, and more.

    A column is found by its name or, where it is missing, by a usual one (`params`, `N`, `D`,
    `FLOPs`, `val_loss`, ...; capitals and underscores do not matter). Sizes and tokens may end in
    K, M, B or T, or else the name of their column, as in `params (M)`. Where the tokens are missing
    they are flops / (6 parameters). Cells are separated by commas, semicolons or tabs, as the
    header has them. What was taken for what, and what was left out, is in `Runs.notes`.

    Args:
        path: of the file.
        columns: {column of the schema: its name in the file}, where it has another.
        skip_failed: leave out the runs without a loss (empty, not a number, not above 0, or above
            100 nats per token); they are listed in the notes.
        allow_duplicates: whether a run may be there twice, equal in every column of the file.
    Raises:
        ValueError: in one line, naming file, row (as an editor counts lines) and column.
    """
    header, rows = _table(path)
    places, notes = _places(path, header, columns or {})
    rows = _finished(path, rows, places["loss"], skip_failed, notes)
    if not allow_duplicates:
        _refuse_duplicates(path, header, rows)
    named = {
        name: np.array([_value(path, name, row, cells[place], unit) for row, cells in rows])
        for name, place in places.items()
        for unit in [_unit(name, header[place])]
    }
    extra = _extra(header, rows, set(places.values()), notes)
    if "tokens" not in named and {"parameters", "flops"} <= set(named):
        notes.append("tokens are flops / (6 parameters): the file has none")
        named["tokens"] = named["flops"] / (6 * named["parameters"])
    try:
        check(named | extra, label=lambda index: f"row {rows[index][0]}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Runs(**named, extra=extra, allow_duplicates=True, notes=tuple(notes))


def write(path: str | os.PathLike, runs: Runs) -> None:
    """Writes every column; `read` gives the same runs to the bit."""
    columns = runs.columns()
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([repr(float(value)) for value in row] for row in zip(*columns.values()))
    files.write_atomic(path, text.getvalue().encode())


def _table(path: str | os.PathLike) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the rows with the line of the file where each begins; blank ones dropped."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=max(",;\t", key=first.count))
    table, begin = [], 1
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells):
            table.append((begin, cells))
        begin = reader.line_num + 1
    if not table:
        raise ValueError(f"{path} is empty: expected a header and a row for each run")
    (_, header), *rows = table
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path} row {line} has {len(cells)} cells: expected {len(header)}")
    if not rows:
        raise ValueError(f"{path} has a header and no run")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice")
    return header, rows


def _places(
    path: object, header: list[str], given: Mapping[str, str]
) -> tuple[dict[str, int], list[str]]:
    """{column of the schema: its place in the header}, and what was taken by another name."""
    for name, theirs in given.items():
        if name not in COLUMNS or theirs not in header:
            raise ValueError(
                f"columns[{name!r}] = {theirs!r}: expected one of {', '.join(COLUMNS)}, and a "
                f"column of {path}, which has {', '.join(header)}"
            )
    places, notes = {}, []
    for name in COLUMNS:
        known = {name, *ALIASES[name].split()}
        usual = [c for c in header if {_plain(c), _without_unit(name, c)} & known]
        if name in given:
            taken = given[name]
        elif name in header or not usual:
            taken = name
        elif len(usual) > 1:
            raise ValueError(
                f"{path}: {' and '.join(usual)} may each be the {name}: rename the one that is, "
                f"or say columns={{{name!r}: {usual[0]!r}}}"
            )
        else:
            taken = usual[0]
        if taken in header:
            places[name] = header.index(taken)
            if taken != name:
                unit = _unit(name, taken)
                times = "" if unit == 1 else f", times {unit:g}"
                notes.append(f"{taken} is read as {name}{times}")
    if "loss" not in places or len(places) < 2:
        raise ValueError(
            f"{path} has columns {', '.join(header)}: expected loss and at least one of "
            f"parameters, tokens, flops, or other usual names of them{_nearest(header, places)}"
        )
    return places, notes


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _unit(name: str, column: str) -> float:
    """What the last word of a column's name stands for where it is a unit; of losses none."""
    *first, last = _words(column) or [""]
    return UNITS.get(last, 1.0) if name != "loss" and len("".join(first)) > 1 else 1.0


def _without_unit(name: str, column: str) -> str:
    return "".join(_words(column)[:-1]) if _unit(name, column) != 1 else _plain(column)


def _words(column: str) -> list[str]:
    return re.findall(r"[^\W_]+", column.lower())


def _nearest(header: list[str], places: Mapping[str, int]) -> str:
    """A hint at columns whose names are nearly those that are missing."""
    hints = []
    for name in COLUMNS:
        wanted = [name, *(alias for alias in ALIASES[name].split() if len(alias) > 2)]
        close = [c for c in header if difflib.get_close_matches(_plain(c), wanted, 1, 0.75)]
        if name not in places and close:
            hints.append(f"{close[0]} is the {name} (--columns {name}={close[0]})")
    return f"; perhaps {' and '.join(hints)}" if hints else ""


def _finished(
    path: object,
    rows: list[tuple[int, list[str]]],
    place: int,
    skip_failed: bool,
    notes: list[str],
) -> list[tuple[int, list[str]]]:
    """The rows that have a loss, or a refusal that lists the others."""
    failed = [(line, cells[place]) for line, cells in rows if not _is_loss(cells[place])]
    if not failed:
        return rows
    lines = [line for line, _ in failed]
    listed = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
    if not skip_failed:
        line, cell = failed[0]
        what = _complaint(cell)
        raise ValueError(
            f"{path} row {line}, column loss: {what}; {len(failed)} of {len(rows)} runs have no "
            f"loss (rows {listed}): skip_failed (--skip-failed) leaves them out"
        )
    if len(failed) == len(rows):
        raise ValueError(f"{path}: no run has a loss")
    notes.append(f"{len(failed)} of {len(rows)} runs have no loss and are left out: rows {listed}")
    return [row for row in rows if row[0] not in set(lines)]


def _is_loss(cell: str) -> bool:
    value = _number(cell)
    return value is not None and 0 < value <= MAX_LOSS


def _complaint(cell: str) -> str:
    value = _number(cell)
    if value is None:
        return _not_a_number(cell)
    if value > MAX_LOSS:
        return f"{value:g} nats per token is a diverged run"
    return f"{value:g} is not positive and finite"


def _refuse_duplicates(
    path: object, header: Sequence[str], rows: list[tuple[int, list[str]]]
) -> None:
    seen: dict[tuple, int] = {}
    for line, cells in rows:
        whole = tuple(cell if _number(cell) is None else _number(cell) for cell in cells)
        if seen.setdefault(whole, line) != line:
            raise ValueError(
                f"{path} row {line} repeats row {seen[whole]} in every column "
                f"({', '.join(header)}): allow_duplicates takes both"
            )


def _extra(
    header: list[str], rows: list[tuple[int, list[str]]], taken: set[int], notes: list[str]
) -> dict[str, np.ndarray]:
    """The further columns of positive numbers; the others are named."""
    extra = {}
    for place, name in enumerate(header):
        if place in taken:
            continue
        values = [_number(cells[place]) for _, cells in rows]
        if name in COLUMNS:
            notes.append(f"{name} is left out: another column is read as it")
        elif any(value is None for value in values):
            notes.append(f"{name} is left out: it is not numbers")
        elif not all(0 < value < float("inf") for value in values):
            notes.append(f"{name} is left out: it is not positive everywhere")
        else:
            extra[name] = np.array(values)
    return extra


def _number(cell: str) -> float | None:
    if "_" in cell:  # Python would read 1_0e7 as 1e8
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _value(path: object, name: str, row: int, cell: str, unit: float) -> float:
    """A cell of the schema; sizes and tokens may be written as 125M, if not in units already."""
    value = _number(cell)
    suffixed = unit == 1 and name in ("parameters", "tokens")
    if value is None and suffixed and cell[-1:].lower() in SUFFIXES:
        value = _number(cell[:-1])
        value = None if value is None else value * SUFFIXES[cell[-1:].lower()]
    if value is None:
        raise ValueError(f"{path} row {row}, column {name}: {_not_a_number(cell)}")
    return value * unit


def _not_a_number(cell: str) -> str:
    hint = ": expected a decimal point and no separators" if {",", "_"} & set(cell) else ""
    return f"{cell!r} is not a number{hint}"
