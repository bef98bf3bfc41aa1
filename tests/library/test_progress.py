"""The bar tells step, rate, time left and metrics on a terminal; logs get a line now and then."""

import io
import re
import threading

import pytest
import rich.console

from library import progress
from library.storage import files


def terminal(is_terminal=True):
    return rich.console.Console(file=io.StringIO(), force_terminal=is_terminal, width=120)


def plain(console):
    """What was written, without the terminal's control sequences, frame by frame."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).splitlines()


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_from_the_resumed_step(clock):
    console = terminal()
    with progress.Progress(100, "toy.ask", start=40, console=console) as bar:
        clock[0] = 2.0
        bar.update(60, {"loss": 0.123456})
    last = plain(console)[-1]
    assert "toy.ask" in last and "60/100" in last
    assert "10 steps/s" in last and "4 s left" in last and "loss 0.1235" in last


def test_slow_steps_are_told_in_seconds(clock):
    console = terminal()
    with progress.Progress(10, "slow", console=console) as bar:
        clock[0] = 60.0
        bar.update(4)
    assert "15 s/step" in plain(console)[-1] and "1:30 left" in plain(console)[-1]


def test_only_ten_drawings_a_second_and_the_last_step_is_shown(clock, monkeypatch):
    drawn = []
    draw = progress.Progress._draw
    monkeypatch.setattr(
        progress.Progress,
        "_draw",
        lambda self, step, *args: (drawn.append(step), draw(self, step, *args)),
    )
    with progress.Progress(1000, "fast", console=terminal()) as bar:
        for step in range(1, 1001):
            clock[0] = step / 1000
            bar.update(step)
    assert drawn[-1] == 1000 and len(drawn) <= 11


def test_no_thread_draws_beside_the_loop():
    before = threading.enumerate()
    with progress.Progress(10, "quiet", console=terminal()) as bar:
        bar.update(1)
        assert threading.enumerate() == before


def test_a_log_gets_a_line_at_each_tenth_of_a_fast_run(clock):
    console = terminal(False)
    with progress.Progress(1000, "fast", console=console) as bar:
        for step in range(1, 1001):
            clock[0] = step / 1000
            metrics = {"loss": 1 / step} if step % 100 == 0 else {"loss": object()}  # not read
            bar.update(step, metrics)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"{100 * i}/1000" for i in range(1, 11)]
    assert lines[1] == "fast 200/1000  1e+03 steps/s  1 s left  loss 0.005"


def test_a_log_gets_a_line_a_minute_at_most_between_the_tenths_of_a_slow_run(clock):
    """Twenty seconds a step: tenths come every 2000 s, minutes every three steps."""
    console, at = terminal(False), []
    with progress.Progress(1000, "slow", console=console) as bar:
        for step in range(1, 131):
            clock[0] = 20.0 * step
            before = console.file.tell()
            bar.update(step)
            if console.file.tell() > before:
                at.append(step)
    assert at == [*range(3, 100, 3), 100, *range(103, 131, 3)]
    assert console.file.getvalue().splitlines()[0] == "slow 3/1000  20 s/step  5:32:20 left"


def test_a_resumed_run_goes_on_at_the_next_tenth(clock):
    console = terminal(False)
    with progress.Progress(100, "resumed", start=45, console=console) as bar:
        for step in range(46, 64):
            clock[0] += 1.0
            bar.update(step)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("resumed 50/100  1 steps/s  50 s left")
    assert second.startswith("resumed 60/100")


def test_lines_go_to_standard_error_and_end_with_the_run(capsys, clock):
    bar = progress.Progress(10, "here")
    bar.update(10)
    bar.close()
    clock[0] = 100.0
    bar.update(10)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "here 10/10  0 steps/s  ? left\n"


def test_other_processes_stay_silent(monkeypatch):
    monkeypatch.setattr(files, "is_writer", lambda: False)
    for console in (terminal(), terminal(False)):
        with progress.Progress(10, "second process", console=console) as bar:
            bar.update(5)
        assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59.6, "1:00"), (187, "3:07"), (7509, "2:05:09"), (273600, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert progress.format_seconds(seconds) == text
