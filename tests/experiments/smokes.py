"""What a smoke run leaves, as numbers beside those on record: metrics, logs, data of figures.

A study's wiring (which seed, batch, split, schedule or part goes where) has no closed form; its
smokes are runs of a few updates whose numbers are the same on every machine but for rounding. They
are kept in `recorded/STUDY.json`, and a change that moves one must say so:

    ANSATZ_RECORD=1 python -m pytest tests/experiments/test_questions.py -k "smoke and ntk.mnist"

A number that is no more than the time of another process, memory or rounding is null there: only
its name is compared.
What the claims hold the numbers against stands in `published.txt`, by the READMEs.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import pathlib
import sys
import time

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from library import metrics, timing
from library.data import sources, text
from library.report import RunDir

FOLDER = pathlib.Path(__file__).parent / "recorded"
RECORD = os.environ.get("ANSATZ_RECORD", "") == "1"
OF_WHAT_IS_THERE = ("language_models.inference", "language_models.tokenizers")  # the text is
NUMBERS = ("measured", "expected", "tolerance")  # of a claim
TOLERANCE = 2e-3  # relative: float32, a few updates, other cores and versions of JAX


@contextlib.contextmanager
def watched(monkeypatch):
    """{name: `data_of` it} of the figures that are written inside.

    There clocks count their readings, compiled memory grows by a thousand bytes a question, and
    the text that is read for want of another is the same for every version of Python.
    """
    seen, write, clock = {}, RunDir.figure, Clock()

    def figure(self, name, drawn):
        seen[name] = data_of(drawn)
        return write(self, name, drawn)

    monkeypatch.setattr(RunDir, "figure", figure)
    monkeypatch.setattr(text, "pydoc_topics", made_up_text)
    asked = itertools.count(1)
    monkeypatch.setattr(timing, "compiled_bytes", lambda *_: 1000 * next(asked))
    for name, module in list(sys.modules.items()):
        if name.startswith(("experiments.", "library.timing")) and hasattr(module, "time"):
            monkeypatch.setattr(module, "time", clock)
    yield seen


class Clock:
    """`time`, but the n-th reading of its counter is 1 + 2 + ... + n milliseconds."""

    def __init__(self):
        self.readings, self.now = itertools.count(1), 0.0

    def perf_counter(self) -> float:
        self.now += 1e-3 * next(self.readings)
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)


@functools.cache
def made_up_text() -> str:
    """160,000 characters: words of few letters by Zipf's law, a line a dozen."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGH"))
    words = ["".join(rng.choice(letters, length)) for length in rng.integers(1, 9, 500)]
    law = 1 / np.arange(1, 501)
    drawn = [words[k] for k in rng.choice(500, 35_000, p=law / law.sum())]
    lines = [" ".join(drawn[k : k + 12]) for k in range(0, len(drawn), 12)]
    return "\n".join(lines)[:160_000]


def data_of(figure: Figure) -> list[list[float]]:
    """What is drawn, an entry for each of the axes: points, weighted means of x and of y, the
    limits that were set or 0, the ticks that were set, letters.

    The weights grow from 1 to 2 over the points, so that their order matters; of an axis that is
    logarithmic the mean is one of logarithms.
    """
    found = []
    for axes in figure.axes:
        points = [np.zeros((0, 2))]
        for line in axes.lines:
            points.append(np.stack(np.broadcast_arrays(*line.get_data()), 1))
        for group in axes.collections:
            shapes = group.get_segments() if isinstance(group, LineCollection) else []
            shapes = shapes or [path.vertices for path in group.get_paths()]
            points += shapes if isinstance(group, Collection) else []
        for patch in axes.patches:
            if isinstance(patch, Rectangle):
                points.append([[patch.get_x(), patch.get_y()],
                               [patch.get_width(), patch.get_height()]])  # fmt: skip
        for image in axes.images:
            values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan).ravel()
            points.append(np.stack([np.arange(len(values)) / len(values), values], 1))
        rows = np.concatenate([np.asarray(each, float).reshape(-1, 2) for each in points])
        scales = axes.get_xscale(), axes.get_yscale()
        means = [_mean(column, scale) for column, scale in zip(rows.T, scales)]
        found.append([len(rows), *means, *_limits(axes), _letters(axes)])
    letters = sum(len(text.get_text()) for text in figure.texts)  # of a title above all axes
    return [*found, [letters]] if letters else found


