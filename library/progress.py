"""A progress bar with rate, time left and the latest metrics; lines now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from library.storage import files

PERIOD = 0.1  # seconds between two drawings of the bar
LINE_PERIOD = 60.0  # seconds after which a log gets a line between two tenths of the run


class Progress:
    """Draws one bar on a terminal's standard error while it is open.

        with Progress(num_steps, "score_sde.digits", start=resumed_step) as bar:
            bar.update(step, {"loss": loss})

    Without a terminal, as in the log of a batch job, it prints a line there at each tenth of the
    run, and in between one a minute at most. A process that is not the first stays silent.
    """

    def __init__(self, total: int, title: str, start: int = 0, console: Any = None):
        """Opens the bar.

        Args:
            total: number of steps of the whole run.
            title: shown before the bar.
            start: steps that were done before; they do not count for the rate.
            console: a `rich.console.Console`; None is standard error.
        """
        self._total, self._title, self._start = total, title, start
        self._bar = self._stream = None
        self._last: tuple[int, Mapping[str, Any]] | None = None
        self._began = self._shown = time.monotonic()
        self._tenths = 10 * start // total
        terminal = sys.stderr.isatty() if console is None else console.is_terminal
        if not files.is_writer():
            self.update = _nothing
        elif terminal:
            self._bar, self._task = _open(total, title, start, console)
            self._shown -= PERIOD  # the first update is drawn
        else:
            self._stream = sys.stderr if console is None else console.file

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Moves the bar to a step; redraws ten times a second at most.

        Args:
            step: number of steps done.
            metrics: scalars by name, read only when shown: give those of a finished step.
        """
        now = time.monotonic()
        self._last = step, metrics or {}
        if self._bar is not None:
            if now >= self._shown + PERIOD:
                self._shown = now
                self._draw(*self._last, now)
        elif 10 * step // self._total > self._tenths or now >= self._shown + LINE_PERIOD:
            self._shown, self._tenths = now, 10 * step // self._total
            self._print(*self._last, now)

    def close(self) -> None:
        """Leaves the bar at the last step and gives the terminal back."""
        if self._bar is not None:
            if self._last is not None:
                self._draw(*self._last, time.monotonic())
            self._bar.stop()
        self._bar = self._stream = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, step: int, metrics: Mapping[str, Any], now: float) -> None:
        speed, left, values = self._texts(step, metrics, now)
        self._bar.update(self._task, completed=step, speed=speed, left=left, values=values)
        self._bar.refresh()

    def _print(self, step: int, metrics: Mapping[str, Any], now: float) -> None:
        speed, left, values = self._texts(step, metrics, now)
        if self._stream is not None:
            line = f"{self._title} {step}/{self._total}  {speed}  {left} left  {values}"
            print(line.rstrip(), file=self._stream, flush=True)

    def _texts(self, step: int, metrics: Mapping[str, Any], now: float) -> tuple[str, str, str]:
        """Speed, time left and metrics for people."""
        elapsed = now - self._began
        rate = (step - self._start) / elapsed if elapsed > 0 else 0.0
        left = format_seconds((self._total - step) / rate) if rate > 0 else "?"
        speed = f"{rate:.3g} steps/s" if rate >= 1 or rate == 0 else f"{1 / rate:.3g} s/step"
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
        return speed, left, values


def format_seconds(seconds: float) -> str:
    """A duration for people: '8 s', '3:07', '2:05:09', '3 d 4 h'."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}:{seconds:02d}"
    if hours < 48:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{hours // 24} d {hours % 24} h"


def _nothing(step: int, metrics: Mapping[str, Any] | None = None) -> None:
    pass


def _open(total: int, title: str, start: int, console: Any) -> tuple[Any, Any]:
    import rich.console
    import rich.progress

    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", style="bold", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[speed]}", style="cyan"),
        rich.progress.TextColumn("{task.fields[left]} left", style="magenta"),
        rich.progress.TextColumn("{task.fields[values]}", markup=False),
        console=console or rich.console.Console(stderr=True),
        auto_refresh=False,  # no thread beside the loop: `update` draws
    )
    task = bar.add_task(title, total=total, completed=start, speed="", left="?", values="")
    bar.start()
    return bar, task
