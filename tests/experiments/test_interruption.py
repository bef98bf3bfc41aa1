"""Runs that are killed, stopped or broken, and what the same command makes of them afterwards.

ANSATZ_KILLS sets how often the long test kills (20 for the record; few by default, since each
kill costs the start of a process).
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import __main__ as command_line
from library import checkpoint, metrics

ROOT = pathlib.Path(__file__).parents[2]
NUM_KILLS = int(os.environ.get("ANSATZ_KILLS", "3"))
MAIN = "import sys; from experiments.__main__ import main; sys.exit(main(sys.argv[1:], {!r}))"


def start(folder, *options, question="mlp.regression", package="tests.experiments.studies"):
    """The command line on the tiny studies, as a process of its own."""
    command = [sys.executable, "-W", "error", "-c", MAIN.format(package), question]
    environment = {**os.environ, "XLA_FLAGS": ""}  # one device
    return subprocess.Popen(
        [*command, "--workdir", str(folder), *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=120):
    """(exit status, standard error) at the end."""
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def errors_of(errors):
    """The lines of standard error but those of progress."""
    return [line for line in errors.splitlines() if not re.match(r"training \d+/\d+  ", line)]


def wait_for_steps(folder, num_steps, process, timeout=90):
    """Returns once that many updates are on record, or the process has ended."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        checkpoints = [p for p in (folder / "checkpoints").glob("*") if p.name.isdecimal()]
        if max((int(p.name) for p in checkpoints), default=0) >= num_steps:
            return
        time.sleep(0.02)


def final_params(folder):
    return checkpoint.restore_params(folder / "checkpoints")


def assert_same_run(folder, whole):
    """Parameters equal to the bit; metrics and evaluations of every step once and equal."""
    jax.tree.map(np.testing.assert_array_equal, final_params(folder), final_params(whole))
    ours, theirs = (
        [{name: row[name] for name in row if name != "wall"} for row in metrics.read(path)]
        for path in (folder, whole)
    )
    assert ours == theirs
    results = [json.loads((path / "result.json").read_text()) for path in (folder, whole)]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    status, errors = finish(start(folder))
    assert status == 0, errors
    rows = metrics.read(folder)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert [row["step"] for row in rows if "eval/sum" in row] == [*range(7, 61, 7), 60]
    return folder


def test_killed_at_random_moments_the_run_ends_the_same(whole, tmp_path):
    moments, folder = random.Random(0), tmp_path / "killed"
    for kill in range(NUM_KILLS):
        process = start(folder)
        # Once the run is under way again: at, or a random time after, its next checkpoint.
        wait_for_steps(folder, min(5 + 50 * kill // NUM_KILLS, 55), process)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        finish(process)
    status, errors = finish(start(folder))
    assert status == 0, errors
    assert_same_run(folder, whole)


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_says_how_to_go_on_and_does(whole, tmp_path, number, expected):
    folder = tmp_path / "stopped"
    process = start(folder)
    wait_for_steps(folder, 10, process)
    process.send_signal(number)
    status, errors = finish(process)
    assert status == expected
    (line,) = errors_of(errors)
    assert f"stopped by {signal.Signals(number).name} after step " in line
    assert f"--workdir {folder}" in line
    saved = checkpoint.Checkpoints(folder / "checkpoints", every=5)
    assert metrics.read(folder)[-1]["step"] == saved.latest()
    saved.close()
    if number == signal.SIGTERM:
        status, errors = finish(start(folder))
        assert status == 0, errors
        assert_same_run(folder, whole)


def test_a_loss_that_is_no_number_ends_in_one_line(tmp_path):
    status, errors = finish(start(tmp_path / "nan", "--bad-step", "12", "--pause", "0"))
    assert status == 1
    (line,) = errors_of(errors)
    assert "training stopped at step 13: loss=nan" in line
    assert "last good checkpoint: step 10" in line


@pytest.mark.parametrize(
    "message, options",
    [
        ("mesh 'data=64' needs 64 devices, 2 are there", ["--run.mesh", "data=64"]),
        ("mesh 'x'", ["--run.mesh", "x"]),
        ("batch size 8 is not a multiple of accumulate=3", ["--run.accumulate", "3"]),
        ("--num-step", ["--num-step", "3"]),
    ],
)
def test_bad_options_end_in_one_line_and_leave_nothing(tmp_path, capsys, message, options):
    folder = tmp_path / "bad"
    words = ["mlp.regression", "--workdir", str(folder), *options]
    assert command_line.main(words, "tests.experiments.studies") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not folder.exists()
