"""The table of claims of all finished runs: the measured number beside the published one."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from library.claims import Claim, Source
from library.report import run_folder
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


def collect(root: str | os.PathLike) -> list[Row]:
    """The claims of all finished runs under a folder, sorted by run.

    The verdict is computed from the numbers again, not read from the file.

    Raises:
        ValueError: if the folder does not exist or a `result.json` in it is damaged.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder of runs")
    rows = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED)
        if run_folder.RESULT in names:
            path = pathlib.Path(folder)
            name = path.relative_to(root).as_posix()
            rows += rows_of(name if path != root else path.name, path / run_folder.RESULT)
    return rows


def rows_of(run: str, path: str | os.PathLike) -> list[Row]:
    """The claims in one `result.json`, under the run's name.

    Raises:
        ValueError: if the file is damaged.
    """
    content = files.read_json(path)
    try:
        return [Row(run, _claim(entry)) for entry in content["claims"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no claims as a run writes them: {error}") from None


def _claim(entry: dict[str, Any]) -> Claim:
    source = Source(entry["source"], entry["kind"])
    names = ("name", "measured", "expected", "relation", "tolerance", "judged")
    return Claim(**{name: entry[name] for name in names}, source=source)


def failed(rows: Iterable[Row]) -> list[Row]:
    """The judged claims that do not hold."""
    return [row for row in rows if row.claim.judged and not row.claim.holds]


def expectation(claim: Claim) -> str:
    """What was expected, e.g. '< 2.1', '1.5 ± 0.2' or '≤ 3 + 0.1'."""
    expected, tolerance = number(claim.expected), number(claim.tolerance)
    if claim.relation == "within":
        return f"{expected} ± {tolerance}"
    relation = {"<=": "≤", ">=": "≥", "==": "="}.get(claim.relation, claim.relation)
    slack = f" {'+' if '<' in claim.relation else '−'} {tolerance}" if claim.tolerance else ""
    return f"{relation} {expected}{slack}"


def number(value: Any) -> str:
    """A number with the digits a reader needs."""
    value = float(value)
    whole = value == round(value, 0) and abs(value) < 1e7
    return (str(int(value)) if whole else f"{value:.4g}").replace("-", "−", 1 if value < 0 else 0)


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
        cells = [row.run] * show_run + [claim.name, number(claim.measured), expectation(claim)]
        verdict = rich.text.Text(row.verdict, style=colours[row.verdict])
        # Text, not str: names may hold square brackets, which rich takes for markup.
        grid.add_row(*map(rich.text.Text, [*cells, claim.source.text]), verdict)
    return grid
