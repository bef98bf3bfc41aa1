"""The table judges from the numbers, counts the newest run of a question once, and sums by kind."""

import json
import os

import pytest
import rich.console

from library import claims, report
from library.report import claims_table
from tests.library.report.runs import Config, claim, finished


def test_claims_of_all_runs_are_judged_from_their_numbers(tmp_path):
    finished(tmp_path / "a" / "001")
    finished(tmp_path / "a" / "002", claims.Result({}, [claim(3.0), claim(4.0, judged=False)]))
    finished(tmp_path / "b" / "001", preset="smoke")
    unfinished = report.open_or_create(tmp_path / "b" / "unfinished", Config())
    finished(unfinished.checkpoints / "not a run")
    path = tmp_path / "a" / "002" / "result.json"
    path.write_text(path.read_text().replace('"holds": false', '"holds": true'))  # a lie
    rows = [row for run in claims_table.collect(tmp_path) for row in run.rows]
    assert [(row.run, row.verdict) for row in rows] == [
        ("a/001", "holds"),
        ("a/002", "FAILS"),
        ("a/002", "not judged"),
        ("b/001", "not judged"),
    ]
    assert claims_table.failed(rows) == [rows[1]]
    assert claims_table.collect(tmp_path / "a" / "001")[0].name == "001"


def test_a_missing_folder_and_a_damaged_result_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder of runs"):
        claims_table.collect(tmp_path / "nowhere")
    for content in ("{", '{"claims": [{}]}', "[]"):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(ValueError, match="result.json"):
            claims_table.collect(tmp_path)
    (tmp_path / "result.json").write_text('{"claims": []}')
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="config.json does not hold a config"):
        claims_table.collect(tmp_path)


def at(path, seconds):
    """A run that finished at a given second."""
    os.utime(path / "result.json", (seconds, seconds))


def test_the_newest_run_of_a_question_and_preset_counts(tmp_path):
    finished(tmp_path / "a", claims.Result({}, [claim(3.0)]))
    finished(tmp_path / "b")
    finished(tmp_path / "c", question="toy.other")
    finished(tmp_path / "d", preset="smoke")
    finished(tmp_path / "e", question="")
    finished(tmp_path / "f", question="")  # runs of no question stand for themselves
    for second, name in enumerate("badcfe"):
        at(tmp_path / name, 1000 + second)
    kept, older = claims_table.newest(claims_table.collect(tmp_path))
    assert ([r.name for r in kept], [r.name for r in older]) == (list("acdef"), ["b"])
    at(tmp_path / "b", 2000)
    kept, older = claims_table.newest(claims_table.collect(tmp_path))
    assert ([r.name for r in kept], [r.name for r in older]) == (list("bcdef"), ["a"])
    assert (kept[0].question, kept[0].preset, kept[0].finished) == ("toy.ask", "default", 2000)


def test_sums_by_kind():
    sources = [claims.paper("p"), claims.paper("p"), claims.bar("b"), claims.baseline("l")]
    found = [claim(3.0 * (i == 1), source=source) for i, source in enumerate(sources)]
    found.append(claim(source=claims.theorem("t"), judged=False))
    rows = [claims_table.Row("a", c) for c in found]
    assert claims_table.sums(rows) == "paper 1 of 2, baseline 1 of 1, bar 1 of 1"
    assert claims_table.sums([]) == ""


def test_a_result_whose_sources_have_no_kind_is_shown_as_of_unknown_kind(tmp_path):
    path = finished(tmp_path / "old").path / "result.json"
    content = json.loads(path.read_text())
    del content["claims"][0]["kind"]
    path.write_text(json.dumps(content))
    (run,) = claims_table.collect(tmp_path)
    assert (run.rows[0].claim.source.kind, run.rows[0].verdict) == ("unknown", "holds")
    assert claims_table.sums(run.rows) == "unknown 1 of 1"
    content["claims"][0]["kind"] = "hope"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="result.json holds no claims .*'hope'"):
        claims_table.collect(tmp_path)


def test_the_printed_table_keeps_brackets_and_the_digits_of_the_verdict():
    source = claims.paper("Author [2020], table 1")
    named = claims.within("error [%]", 0.0158299, 0.0158298, 1.6e-8, source=source)
    console = rich.console.Console(width=120)
    with console.capture() as printed:
        console.print(claims_table.table([claims_table.Row("a/[b]", named)]))
    text = printed.get()
    for part in ("a/[b]", "error [%]", "paper: Author [2020], table 1", "FAILS"):
        assert part in text
    assert "0.0158299" in text and "0.0158298 ± 1.6e−08".replace("−", "-") in text
    with console.capture() as printed:
        console.print(claims_table.table([claims_table.Row("a", named)], show_run=False))
    assert "run" not in printed.get().splitlines()[0]
