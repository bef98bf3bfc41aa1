"""Metrics of a run as JSON lines and TensorBoard events; a resumed run has no gap and no repeat.

`metrics.jsonl` holds one object a record: `step`, `wall` (seconds since the run began, without the
pauses between a kill and a resume), then the values. Non-finite values are the strings "NaN",
"Infinity" and "-Infinity", so that each line is valid JSON; `read` gives floats back.

TensorBoard gets up to two hundred records a second: an event costs about 4 us a scalar, which a
fast step would feel at every update. The JSON lines hold all.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from library import checks
from library.storage import files

METRICS = "metrics.jsonl"
EMIT_PERIOD = 0.1  # seconds between batches of TensorBoard events
EMIT_RECORDS = 20  # records of the same names in a batch, evenly spread up to the newest
SYNC_PERIOD = 1.0  # seconds between hand-overs of lines to the system, for readers of a live run


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to a TensorBoard event file.

    Call `flush` before each checkpoint: then all records up to a checkpoint's step are on the
    disk, and a run resumed from it goes on exactly there. Only the first process writes.
    """

    def __init__(self, directory: str | os.PathLike, resume_step: int = 0):
        """Opens the files of a run, cut back to the step it goes on from.

        Args:
            directory: the run's folder; made if absent.
            resume_step: step of the restored state; records of later steps and a last line that
                was cut off are dropped. 0 starts over: all records are dropped.
        Raises:
            ValueError: if a line before the last one is not a record, a step is negative or the
                directory is no local one.
        """
        checks.count("resume_step", resume_step, least=0)
        self._directory = files.local(directory)
        self._resume_step = resume_step
        self._prefixes: dict[str, str] = {}
        self._pending: dict[tuple[str, ...], list[tuple[int, float, list[float]]]] = {}
        self._file = self._events = None
        self._emitted = self._synced = 0.0
        if files.is_writer():
            import tensorboardX  # noqa: F401  here, where 0.3 s are not felt, rather than mid-loop

            self._directory.mkdir(parents=True, exist_ok=True)
            last_wall = _cut(self._directory / METRICS, resume_step)
            self._file = open(self._directory / METRICS, "a", encoding="utf-8", buffering=1 << 16)
            self._start = time.monotonic() - last_wall

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one record, in a few microseconds.

        Args:
            step: number of updates done, above `resume_step`.
            values: scalars by name: numbers or arrays of rank 0 (a device array is waited for).
        Raises:
            ValueError: naming a value that is not a scalar, or a name that the record uses itself.
        """
        if self._file is None:
            return
        wall = time.monotonic() - self._start
        try:
            numbers = [float(value) for value in values.values()]
        except TypeError:
            raise _not_scalar(values) from None
        prefixes = self._prefixes
        parts = [f'{{"step": {int(step)}, "wall": {wall:.4f}']
        for name, number in zip(values, numbers, strict=True):
            prefix = prefixes.get(name) or self._prefix(name)
            parts.append(prefix + (repr(number) if math.isfinite(number) else _quoted(number)))
        self._file.write("".join(parts) + "}\n")
        self._pending.setdefault(tuple(values), []).append((int(step), wall, numbers))
        if wall - self._emitted > EMIT_PERIOD:
            self._emit(wall)

    def flush(self) -> None:
        """Makes all records so far durable."""
        if self._file is None:
            return
        self._emit(time.monotonic() - self._start)
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        if self._file is None:
            return
        try:
            self.flush()
        finally:
            file, self._file = self._file, None
            file.close()
            if self._events is not None:
                self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prefix(self, name: str) -> str:
        """`, "name": ` as JSON, kept for the next record."""
        if name in ("step", "wall"):
            raise ValueError(f"metric name {name!r} is taken by the record itself")
        self._prefixes[name] = f", {json.dumps(name)}: "
        return self._prefixes[name]

    def _emit(self, wall: float) -> None:
        """Hands the pending records to TensorBoard, and now and then the lines to the system."""
        if self._events is None:
            self._events = _open_events(self._directory, self._resume_step)
        began = time.time() - wall
        for names, records in self._pending.items():
            stride = math.ceil(len(records) / EMIT_RECORDS)
            for step, at, numbers in reversed(records[::-stride]):
                self._events.write_event(_event(step, began + at, names, numbers))
        self._pending.clear()
        self._emitted = wall
        if wall - self._synced > SYNC_PERIOD:
            self._file.flush()
            self._events.flush()
            self._synced = wall


def read(directory: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line that is still being written is left out.

    Raises:
        ValueError: if a line before the last one is not a record.
    """
    path = files.local(directory) / METRICS
    return _parse(path)[0] if path.exists() else []


def _parse(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a file and the lines they stand on, without an unreadable end."""
    records, lines, unreadable = [], [], None
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                whole = isinstance(record["step"], int)
                record = {name: _number(value) for name, value in record.items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                whole = False
            if not whole:
                unreadable = unreadable or number
                continue
            if unreadable:
                raise ValueError(f"{path} line {unreadable} is not a record")
            records.append(record)
            lines.append(line if line.endswith("\n") else line + "\n")
    return records, lines


def _cut(path: pathlib.Path, resume_step: int) -> float:
    """Drops what the resumed run will write again; returns the wall seconds of the last record."""
    if not path.exists():
        return 0.0
    pairs = zip(*_parse(path), strict=True)
    kept = [(record, line) for record, line in pairs if 0 < resume_step >= record["step"]]
    content = "".join(line for _, line in kept).encode()
    if len(content) != path.stat().st_size:
        files.write_atomic(path, content)
    return max((record["wall"] for record, _ in kept), default=0.0)


def _open_events(directory: pathlib.Path, resume_step: int) -> Any:
    """A new event file that tells TensorBoard to forget the steps after `resume_step`."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    # The writer's own file name has a resolution of one second: without the suffix, a run that
    # is resumed at once would overwrite its first events.
    writer = EventsWriter(str(directory / "events"), filename_suffix=f".{time.time_ns()}")
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    writer.write_event(
        event_pb2.Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
    )
    return writer


def _not_scalar(values: Mapping[str, Any]) -> ValueError:
    """The error for the first value that is no number."""
    for name, value in values.items():
        kind = f"shape {value.shape}" if getattr(value, "shape", ()) else type(value).__name__
        if getattr(value, "shape", ()) or not hasattr(value, "__float__"):
            return ValueError(f"metric {name!r} has {kind}: expected a scalar")
    return ValueError(f"metrics {list(values)}: expected scalars")


def _event(step: int, wall_time: float, names: Sequence[str], numbers: Sequence[float]) -> Any:
    """One record as a TensorBoard event."""
    from tensorboardX.proto import event_pb2, summary_pb2

    event = event_pb2.Event(wall_time=wall_time, step=step)
    pairs = zip(names, numbers, strict=True)
    event.summary.value.extend(summary_pb2.Summary.Value(tag=n, simple_value=v) for n, v in pairs)
    return event


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _quoted(number: float) -> str:
    return json.dumps(files.finite_or_name(number))
