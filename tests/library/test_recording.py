"""Evaluations on the way: in the record of their step, once, also where a run was stopped."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import fit, metrics, report, training
from library.report import curves
from tests.library.runs import batch_at, train


def size(state):
    return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(state.params))


EVALUATE = training.Every(3, lambda state: {"eval/step": state.step, "eval/size": size(state)})


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_an_evaluation_joins_the_record_of_its_step(tmp_path, steps_per_call):
    """Periods 4 of the log and 3 of the evaluation: together at the last of twelve steps only."""
    state = train(tmp_path, 12, EVALUATE, steps_per_call=steps_per_call)
    records = metrics.read(tmp_path)
    assert [record["step"] for record in records] == [3, 4, 6, 8, 9, 12]
    own = {"loss", "bias", "grad_norm", "weight", "step", "wall"}
    found = {record["step"]: set(record) for record in records}
    evaluated = {"eval/step", "eval/size"}
    assert found[3] == found[6] == found[9] == evaluated | {"step", "wall"}
    assert found[4] == found[8] == own and found[12] == own | evaluated
    steps = training.evaluations(report.RunDir(tmp_path), "eval/step")
    np.testing.assert_array_equal(steps, np.repeat([[3.0], [6.0], [9.0], [12.0]], 2, 1))
    sizes = training.evaluations(report.RunDir(tmp_path), "eval/size")
    assert sizes[-1, 1] == size(state) and len(set(sizes[:, 1])) == 4


@pytest.mark.parametrize("at", [2, 5, 6, 8])
def test_a_stopped_and_resumed_run_has_each_evaluation_once(tmp_path, at):
    """Stopped before, between and at evaluations; the numbers are those of the whole run."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, evaluate=EVALUATE, log_every=1)

    def batches(step):
        if step == at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(step)

    with pytest.raises(fit.Interrupted):
        train(stopped, evaluate=EVALUATE, log_every=1, batches=batches)
    train(stopped, evaluate=EVALUATE, log_every=1)
    ours, theirs = (
        [{name: row[name] for name in row if name != "wall"} for row in metrics.read(folder)]
        for folder in (stopped, whole)
    )
    assert ours == theirs and [row["step"] for row in ours] == list(range(1, 11))
    assert [row["step"] for row in ours if "eval/size" in row] == [3, 6, 9, 10]


def test_an_evaluation_that_fails_is_made_again_by_the_resumed_run(tmp_path):
    """Its step has a checkpoint of an earlier step only, and the record is not there twice."""

    def fails(state):
        if int(state.step) == 6:
            raise RuntimeError("power cut")
        return EVALUATE.fn(state)

    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, evaluate=training.Every(3, fails), log_every=1)
    train(tmp_path, evaluate=EVALUATE, log_every=1)
    assert [row["step"] for row in metrics.read(tmp_path)] == list(range(1, 11))
    steps = training.evaluations(report.RunDir(tmp_path), "eval/step")
    np.testing.assert_array_equal(steps[:, 1], [3, 6, 9, 10])


@pytest.mark.parametrize(
    "message, evaluate",
    [
        (r"\['bias', 'loss'\], which the training step", lambda s: {"loss": 1.0, "bias": 0.0}),
        ("'eval/x' has shape", lambda state: {"eval/x": np.zeros(2)}),
        ("'wall' is taken", lambda state: {"wall": 1.0}),
    ],
)
def test_numbers_under_taken_names_or_of_other_shapes_are_refused(tmp_path, message, evaluate):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, evaluate=training.Every(3, evaluate))


def test_a_period_below_one_is_refused_before_a_file_is_made(tmp_path):
    with pytest.raises(ValueError, match="evaluate: period=0"):
        train(tmp_path / "run", evaluate=training.Every(0, EVALUATE.fn))
    assert not (tmp_path / "run").exists()


def test_a_name_without_a_record_is_refused_with_those_that_have_one(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(2, {"loss": 1.0, "eval/loss": 0.5})
    out = report.RunDir(tmp_path)
    np.testing.assert_array_equal(training.evaluations(out, "eval/loss"), [[2, 0.5]])
    with pytest.raises(ValueError, match=r"'eval/los': expected one of \['eval/loss', 'loss'\]"):
        training.evaluations(out, "eval/los")


def test_an_evaluation_reaches_the_chart_of_the_loss_and_the_progress(tmp_path, capsys):
    train(tmp_path, evaluate=training.Every(5, lambda state: {"eval/loss": 0.5 / (state.step + 1)}))
    (chart,) = [c for c in curves.charts(metrics.read(tmp_path))[0] if "<h3>loss<" in c]
    assert "<b>loss</b>" in chart and "<b>eval/loss</b>" in chart
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["4/10", "5/10", "8/10", "10/10"]
    assert lines[1].endswith("left  eval/loss 0.08333")
    assert "  loss " in lines[3] and lines[3].endswith("eval/loss 0.04545")
