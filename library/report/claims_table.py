"""The table of claims of all finished runs: the measured number beside the published one."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from library.claims import KINDS, UNKNOWN, Claim, Source
from library.report import numbers, run_folder
from library.storage import files

if TYPE_CHECKING:
    import rich.table

_SKIPPED = ("checkpoints", "figures")  # folders of a run that hold no runs, but many files


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim of one finished run."""

    run: str
    claim: Claim

    @property
    def verdict(self) -> str:
        """'holds', 'FAILS', or 'not judged'."""
        if not self.claim.judged:
            return "not judged"
        return "holds" if self.claim.holds else "FAILS"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: its folder.
        question: dotted name; empty where the folder does not say.
        preset: its name.
        finished: when its result was written, in seconds of the file system's clock.
        rows: its claims.
    """

    name: str
    question: str
    preset: str
    finished: float
    rows: tuple[Row, ...]


def collect(root: str | os.PathLike) -> list[Run]:
    """All finished runs under a folder, sorted by name.

    The verdicts are computed from the numbers again, not read from the file.

    Raises:
        ValueError: if the folder does not exist or a file of a run in it is damaged.
    """
    root = files.local(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder of runs")
    runs = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED)
        if run_folder.RESULT in names:
            path = pathlib.Path(folder)
            name = path.relative_to(root).as_posix()
            runs.append(_run(name if path != root else path.name, path))
    return sorted(runs, key=lambda run: run.name)


def newest(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """The newest run of each question and preset, and the older ones that it replaces.

    A run whose folder names no question stands for itself.
    """
    runs, last = list(runs), {}
    for run in sorted(runs, key=lambda run: (run.finished, run.name)):
        last[run.question and (run.question, run.preset) or run.name] = run.name
    kept = set(last.values())
    return [r for r in runs if r.name in kept], [r for r in runs if r.name not in kept]


def rows_of(run: str, path: str | os.PathLike) -> list[Row]:
    """The claims in one `result.json`, under the run's name.

    Sources without a kind, as runs before there were kinds wrote them, are of kind "unknown".

    Raises:
        ValueError: if the file is damaged.
    """
    content = files.read_json(path)
    try:
        return [Row(run, _claim(entry)) for entry in content["claims"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no claims as a run writes them: {error}") from None


def failed(rows: Iterable[Row]) -> list[Row]:
    """The judged claims that do not hold."""
    return [row for row in rows if row.claim.judged and not row.claim.holds]


def sums(rows: Iterable[Row]) -> str:
    """How many judged claims hold, by the kind of their source: 'paper 3 of 4, bar 1 of 1'."""
    judged = [row for row in rows if row.claim.judged]
    parts = []
    for kind in (*KINDS, UNKNOWN):
        mine = [row for row in judged if row.claim.source.kind == kind]
        if mine:
            parts.append(f"{kind} {len(mine) - len(failed(mine))} of {len(mine)}")
    return ", ".join(parts)


def table(rows: Sequence[Row], show_run: bool = True) -> rich.table.Table:
    """The rows as a table for `rich.print`."""
    import rich.table
    import rich.text

    colours = {"holds": "green", "FAILS": "bold red", "not judged": "dim"}
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    names = ["run"] * show_run + ["claim", "measured", "expected", "source", "verdict"]
    for name in names:
        right = name in ("measured", "expected")
        justify = "right" if right else "left"
        grid.add_column(name, justify=justify, no_wrap=name == "verdict", overflow="fold")
    for row in rows:
        claim = row.claim
        cells = [row.run] * show_run + [claim.name]
        cells += [numbers.measured(claim), numbers.expectation(claim)]
        cells.append(f"{claim.source.kind}: {claim.source.text}")
        verdict = rich.text.Text(row.verdict, style=colours[row.verdict])
        # Text, not str: names may hold square brackets, which rich takes for markup.
        grid.add_row(*map(rich.text.Text, cells), verdict)
    return grid


def _run(name: str, path: pathlib.Path) -> Run:
    result = path / run_folder.RESULT
    rows = tuple(rows_of(name, result))
    config = path / run_folder.CONFIG
    record = files.read_json(config) if config.exists() else {}
    if not isinstance(record, dict):
        raise ValueError(f"{config} does not hold a config")
    question, preset = (str(record.get(key, "")) for key in ("question", "preset"))
    return Run(name, question, preset, result.stat().st_mtime, rows)


def _claim(entry: dict[str, Any]) -> Claim:
    source = Source(entry["source"], entry.get("kind", UNKNOWN))
    names = ("name", "measured", "expected", "relation", "tolerance", "judged")
    return Claim(**{name: entry[name] for name in names}, source=source)
