"""The folder of a run, from its config to its `result.json`.

A run folder holds `config.json`, `versions.json`, `metrics.jsonl`, TensorBoard events,
`checkpoints/`, `figures/*.png`, `result.json` and `report.html`. Every file is written whole or not
at all, by the first process only.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import re
from typing import Any

from library import environment
from library.claims import Result
from library.report import config_json
from library.storage import files

CONFIG, VERSIONS, RESULT, HTML = "config.json", "versions.json", "result.json", "report.html"
FIGURE_DPI = 160


@dataclasses.dataclass(frozen=True)
class RunDir:
    """The folder of one run; `open_or_create` makes it."""

    path: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> pathlib.Path:
        return self.path / "figures"

    @property
    def finished(self) -> bool:
        return (self.path / RESULT).exists()

    def config(self, config_type: type) -> Any:
        """The config that made this run, as an instance of its dataclass."""
        return config_json.from_json(config_type, self.record()["config"])

    def record(self) -> dict[str, Any]:
        """`config.json`: the question, the preset and the config, as JSON values."""
        return files.read_json(self.path / CONFIG)

    def result(self) -> dict[str, Any]:
        """`result.json` of a finished run."""
        return files.read_json(self.path / RESULT)

    def figure(self, name: str, figure: Any) -> pathlib.Path:
        """Writes a Matplotlib figure as `figures/<name>.png` and returns that path.

        Raises:
            ValueError: if the name is not a plain file name.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"figure name {name!r}: expected letters, digits, '_', '-' and '.'")
        path = self.figures / f"{name}.png"
        if files.is_writer():
            png = io.BytesIO()
            # No software version inside: the same arrays give the same bytes.
            figure.savefig(png, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
            files.write_atomic(path, png.getvalue())
        return path

    def write_versions(self, seed: int | None = None) -> None:
        """Writes `versions.json`; a resumed run adds what has changed under `resumed_with`."""
        if not files.is_writer():
            return
        path, now = self.path / VERSIONS, environment.describe(seed)
        if not path.exists():
            files.write_json(path, now)
            return
        first = files.read_json(path)
        later = first.pop("resumed_with", [])
        if now != (later or [first])[-1]:
            files.write_json(path, {**first, "resumed_with": [*later, now]})

    def write_result(self, result: Result, preset: str, seconds: float) -> None:
        """Writes `result.json`, which marks the run as finished.

        Args:
            result: metrics and claims; the claims of a smoke run are written, never judged.
            preset: name of the preset the run started from.
            seconds: wall time of the whole run.
        """
        judged = preset != "smoke"
        claims = [
            {
                "name": claim.name,
                "measured": claim.measured,
                "expected": claim.expected,
                "relation": claim.relation,
                "tolerance": claim.tolerance,
                "source": claim.source.text,
                "kind": claim.source.kind,
                "holds": claim.holds,
                "judged": judged and claim.judged,
            }
            for claim in result.claims
        ]
        content = {
            "metrics": {name: float(value) for name, value in result.metrics.items()},
            "claims": claims,
            "preset": preset,
            "device": environment.device_kind(),
            "seconds": round(float(seconds), 3),
        }
        if files.is_writer():
            files.write_json(self.path / RESULT, content)


def open_or_create(
    path: str | os.PathLike, config: Any, question: str = "", preset: str = ""
) -> RunDir:
    """The folder of a run of this config: a new one, or the same run's, to be resumed.

    Args:
        path: an absent or empty folder, or one of a run with the same config.
        config: a dataclass; all of its fields must agree for a resume.
        question: dotted name of the question, part of what must agree.
        preset: name of the preset, part of what must agree: it decides whether claims are judged.
    Returns:
        `RunDir`; a new one holds `config.json`, an old one is left as it was.
    Raises:
        ValueError: if the path is not a folder, holds something else than a run, or a run of
            another config (the fields that differ are named), or is an address such as gs://.
            Nothing is written then.
    """
    path = files.local(path)
    record = {"question": question, "preset": preset, "config": config_json.to_json(config)}
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: expected a folder for the run")
    if (path / CONFIG).exists():
        _check_same(path, record)
        return RunDir(path)
    strangers = sorted(item.name for item in path.iterdir()) if path.exists() else []
    strangers = [name for name in strangers if not name.startswith(files.TEMPORARY)]
    if strangers:
        raise ValueError(
            f"{path} is not a run (it has no {CONFIG}) and is not empty: it holds {strangers[0]}"
            + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else "")
        )
    if files.is_writer():
        files.write_json(path / CONFIG, record, sort_keys=True)
    return RunDir(path)


def _check_same(path: pathlib.Path, record: dict) -> None:
    theirs = files.read_json(path / CONFIG)
    if not isinstance(theirs, dict):
        raise ValueError(f"{path / CONFIG} does not hold a config")
    lines = config_json.differences(theirs, record)
    if lines:
        # Of two questions hardly a field agrees: that they are two is said first.
        lines.sort(key=lambda line: not line.startswith("question:"))
        lines = [line.removeprefix("config.") for line in lines]
        raise ValueError(
            f"{path} holds a run of another config (theirs -> yours): {'; '.join(lines)}"
        )
