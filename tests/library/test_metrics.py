"""Metrics survive kills at any byte, stay JSON, and reach TensorBoard."""

import itertools
import json
import math
import pathlib
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from library import metrics
from library.storage import files


def write_steps(directory, steps, resume_step=0):
    with metrics.MetricsWriter(directory, resume_step) as writer:
        for step in steps:
            writer.write(step, {"loss": 1 / step})


def steps_of(directory):
    return [record["step"] for record in metrics.read(directory)]


def events(directory):
    """The events of all files, oldest first, decoded from the TFRecord framing by hand."""
    found = []
    for path in sorted(
        pathlib.Path(directory).glob("events.*"), key=lambda p: p.stat().st_ctime_ns
    ):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            found.append(event_pb2.Event.FromString(content[start + 12 : start + 12 + length]))
            start += 12 + length + 4
    return found


def test_a_killed_and_resumed_run_has_neither_gap_nor_repeat(tmp_path):
    """Every byte at which the file may end after the checkpoint at step 3."""
    write_steps(tmp_path, range(1, 7))
    whole = (tmp_path / metrics.METRICS).read_bytes()
    durable = len(b"".join(whole.splitlines(keepends=True)[:3]))
    for size in range(durable, len(whole) + 1):
        (tmp_path / metrics.METRICS).write_bytes(whole[:size])
        write_steps(tmp_path, range(4, 7), resume_step=3)
        assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6], size


def test_a_last_line_that_lacks_only_its_end_is_kept_and_ended(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / metrics.METRICS
    path.write_bytes(path.read_bytes()[:-1])
    assert steps_of(tmp_path) == [1, 2]
    write_steps(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_starting_over_drops_everything(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [1], resume_step=0)
    assert steps_of(tmp_path) == [1]


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_dropped(tmp_path):
    write_steps(tmp_path, [1, 2])
    with open(tmp_path / metrics.METRICS, "ab") as file:
        file.write(b"\0" * 40)
    assert steps_of(tmp_path) == [1, 2]
    write_steps(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    path = tmp_path / metrics.METRICS
    path.write_text(path.read_text().replace('"step": 2', '"step: 2'))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"metrics.jsonl line 2 is not a record"):
        metrics.MetricsWriter(tmp_path, resume_step=3)
    assert path.read_bytes() == before


def test_a_cut_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    before = (tmp_path / metrics.METRICS).read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        metrics.MetricsWriter(tmp_path, resume_step=1)
    assert (tmp_path / metrics.METRICS).read_bytes() == before
    assert not list(tmp_path.glob(files.TEMPORARY + "*"))


def test_values_come_back_exactly_and_every_line_is_strict_json(tmp_path):
    values = {
        "float32": np.float32(0.1),
        "array": np.array(1e-30),
        "int": 7,
        "nan": math.nan,
        "inf": -math.inf,
        'a "quoted" näme': 1e300,
    }
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(np.int32(1), values)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    (line,) = (tmp_path / metrics.METRICS).read_text(encoding="utf-8").splitlines()
    raw = json.loads(line, parse_constant=refuse)
    assert (raw["nan"], raw["inf"]) == ("NaN", "-Infinity")
    (record,) = metrics.read(tmp_path)
    assert math.isnan(record.pop("nan")) and math.isnan(values.pop("nan"))
    assert record.pop("step") == 1 and record.pop("wall") >= 0
    assert record == {name: float(np.ravel(value)[0]) for name, value in values.items()}


def test_wall_seconds_go_on_over_a_resume_without_the_pause(tmp_path, monkeypatch):
    clock = itertools.count(1000.0, 10.0)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(metrics.MetricsWriter, "flush", lambda self: None)  # reads the clock too
    write_steps(tmp_path, [1, 2])
    next(clock)  # the pause
    write_steps(tmp_path, [3], resume_step=2)
    assert [record["wall"] for record in metrics.read(tmp_path)] == [10.0, 20.0, 30.0]


def test_flush_makes_lines_visible_and_close_is_repeatable(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.flush()
    assert steps_of(tmp_path) == [1]
    writer.close()
    writer.close()
    writer.write(2, {"loss": 1.0})
    assert steps_of(tmp_path) == [1]


@pytest.mark.parametrize("name", ["step", "wall"])
def test_names_of_the_record_itself_are_refused(tmp_path, name):
    with metrics.MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match=name):
        writer.write(1, {name: 1.0})
    assert steps_of(tmp_path) == []


def test_a_value_that_is_no_scalar_is_named(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=r"metric 'b' has shape \(2,\): expected a scalar"):
            writer.write(1, {"a": 1.0, "b": np.zeros(2)})
        with pytest.raises(ValueError, match="metric 'c' has NoneType: expected a scalar"):
            writer.write(1, {"c": None})
    assert steps_of(tmp_path) == []


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_writer", lambda: False)
    write_steps(tmp_path / "run", [1, 2])
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_scalars_and_forgets_what_a_resume_repeats(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5, "eval/loss": 0.75})
        writer.write(2, {"loss": 0.25})
    write_steps(tmp_path, [2], resume_step=1)
    scalars = [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in events(tmp_path)
        if event.summary.value
    ]
    first, second, again = scalars
    assert first == (1, {"loss": 0.5, "eval/loss": 0.75})
    assert second == (2, {"loss": 0.25})
    assert again == (2, {"loss": 0.5})
    starts = [
        e.step for e in events(tmp_path) if e.session_log.status == event_pb2.SessionLog.START
    ]
    assert starts == [1, 2]  # TensorBoard drops earlier events from this step on


def test_tensorboard_is_spared_most_records_of_a_fast_loop_but_not_the_newest(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer._emitted = math.inf  # all in one batch, however slow this machine is
        for step in range(1, 1001):
            writer.write(step, {"loss": 1 / step})
            if step % 500 == 0:
                writer.write(step, {"eval/loss": 2.0})
    seen = {"loss": [], "eval/loss": []}
    for event in events(tmp_path):
        for value in event.summary.value:
            seen[value.tag].append(event.step)
    assert seen["eval/loss"] == [500, 1000]
    assert seen["loss"] == list(range(50, 1001, 50))
    assert len(metrics.read(tmp_path)) == 1002
