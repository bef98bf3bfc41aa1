"""The command line on a small study of its own: list, run, resume, refuse, stop, judge."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from experiments import __main__ as command_line
from experiments import catalogue

HOUSE = pathlib.Path(command_line.__file__).parent.parent
NUMBERS = itertools.count()  # each test has a package of its own: Python caches imports by name

ASK = '''
"""Does it count to its
number?  Claim: the count is 3 (Peano 1889, axiom 5).  Cost: 1 second.
    python -m experiments toy.ask --num-steps 3

Told [at length] with `code`.
"""
import dataclasses
import time
from library import claims, metrics

@dataclasses.dataclass(frozen=True)
class RunOptions:
    seed: int = 0  # root of all randomness

@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 3  # steps that are counted
    trouble: str = ""  # what goes wrong, and when
    run: RunOptions = RunOptions()  # how the run is carried out

PRESETS = {"smoke": Config(num_steps=2), "default": Config()}

class OddError(Exception):
    pass

def run(config, out):
    if config.trouble == "refused":
        raise ValueError(f"num_steps={config.num_steps}:\\n  expected an even number")
    if config.trouble == "numpy":
        import numpy
        numpy.zeros(3).reshape(2, 2)
    if config.trouble == "elsewhere":
        import json
        json.loads("nope")
    if config.trouble == "inside":
        raise ValueError(int("three"))
    if config.trouble == "slip":
        first, second = (1, 2, 3)
    if config.trouble == "disk":
        raise OSError(28, "No space left on device")
    with metrics.MetricsWriter(out.path) as writer:
        for step in range(1, config.num_steps + 1):
            writer.write(step, {"loss": 1 / step})
    if config.trouble == "late":
        raise ValueError("too late to be a wrong option")
    if config.trouble == "sleep":
        print("asleep", flush=True)
        time.sleep(60)
    if config.trouble in ("interrupted", "diverged", "damaged"):
        from library import checkpoint, fit
        raise {
            "interrupted": fit.Interrupted(15, 2, True),
            "diverged": fit.NonFiniteLoss("loss=nan at step 2"),
            "damaged": checkpoint.CheckpointError("checkpoint step 2 is damaged"),
        }[config.trouble]
    claim = claims.exactly("count", config.num_steps, 3, source=claims.theorem("Peano 1889"))
    return claims.Result({"count": config.num_steps, "seed": config.run.seed}, [claim])
'''
OTHER = '''
"""Has it no default preset?"""
import a_package_that_nobody_has
PRESETS: dict = {}
def run(config, out): ...
'''
STUDY = {
    "__init__.py": "",
    "toy/__init__.py": "",
    "toy/ask.py": ASK,
    "toy/helper.py": "PRESETS = {}",
    "toy/_private.py": ASK,
    "other/needy.py": OTHER,
    "other/broken_helper.py": "def run(): import jax",
    "loose.py": ASK,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with one study; the current folder is an empty one."""
    name = f"studies{next(NUMBERS)}"
    for file, text in STUDY.items():
        path = tmp_path / "path" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    monkeypatch.syspath_prepend(tmp_path / "path")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("ANSATZ_TRACEBACK", raising=False)
    return name


@pytest.fixture
def call(package, capsys):
    """Runs the command line; returns status, standard output and standard error."""

    def call(*words):
        status = command_line.main(list(words), package)
        return (status, *capsys.readouterr())

    return call


def contents(folder="."):
    return {str(p): p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file()}