def _limits(axes: Axes) -> list[float]:
    found = []
    pairs = ((axes.xaxis, axes.get_autoscalex_on()), (axes.yaxis, axes.get_autoscaley_on()))
    for axis, free in pairs:
        found += [0.0, 0.0] if free else list(map(float, axis.get_view_interval()))
        fixed = isinstance(axis.get_major_locator(), ticker.FixedLocator)
        found.append(float(np.sum(axis.get_major_locator().locs)) if fixed else 0.0)
    return found


def _letters(axes: Axes) -> int:
    """Of title, labels, legend, notes and named ticks."""
    texts = [axes.get_title(), axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
    texts += [text.get_text() for text in axes.texts]
    if axes.get_legend() is not None:
        texts += [text.get_text() for text in axes.get_legend().get_texts()]
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), ticker.FixedFormatter):
            texts += list(axis.get_major_formatter().seq)
    return sum(map(len, texts))


def _mean(values: np.ndarray, scale: str) -> float:
    weights = np.linspace(1, 2, len(values))
    if scale == "log":
        values = np.where(values > 0, values, np.nan)
        values = np.log(values)
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else 0.0


def left_by(folder: pathlib.Path, result: dict, drawn: dict) -> dict:
    """All numbers of a finished run, by what they are."""
    logs, kept = {}, {}
    for file in sorted(folder.rglob("metrics.jsonl")):
        rows, part = metrics.read(file.parent), str(file.parent.relative_to(folder))
        last = {k: v for k, v in rows[-1].items() if _is_number(v) and k != "wall"}
        logs |= {f"{part} rows": len(rows)}
        logs |= {f"{part} {name}": value for name, value in last.items()}
        steps = [int(path.name) for path in file.parent.glob("checkpoints/[0-9]*")]
        kept[part] = [len(steps), max(steps, default=0)]
    return {
        "metrics": {k: v for k, v in result["metrics"].items() if _is_number(v)},
        "claims": [[_number(claim[name]) for name in NUMBERS] for claim in result["claims"]],
        "logs": logs,
        "checkpoints": kept,
        "figures": drawn,
    }


def _number(value) -> float:
    return value if _is_number(value) else 0.0


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def differences(found, known, where: str = "") -> list[str]:
    """Where two trees of numbers differ; null on record is anything."""
    if isinstance(known, dict):
        if sorted(found) != sorted(known):
            return [f"{where}: {sorted(found)}, on record {sorted(known)}"]
        return [line for key in known for line in differences(found[key], known[key],
                                                              f"{where}/{key}")]  # fmt: skip
    if isinstance(known, list):
        if len(found) != len(known):
            return [f"{where}: {len(found)} entries, on record {len(known)}"]
        pairs = zip(found, known)
        return [x for i, pair in enumerate(pairs) for x in differences(*pair, f"{where}/{i}")]
    if known is None or math.isclose(found, known, rel_tol=TOLERANCE, abs_tol=1e-9):
        return []
    return [f"{where}: {found}, on record {known}"]


def compare(question: str, folder: pathlib.Path, result: dict, drawn: dict) -> None:
    """Raises AssertionError where a smoke's numbers are not those on record."""
    if question in OF_WHAT_IS_THERE and not sources.data_folder():
        return
    file = FOLDER / f"{question.partition('.')[0]}.json"
    records = json.loads(file.read_text()) if file.exists() else {}
    found = left_by(folder, result, drawn)
    if RECORD:
        records[question] = _merged(found, records.get(question))
        file.write_text(_pages(records))
    assert question in records, f"{question} is not on record; see the head of {__name__}"
    assert differences(found, records[question]) == []


def _pages(records: dict) -> str:
    """JSON, a line for each kind of number of each question."""
    parts = []
    for question, kinds in sorted(records.items()):
        lines = [f"  {json.dumps(kind)}: {json.dumps(rows)}" for kind, rows in kinds.items()]
        parts.append(f"{json.dumps(question)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _merged(found, known):
    """What is found, to six digits; null stays null."""
    if isinstance(found, dict):
        known = known if isinstance(known, dict) else {}
        return {key: _merged(value, known.get(key, 0)) for key, value in found.items()}
    if isinstance(found, list):
        same = isinstance(known, list) and len(known) == len(found)
        return [_merged(v, known[i] if same else 0) for i, v in enumerate(found)]
    return None if known is None else float(f"{found:.6g}")
