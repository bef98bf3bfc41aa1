"""What a failed save of Orbax throws about is dropped; all other news pass."""

import logging
import sys
import types
import warnings

import pytest

from library.storage import orbax_noise


def record(name, path="a.py", message="news", failed=False, cause="x"):
    info = (ValueError, ValueError(cause), None) if failed else None
    return logging.LogRecord(name, logging.ERROR, path, 1, message, (), info)


@pytest.mark.parametrize(
    "entry, shown",
    [
        (record("absl", "orbax/save.py", failed=True), False),
        (record("absl", "orbax/save.py"), True),
        (record("absl", "other/save.py", failed=True), True),
        (record("asyncio", message="task of orbax was never awaited"), False),
        (record("asyncio", message="task of another was never awaited"), True),
        (record("asyncio", failed=True, cause="no file 4.orbax-checkpoint-tmp/run"), False),
        (record("asyncio", failed=True, cause="no file of another"), True),
    ],
)
def test_only_failures_of_orbax_are_kept_off_the_screen(entry, shown):
    orbax_noise.silence()
    assert bool(logging.getLogger(entry.name).filter(entry)) is shown


def test_closed_loops_are_dropped_and_silencing_twice_is_silencing_once(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with warnings.catch_warnings():
        orbax_noise.silence()
        once = sys.unraisablehook
        orbax_noise.silence()
        text = "coroutine 'async_serialize.<locals>.write' was never awaited"
        warnings.warn(text, RuntimeWarning, stacklevel=1)
    assert sys.unraisablehook is once
    for text in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=text))
    assert [event.exc_value for event in seen] == ["something else"]
