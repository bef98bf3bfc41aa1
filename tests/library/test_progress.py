"""The bar tells step, rate, time left and metrics on a terminal, and is nothing elsewhere."""

import io
import re

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


def test_without_a_terminal_nothing_is_written_or_read():
    console = terminal(False)
    with progress.Progress(10, "quiet", console=console) as bar:
        bar.update(5, {"loss": object()})  # not even converted
    assert console.file.getvalue() == ""


def test_other_processes_stay_silent(monkeypatch):
    monkeypatch.setattr(files, "is_writer", lambda: False)
    console = terminal()
    with progress.Progress(10, "second process", console=console) as bar:
        bar.update(5)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59.6, "1:00"), (187, "3:07"), (7509, "2:05:09"), (273600, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert progress.format_seconds(seconds) == text
