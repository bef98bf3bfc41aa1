"""Claims judge, run folders refuse what is not theirs, and the page shows what the run left."""

import base64
import dataclasses
import html.parser
import itertools
import json
import math
import re

import numpy as np
import pytest

from library import metrics, plots, report
from library.report import claims_table, curves
from library.report import html as report_html
from library.storage import files


@dataclasses.dataclass(frozen=True)
class Options:
    seed: int = 0
    mesh: str | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 10
    rate: float = 0.1
    run: Options = Options()


def claim(measured=1.0, expected=2.0, relation="<", tolerance=0.0, **extra):
    return report.Claim("error", measured, expected, relation, tolerance, "Peano 1889", **extra)


def finished(path, result=None, preset="default", config=None):
    run = report.open_or_create(path, config or Config(), "toy.ask", preset)
    run.write_result(result or report.Result({"error": 1.0}, [claim()]), preset, 12.3456)
    return run


@pytest.mark.parametrize(
    "relation, tolerance, holds_at",  # measured 1, 2, 3, 4 against 2 or with slack 1
    [
        ("<", 0, [1]),
        ("<=", 0, [1, 2]),
        (">", 0, [3, 4]),
        (">=", 0, [2, 3, 4]),
        ("==", 0, [2]),
        ("within", 0, [2]),
        ("<", 1, [1, 2]),
        ("<=", 1, [1, 2, 3]),
        (">", 1, [2, 3, 4]),
        (">=", 1, [1, 2, 3, 4]),
        ("within", 1, [1, 2, 3]),
    ],
)
def test_each_relation(relation, tolerance, holds_at):
    held = [x for x in (1, 2, 3, 4) if claim(x, 2, relation, tolerance).holds]
    assert held == holds_at


