"""Runs one question in its folder, and turns whatever ends it into one line and an exit status.

    0    done, also if a claim fails (`python -m experiments claims` judges)
    1    the run failed: a loss that is not finite, a damaged checkpoint, a full disk
    2    a caller's mistake, found before any work was done; a new folder is removed again
    130  stopped by Ctrl-C, 143 by SIGTERM; the same command with the same folder resumes

Anything else is a bug and keeps its traceback; `ANSATZ_TRACEBACK=1` shows all tracebacks.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import pathlib
import shlex
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any

from experiments import catalogue
from library import report
from library.report import claims_table
from library.storage import files, system_errors

FAILED, MISUSED = 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FAILURES = (("library.fit", "NonFiniteLoss"), ("library.checkpoint", "CheckpointError"))


class Stopped(KeyboardInterrupt):
    """A signal that came outside of the training loop, which handles its own."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


class Session(contextlib.AbstractContextManager):
    """One use of the command line: turns signals into exceptions and those into `status`."""

    def __init__(self, argv: list[str], package: str = "experiments"):
        self.argv, self.package, self.status = argv, package, 0
        self.out: report.RunDir | None = None
        self._house = _house_folders(package)
        self._work: set = set()
        self._made: list[pathlib.Path] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Session:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, _stop) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if error is None:
            return False
        if isinstance(error, SystemExit):  # the help was shown
            self.status = error.code or 0
            return True
        message, self.status = self._explain(error)
        if message is None:
            return False
        if os.environ.get("ANSATZ_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exception(error)
        print(" ".join(message.split()), file=sys.stderr, flush=True)
        return True

    def open(
        self, question: catalogue.Question, config: Any, preset: str, workdir: pathlib.Path | None
    ) -> report.RunDir:
        """The run's folder: the one named, or the next number under `runs/STUDY.QUESTION/`.

        Raises:
            ValueError: for an address such as gs://, or a folder that can't be this run's.
        """
        workdir = workdir if workdir is None else files.local(workdir, "--workdir")
        if workdir is None:
            workdir = _next_folder(pathlib.Path("runs") / question.name)
            self._made = [workdir]
        elif not workdir.exists():
            self._made = [workdir]
        if not (workdir / report.CONFIG).exists():
            self._made += [workdir / report.CONFIG, workdir / report.VERSIONS]
        out = report.open_or_create(workdir, config, question.name, preset)
        self.out, self._work = out, _work(out)
        return out

    def _explain(self, error: BaseException) -> tuple[str | None, int]:
        """The line to show and the exit status; no line for a bug."""
        number = _signal_number(error)
        if number is not None:
            return self._explain_stop(number, error), 128 + number
        if any(_is_a(error, *name) for name in _FAILURES):
            return f"error: {error}", FAILED
        if isinstance(error, OSError) and (error.errno in system_errors.CODES or self.out is None):
            return f"error: {error}", FAILED if self.out else MISUSED
        untouched = self.out is None or _work(self.out) == self._work
        if untouched and self._is_mistake(error):
            self._discard()
            return f"error: {error}", MISUSED
        return None, FAILED

    def _explain_stop(self, number: int, error: BaseException) -> str:
        name = signal.Signals(number).name
        if self.out is None:
            return f"stopped by {name} before the run began"
        step = f" after step {error.step}" if hasattr(error, "step") else ""
        return f"stopped by {name}{step}; to resume: {self._resume_command()}"

    def _resume_command(self) -> str:
        kept, words = [], iter(self.argv)
        for word in words:
            if word == "--workdir":
                next(words, None)
            elif not word.startswith("--workdir="):
                kept.append(word)
        command = ["python", "-m", self.package, *kept, "--workdir", str(self.out.path)]
        return shlex.join(command)

    def _is_mistake(self, error: BaseException) -> bool:
        """Whether a `raise` of our own code, not JAX or NumPy beneath it, refused its input."""
        ours = type(error).__module__.split(".")[0] in ("library", "research", "experiments")
        if not ours and not isinstance(error, (ValueError, OSError)):
            return False
        last = traceback.extract_tb(error.__traceback__)[-1]
        file = pathlib.Path(last.filename).resolve()
        # The place that failed within the line: of `raise ValueError(int("x"))` it may be int("x").
        failed = linecache.getline(last.filename, last.lineno)[last.colno or 0 :].split()
        return failed[:1] == ["raise"] and any(folder in file.parents for folder in self._house)

    def _discard(self) -> None:
        """Removes what `open` made, if nothing was added to it."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                if path.is_dir():
                    for folder in ("checkpoints", "figures"):
                        if (path / folder).is_dir():
                            (path / folder).rmdir()
                    path.rmdir()
                else:
                    path.unlink()


def run_question(
    session: Session,
    question: catalogue.Question,
    module: types.ModuleType,
    config: Any,
    preset: str,
    workdir: pathlib.Path | None,
) -> None:
    """Runs or resumes a question in its folder; one that has finished is shown, not run again."""
    from library import environment, multihost

    started = time.monotonic()
    if getattr(module, "CORES_AS_DEVICES", False):
        environment.cores_as_devices()
    multihost.initialize()
    out = session.open(question, config, preset, workdir)
    _say(f"run folder: {out.path}")
    if out.finished:
        _say("this run has finished before; another --workdir runs it anew")
    else:
        earlier = _earlier_seconds(out)
        out.write_versions(_seed(config))
        result = module.run(config, out)
        out.write_result(result, preset, earlier + time.monotonic() - started)
    _write_html(out, question, module)
    _show(out)


def _show(out: report.RunDir) -> None:
    """The claims of a finished run, and where it is."""
    if not files.is_writer():
        return
    import rich.console

    rows = claims_table.rows_of(out.path.name, out.path / report.RESULT)
    if rows:
        console = rich.console.Console()
        console.print(claims_table.table(rows, show_run=False))
    _say(f"report: {out.path / report.HTML}")
    _say(f"run folder: {out.path}")


def _write_html(out: report.RunDir, question: catalogue.Question, module: types.ModuleType) -> None:
    if files.is_writer() and not (out.path / report.HTML).exists():
        from library.report import html

        parts = [f"Claim: {question.claim}." * bool(question.claim)]
        parts += [f"Cost: {question.cost}." * bool(question.cost), question.text]
        html.write(out, question.asks or question.name, "\n\n".join(parts))


def _say(line: str) -> None:
    if files.is_writer():
        print(line, flush=True)


def _stop(number: int, _: Any) -> None:
    """Raises where the signal came; a second one ends the process at once."""
    for other in SIGNALS:
        signal.signal(other, lambda number, _: os._exit(128 + number))
    raise Stopped(number)


def _signal_number(error: BaseException) -> int | None:
    """The signal behind an exception, None if there is none."""
    if isinstance(error, Stopped) or _is_a(error, "library.fit", "Interrupted"):
        return error.signal_number
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


def _is_a(error: BaseException, module: str, name: str) -> bool:
    """isinstance without importing the module: what was never imported cannot have raised."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name, ()))


def _house_folders(package: str) -> list[pathlib.Path]:
    house = pathlib.Path(__file__).resolve().parent.parent
    studies = [pathlib.Path(root).resolve() for root in catalogue.folders(package)]
    return [house / "library", house / "research", house / "experiments", *studies]


def _work(out: report.RunDir) -> set[tuple[str, int]]:
    """What a run has done so far: lines of metrics, checkpoints, figures."""
    metrics = out.path / "metrics.jsonl"
    paths = [metrics] if metrics.exists() and metrics.stat().st_size else []
    paths += [*out.checkpoints.glob("[0-9]*"), *out.figures.glob("*.png")]
    return {(str(path), path.stat().st_mtime_ns) for path in paths}


def _next_folder(parent: pathlib.Path) -> pathlib.Path:
    """A new numbered folder, the same in all processes of a run, also when several runs start."""
    from library import multihost

    number = int(_make_next(parent).name) if files.is_writer() else 0
    return parent / f"{multihost.from_main_process(number):03d}"


def _make_next(parent: pathlib.Path) -> pathlib.Path:
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(path.name) for path in parent.iterdir() if path.name.isdigit()]
        folder = parent / f"{max(numbers, default=0) + 1:03d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def _earlier_seconds(out: report.RunDir) -> float:
    """Wall seconds that a run spent before it was stopped, by its last line of metrics."""
    from library import metrics

    records = metrics.read(out.path)
    return records[-1]["wall"] if records else 0.0


def _seed(config: Any) -> int | None:
    """The seed of a config, by itself or in its run options."""
    return getattr(getattr(config, "run", config), "seed", getattr(config, "seed", None))
