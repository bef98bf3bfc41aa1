"""Run folders resume the same run, refuse what is not theirs, and write whole files."""

import json
import math

import numpy as np
import pytest

from library import claims, environment, plots, report
from library.report import claims_table
from library.storage import files
from tests.library.report.runs import Config, Options, claim, finished


def test_result_json_is_as_the_design_says(tmp_path):
    measured = claims.Result(
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
        "kind": "theorem",
        "holds": True,
        "judged": True,
    }
    assert [c["holds"] for c in content["claims"]] == [True, False, True]
    assert [c["judged"] for c in content["claims"]] == [True, True, False]
    assert (content["preset"], content["device"], content["seconds"]) == ("default", "cpu", 12.346)


def test_a_smoke_run_is_never_judged(tmp_path):
    run = finished(tmp_path / "run", preset="smoke")
    assert [c["judged"] for c in run.result()["claims"]] == [False]
    assert claims_table.failed(claims_table.collect(tmp_path)[0].rows) == []


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
    assert "(theirs -> yours): question: 'toy.ask'" in str(error.value)  # first of all
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
    monkeypatch.setattr(environment, "describe", lambda seed: dict(now))
    run.write_versions(0)
    run.write_versions(0)
    assert files.read_json(run.path / "versions.json") == now
    now["python"] = "3.12"
    run.write_versions(0)
    run.write_versions(0)
    written = files.read_json(run.path / "versions.json")
    assert written == {"python": "3.11", "seed": 0, "resumed_with": [now]}


def test_figures_are_whole_and_the_same_for_the_same_arrays(tmp_path):
    run = report.open_or_create(tmp_path / "run", Config())
    paths = [run.figure(name, plots.heatmap([[0.0, 1.0]])) for name in ("a", "b.2")]
    assert paths == [run.path / "figures/a.png", run.path / "figures/b.2.png"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes()[-8:-4] == b"IEND"
    with pytest.raises(ValueError, match="figure name '../a'"):
        run.figure("../a", plots.heatmap([[0.0]]))