@pytest.mark.parametrize("relation", ["<", "<=", ">", ">=", "==", "within"])
def test_nothing_holds_between_numbers_that_are_not_finite(relation):
    values = (math.nan, math.inf, -math.inf)
    pairs = [(x, 1.0) for x in values] + [(1.0, x) for x in values]
    pairs += itertools.product(values, values)
    assert [pair for pair in pairs if claim(*pair, relation).holds] == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"relation": "~"}, "expected one of <, <=, >, >=, ==, within"),
        ({"tolerance": -1}, "tolerance -1.0: expected >= 0"),
        ({"tolerance": math.nan}, "tolerance nan"),
        ({"relation": "==", "tolerance": 0.1}, "use 'within'"),
        ({"source": ""}, "expected a name and a source"),
        ({"name": ""}, "expected a name and a source"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(claim(), **change)


def test_result_json_is_as_the_design_says(tmp_path):
    measured = report.Result(
        {"error": np.float32(0.5), "gap": math.nan},
        [claim(np.float64(1)), claim(3.0), claim(judged=False)],
    )
    run = finished(tmp_path / "run", measured)
    content = json.loads((run.path / "result.json").read_text())
    assert list(content) == ["metrics", "claims", "preset", "device", "seconds"]
    assert content["metrics"] == {"error": 0.5, "gap": "NaN"}
    assert content["claims"][0] == {
        "name": "error",
        "measured": 1.0,
        "expected": 2.0,
        "relation": "<",
        "tolerance": 0.0,
        "source": "Peano 1889",
        "holds": True,
        "judged": True,
    }
    assert [c["holds"] for c in content["claims"]] == [True, False, True]
    assert [c["judged"] for c in content["claims"]] == [True, True, False]
    assert (content["preset"], content["device"], content["seconds"]) == ("default", "cpu", 12.346)


def test_a_smoke_run_is_never_judged(tmp_path):
    run = finished(tmp_path / "run", preset="smoke")
    assert [c["judged"] for c in run.result()["claims"]] == [False]
    assert claims_table.failed(claims_table.collect(tmp_path)) == []


def test_the_same_config_resumes_and_leaves_the_folder_as_it_was(tmp_path):
    run = report.open_or_create(tmp_path / "run", Config(), "toy.ask", "default")
    before = (run.path / "config.json").read_bytes()
    again = report.open_or_create(tmp_path / "run", Config(), "toy.ask", "default")
    assert again == run and not again.finished
    assert (run.path / "config.json").read_bytes() == before
    assert again.config(Config) == Config()
    assert finished(tmp_path / "run").finished


def test_another_config_is_refused_and_every_difference_named(tmp_path):
    run = report.open_or_create(tmp_path / "run", Config(), "toy.ask", "default")
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    other = Config(num_steps=20, run=Options(mesh="data=2"))
    with pytest.raises(ValueError) as error:
        report.open_or_create(run.path, other, "toy.other", "smoke")
    for line in (
        "num_steps: 10 -> 20",
        "run.mesh: None -> 'data=2'",
        "question: 'toy.ask' -> 'toy.other'",
        "preset: 'default' -> 'smoke'",
    ):
        assert line in str(error.value)
    assert "rate" not in str(error.value)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a run .* it holds notes.txt"):
        report.open_or_create(tmp_path, Config())
    with pytest.raises(ValueError, match="is a file"):
        report.open_or_create(tmp_path / "notes.txt", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        report.open_or_create(tmp_path, Config())


def test_what_a_kill_left_half_written_does_not_stop_a_new_start(tmp_path):
    (tmp_path / f"{files.TEMPORARY}config.json-1").write_text('{"que')
    assert not report.open_or_create(tmp_path, Config()).finished


def test_versions_say_what_changed_since_the_first_session(tmp_path, monkeypatch):
    run = report.open_or_create(tmp_path / "run", Config())
    now = {"python": "3.11", "seed": 0}
    monkeypatch.setattr(report.environment, "describe", lambda seed: dict(now))
    run.write_versions(0)
    run.write_versions(0)
    assert files.read_json(run.path / "versions.json") == now
    now["python"] = "3.12"
    run.write_versions(0)
    run.write_versions(0)
    written = files.read_json(run.path / "versions.json")
    assert written == {"python": "3.11", "seed": 0, "resumed_with": [now]}


def test_versions_name_what_a_repetition_needs():
    described = report.environment.describe(7)
    assert described["seed"] == 7 and described["num_devices"] == 2
    assert {"jax", "numpy", "optax"} <= set(described["packages"])
    assert {"python", "host", "device", "backend", "commit"} <= set(described)


def test_figures_are_whole_and_the_same_for_the_same_arrays(tmp_path):
    run = report.open_or_create(tmp_path / "run", Config())
    paths = [run.figure(name, plots.heatmap([[0.0, 1.0]])) for name in ("a", "b.2")]
    assert paths == [run.path / "figures/a.png", run.path / "figures/b.2.png"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes()[-8:-4] == b"IEND"
    with pytest.raises(ValueError, match="figure name '../a'"):
        run.figure("../a", plots.heatmap([[0.0]]))


def test_an_unfinished_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write_atomic(tmp_path / "a.json", "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_claims_of_all_runs_are_judged_from_their_numbers(tmp_path):
    finished(tmp_path / "a" / "001")
    finished(tmp_path / "a" / "002", report.Result({}, [claim(3.0), claim(4.0, judged=False)]))
    finished(tmp_path / "b" / "001", preset="smoke")
    unfinished = report.open_or_create(tmp_path / "b" / "unfinished", Config())
    finished(unfinished.checkpoints / "not a run")
    path = tmp_path / "a" / "002" / "result.json"
    path.write_text(path.read_text().replace('"holds": false', '"holds": true'))  # a lie
    rows = claims_table.collect(tmp_path)
    assert [(row.run, row.verdict) for row in rows] == [
        ("a/001", "holds"),
        ("a/002", "FAILS"),
        ("a/002", "not judged"),
        ("b/001", "not judged"),
    ]
    assert claims_table.failed(rows) == [rows[1]]
    assert claims_table.collect(tmp_path / "a" / "001")[0].run == "001"


def test_a_missing_folder_and_a_damaged_result_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder of runs"):
        claims_table.collect(tmp_path / "nowhere")
    for content in ("{", '{"claims": [{}]}', "[]"):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(ValueError, match="result.json"):
            claims_table.collect(tmp_path)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((1, 2, "<"), "< 2"),
        ((1, 0.5, "within", 0.125), "0.5 ± 0.125"),
        ((1, -0.5, "<=", 0.1), "≤ −0.5 + 0.1"),
        ((1, 1234567, ">=", 2), "≥ 1234567 − 2"),
        ((1, 1e-9, "=="), "= 1e-09"),
    ],
)
def test_expectations_read_as_one_would_write_them(arguments, text):
    assert claims_table.expectation(claim(*arguments)) == text


class Page(html.parser.HTMLParser):
    """Tags of a page: unbalanced ones, links out of it, and its text by tag."""

    VOID = {"meta", "img", "line", "circle", "path", "wbr"}

    def __init__(self, source):
        super().__init__()
        self.open, self.unbalanced, self.links, self.tags, self.text = [], [], [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def test_the_page_shows_everything_and_needs_nothing_else(tmp_path):
    trap = "</td><script>alert(1)</script> & <b>"
    wrong = dataclasses.replace(claim(3.0), name=trap)
    run = finished(tmp_path / "run", report.Result({"final error": 0.25}, [claim(), wrong]))
    run.write_versions(3)
    picture = run.figure("nearest_digits", plots.heatmap([[0.0, 1.0]]))
    with metrics.MetricsWriter(run.path) as writer:
        for step in range(1, 4):
            writer.write(step, {"loss": 1 / step, "eval/loss": 2 / step, trap: step, "size": 128})
    text = "Claim: `x` < y.\n\n    python -m toy\nand after"
    path = report_html.write(run, f"Does it? {trap}", text)
    page = Page(path.read_text(encoding="utf-8"))
    assert (page.unbalanced, page.open) == ([], [])
    assert page.tags.count("script") == 1 and page.tags.count("svg") == 2
    for part in (
        "1 of 2 claims hold", "FAILS", "< 2", "final error", "0.25", "num_steps", "run.mesh",
        "nearest digits", "eval/loss", "Constant: size = 128", trap, "jaxlib", "toy.ask", "12 s",
        "Claim: x < y.", "python -m toy", "and after",
    ):  # fmt: skip
        assert part in page.text, part
    (link,) = page.links
    assert base64.b64decode(link.removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert "http" not in report_html.report_style.CSS + report_html.report_style.SCRIPT


def test_a_page_without_claims_curves_or_pictures_leaves_them_out(tmp_path):
    run = finished(tmp_path / "run", report.Result({}))
    page = Page(report_html.write(run, "").read_text(encoding="utf-8"))
    assert "No claims." in page.text and "toy.ask" in page.text
    assert "Curves" not in page.text and "Pictures" not in page.text


def test_long_curves_keep_their_ends_means_and_extremes():
    records = [{"step": step, "wall": 0.0, "loss": math.sin(step)} for step in range(1, 10_001)]
    records[5000]["loss"], records[6000]["loss"] = 50.0, math.nan
    series = np.array([(r["step"], r["loss"]) for r in records])
    buckets = curves._buckets(series)
    assert len(buckets) == curves.MAX_POINTS and buckets[-1, 0] == 10_000
    assert buckets[:, 3].max() == 50.0 and np.isfinite(buckets).all()
    assert np.all(buckets[:, 2] <= buckets[:, 1]) and np.all(buckets[:, 1] <= buckets[:, 3])
    (chart,), constant = curves.charts(records)
    assert constant == {} and chart.count("<path") == 2 and "nan" not in chart


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 17), (1e-9, 3e-9), (99990, 100010), (0, 7e8)])
def test_ticks_are_few_round_numbers_inside(low, high):
    found = curves.ticks(low, high)
    assert 2 <= len(found) <= 6
    width = high - low
    assert all(low - 1e-9 * width <= tick <= high + 1e-9 * width for tick in found)
    steps = np.diff(found)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert np.allclose(steps, steps[0]) and min(abs(mantissa - np.array([1, 2, 5, 10]))) < 1e-6


@pytest.mark.parametrize("low, high", [(0.03, 1.2), (1e-8, 1e4), (2, 70), (0.9, 1100)])
def test_log_ticks_are_few_round_numbers_inside(low, high):
    found = curves.log_ticks(low, high)
    assert 3 <= len(found) <= 9 and all(low <= tick <= high for tick in found)
    assert {f"{tick:.0e}"[0] for tick in found} <= {"1", "2", "5"}