def subprocess_of(package, *words):
    """The command line in a process of its own."""
    code = f"""
        import sys
        sys.path[:0] = [{str(HOUSE)!r}, "../path"]
        from experiments.__main__ import main
        status = main(sys.argv[1:], {package!r})
        print("imported", *sorted({{"jax", "numpy", "matplotlib", "tyro"}} & set(sys.modules)))
        sys.exit(status)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_questions_are_found_by_their_source_and_helpers_are_not(package):
    found = catalogue.questions(package)
    assert [question.name for question in found] == ["other.needy", "toy.ask"]
    ask = found[1]
    assert ask.asks == "Does it count to its number?"
    assert ask.claim == "the count is 3 (Peano 1889, axiom 5)"
    assert ask.cost == "1 second"
    assert "    python -m experiments toy.ask" in ask.text and "Told [at length]" in ask.text


@pytest.mark.parametrize(
    "doc, expected",
    [
        ("", ("", "", "")),
        ("Only asks?", ("Only asks?", "", "")),
        ("Asks? Claims: a; b (c, 1).\nCost: 2 min.", ("Asks?", "a; b (c, 1)", "2 min")),
        ("Asks?\n\nClaim: a,\nb. Cost: 2 s.\n    python -m x\nMore.", ("Asks?", "a, b", "2 s")),
        ("Asks? Cost: 2 s.\npython -m x\nClaim: not here.", ("Asks?", "", "2 s")),
        ("Asks?\n\nClaim: a.\n\nCost: 2 s.", ("Asks?", "a", "2 s")),
        ("Asks?\n\nMore.\n    python -m x\n\nCost: not here.", ("Asks?", "", "")),
    ],
)
def test_parts_of_a_docstring(doc, expected):
    described = catalogue.describe(doc)
    assert (described["asks"], described["claim"], described["cost"]) == expected


def test_listing_and_judging_import_no_heavy_package(package):
    pathlib.Path("runs").mkdir()
    listing, judging = subprocess_of(package), subprocess_of(package, "claims")
    out, err = listing.communicate()
    assert (listing.returncode, err) == (0, "")
    for text in ("toy.ask", "Does it count to its number?", "Peano 1889, axiom 5", "1 second"):
        assert text in out
    assert out.splitlines()[-1] == "imported"
    out, err = judging.communicate()
    assert (judging.returncode, err) == (0, "")
    assert "0 of 0 claims hold under runs" in out and out.splitlines()[-1] == "imported"


def test_the_real_studies_are_listed_with_their_costs():
    for question in catalogue.questions():
        assert question.asks and question.cost, question.name


def test_a_run_leaves_its_folder_and_prints_it_first_and_last(call):
    status, out, err = call("toy.ask", "--num-steps", "3", "--run.seed", "7")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == lines[-1] == "run folder: runs/toy.ask/001"
    assert "count" in out and "holds" in out
    run = pathlib.Path("runs/toy.ask/001")
    names = {path.name for path in run.iterdir() if not path.name.startswith("events")}
    expected = {"config.json", "versions.json", "metrics.jsonl", "result.json", "report.html"}
    assert names == expected
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["run"] == {"class": "RunOptions", "seed": 7}
    assert config["question"] == "toy.ask" and config["preset"] == "default"
    assert json.loads((run / "versions.json").read_text())["seed"] == 7
    assert json.loads((run / "result.json").read_text())["metrics"] == {"count": 3.0, "seed": 7.0}
    assert "Told [at length] with <code>code</code>" in (run / "report.html").read_text()
    assert call("toy.ask")[1].splitlines()[0] == "run folder: runs/toy.ask/002"


def test_a_finished_run_is_shown_again_and_not_repeated(call):
    call("toy.ask", "--workdir", "run")
    before = contents("run")
    status, out, err = call("toy.ask", "--workdir=run", "--num-steps", "3")
    assert (status, err) == (0, "")
    assert "finished before" in out and "holds" in out
    assert contents("run") == before


def test_a_lost_report_is_written_again(call):
    call("toy.ask", "--workdir", "run")
    before = contents("run")
    pathlib.Path("run/report.html").unlink()
    assert call("toy.ask", "--workdir", "run")[0] == 0
    assert contents("run") == before


def test_a_failed_claim_is_printed_and_judged_by_claims_alone(call):
    status, out, _ = call("toy.ask", "--num-steps", "4")
    assert status == 0 and "FAILS" in out
    call("toy.ask", "--preset", "smoke")
    status, out, _ = call("claims")
    assert status == 1
    assert out.endswith("0 of 1 claims hold under runs, 1 not judged (theorem 0 of 1)\n")
    assert "toy.ask/001" in out and "theorem: Peano 1889" in out and "toy.ask/002" not in out
    assert call("claims", "runs/toy.ask/002")[0] == 0


def test_the_newest_run_of_a_question_counts_unless_all_are_asked_for(call):
    call("toy.ask", "--num-steps", "4")
    os.utime("runs/toy.ask/001/result.json", (1000, 1000))
    call("toy.ask")
    status, out, _ = call("claims")
    assert status == 0 and "1 of 1 claims hold under runs (theorem 1 of 1)" in out
    assert out.endswith("replace them (--all shows them): toy.ask/001\n")
    for words in (("claims", "--all"), ("claims", "--all", "runs"), ("claims", "runs", "--all")):
        status, out, _ = call(*words)
        assert status == 1 and "1 of 2 claims hold under runs (theorem 1 of 2)" in out
        assert "left out" not in out
    assert call("claims", "runs/toy.ask/001")[0] == 1


@pytest.mark.parametrize("words", ["claims --help", "claims -h", "claims runs --help"])
def test_help_of_claims(call, words):
    status, out, err = call(*words.split())
    assert (status, err) == (0, "")
    for text in ("claims [DIR] [--all]", "the newest counts", "Status 1 if a claim fails"):
        assert text in out


@pytest.mark.parametrize(
    "words, message",
    [
        ("toy.aks", "there is no question 'toy.aks'; did you mean toy.ask?"),
        ("toy", "did you mean toy.ask?"),
        ("zzz", "there is no question 'zzz' ("),
        ("--preset smoke", "--preset comes before a question"),
        ("other.needy", "other.needy needs a_package_that_nobody_has, which is not installed"),
        ("claims nowhere", "nowhere is not a folder of runs"),
        ("claims a b", "claims a b: expected `claims [DIR] [--all]`"),
        ("claims --al", "claims --al: expected `claims [DIR] [--all]`"),
        ("toy.ask --preset big", "toy.ask has no preset 'big': expected smoke or default"),
        ("toy.ask --num-step 3", "--num-step, 3; perhaps you meant --num-steps"),
        ("toy.ask --run.sed 3", "perhaps you meant --run.seed"),
        ("toy.ask --num-steps x", "--num-steps: invalid literal for int() with base 10: 'x'; "
                                  "expected --num-steps INT"),
        ("toy.ask --num-steps", "Missing value for argument '--num-steps'"),
        ("toy.ask stray", "Unrecognized options: stray"),
        ("toy.ask --num-steps -5", "error: --num-steps -5: expected a whole number >= 1"),
        ("toy.ask --workdir gs://b/run", "--workdir=gs://b/run is an address: expected a path"),
        ("toy.ask --workdir=~nobody0/run", "--workdir=~nobody0/run: there is no home folder"),
        ("claims s3://b/runs", "s3://b/runs is an address"),
        ("toy.ask --trouble refused", "error: num_steps=3: expected an even number"),
        ("toy.ask --workdir file", "file is a file: expected a folder"),
        ("toy.ask --workdir file/below", "Not a directory"),
        ("toy.ask --workdir full", "full is not a run"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_status_2_and_changes_nothing(call, words, message):
    pathlib.Path("file").write_text("mine")
    pathlib.Path("full").mkdir()
    pathlib.Path("full/notes").write_text("mine")
    before = contents()
    status, _, err = call(*words.split())
    assert status == 2
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert contents() == before
    assert not list(pathlib.Path(".").glob("runs/*/*"))


def test_the_folder_of_another_config_is_refused(call):
    call("toy.ask", "--workdir", "run")
    before = contents("run")
    for words, difference in (("--num-steps 4", "num_steps: 3 -> 4"), ("--preset smoke", "preset")):
        status, _, err = call("toy.ask", "--workdir", "run", *words.split())
        assert status == 2 and difference in err and err.count("\n") == 1
    assert contents("run") == before


def test_a_mistake_found_when_resuming_deletes_nothing(call, package, monkeypatch):
    call("toy.ask", "--workdir", "run", "--trouble", "interrupted")
    before = contents("run")
    ask = sys.modules[f"{package}.toy.ask"]
    run = ask.run
    monkeypatch.setattr(ask, "run", lambda *_: run(ask.Config(trouble="refused"), None))
    assert call("toy.ask", "--workdir", "run", "--trouble", "interrupted")[0] == 2
    after = contents("run")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("trouble, error", [
    ("numpy", "cannot reshape"), ("elsewhere", "Expecting"), ("inside", "invalid literal"),
    ("slip", "too many values to unpack"), ("late", "too late"),
])  # fmt: skip
def test_a_bug_keeps_its_traceback(call, trouble, error):
    with pytest.raises(ValueError, match=error):
        call("toy.ask", "--trouble", trouble)
    assert pathlib.Path("runs/toy.ask/001/config.json").exists()


@pytest.mark.parametrize(
    "trouble, status, message",
    [
        ("disk", 1, "error: [Errno 28] No space left on device"),
        ("diverged", 1, "error: loss=nan at step 2"),
        ("damaged", 1, "error: checkpoint step 2 is damaged"),
        (
            "interrupted",
            143,
            "stopped by SIGTERM after step 2; to resume: "
            "python -m PACKAGE toy.ask --trouble interrupted --workdir runs/toy.ask/001",
        ),
    ],
)
def test_a_run_that_ends_early_says_so_in_one_line(call, package, trouble, status, message):
    ended = call("toy.ask", "--trouble", trouble)
    assert (ended[0], ended[2]) == (status, message.replace("PACKAGE", package) + "\n")
    assert pathlib.Path("runs/toy.ask/001/config.json").exists()


def test_tracebacks_are_shown_on_request(call, monkeypatch):
    monkeypatch.setenv("ANSATZ_TRACEBACK", "1")
    status, _, err = call("toy.ask", "--trouble", "refused")
    assert status == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: ")


def test_signals_outside_of_the_training_loop_leave_a_resumable_run(package):
    """Ctrl-C and SIGTERM while a question samples, say; two processes at once to save time."""
    numbers = {signal.SIGINT: 130, signal.SIGTERM: 143}
    words = ("toy.ask", "--trouble", "sleep", "--workdir")
    stopped = {n: subprocess_of(package, *words, f"a run {n:d}") for n in numbers}
    for number, process in stopped.items():
        for line in process.stdout:
            if "asleep" in line:
                break
        process.send_signal(number)
    for number, process in stopped.items():
        _, err = process.communicate(timeout=120)
        assert process.returncode == numbers[number]
        resume = f"python -m {package} toy.ask --trouble sleep --workdir 'a run {number:d}'"
        assert err == f"stopped by {number.name}; to resume: {resume}\n"
        records = pathlib.Path(f"a run {number:d}/metrics.jsonl").read_text().splitlines()
        assert len(records) == 3


def test_a_signal_before_the_run_began_has_no_folder_to_name(call, monkeypatch):
    monkeypatch.setattr(catalogue, "find", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert call("toy.ask") == (143, "", "stopped by SIGTERM before the run began\n")


def test_handlers_of_the_caller_are_given_back(call):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    call("toy.ask", "--trouble", "refused")
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


@pytest.mark.parametrize("words", ["toy.ask --help", "toy.ask --preset smoke -h"])
def test_help_shows_docstring_fields_and_defaults(call, words):
    status, out, _ = call(*words.split())
    assert status == 0
    for text in ("Does it count", "Told [at length]", "--run.seed INT", "root of all randomness",
                 "steps that are counted", "--workdir DIR", "{smoke,default}"):  # fmt: skip
        assert text in out
    assert f"(default: {2 if 'smoke' in words else 3})" in out


def test_usage_names_the_three_commands(call):
    status, out, _ = call("--help")
    assert status == 0 and "claims [DIR]" in out and "toy.ask" in out
