"""A progress bar with rate, time left and the latest metrics; nothing at all without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from library.storage import files

PERIOD = 0.1  # seconds between two drawings


class Progress:
    """Draws one bar on a terminal's standard error while it is open.

        with Progress(num_steps, "score_sde.digits", start=resumed_step) as bar:
            bar.update(step, {"loss": loss})

    Without a terminal, or in a process that is not the first, `update` does nothing.
    """

    def __init__(self, total: int, title: str, start: int = 0, console: Any = None):
        """Opens the bar.

        Args:
            total: number of steps of the whole run.
            title: shown before the bar.
            start: steps that were done before; they do not count for the rate.
            console: a `rich.console.Console`; None is standard error.
        """
        self._start = start
        self._bar = None
        self._next = 0.0
        self._last: tuple[int, Mapping[str, Any]] | None = None
        terminal = sys.stderr.isatty() if console is None else console.is_terminal
        if terminal and files.is_writer():
            self._bar, self._task = _open(total, title, start, console)
            self._began = time.monotonic()
        else:
            self.update = _nothing

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Moves the bar to a step; redraws ten times a second at most.

        Args:
            step: number of steps done.
            metrics: scalars by name, read only when drawn: give those of a finished step.
        """
        now = time.monotonic()
        self._last = step, metrics or {}
        if now >= self._next and self._bar is not None:
            self._next = now + PERIOD
            self._draw(*self._last, now)

    def close(self) -> None:
        """Leaves the bar at the last step and gives the terminal back."""
        if self._bar is not None:
            if self._last is not None:
                self._draw(*self._last, time.monotonic())
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, step: int, metrics: Mapping[str, Any], now: float) -> None:
        elapsed = now - self._began
        rate = (step - self._start) / elapsed if elapsed > 0 else 0.0
        total = self._bar.tasks[0].total
        left = format_seconds((total - step) / rate) if rate > 0 else "?"
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
        speed = f"{rate:.3g} steps/s" if rate >= 1 or rate == 0 else f"{1 / rate:.3g} s/step"
        self._bar.update(self._task, completed=step, speed=speed, left=left, values=values)
        self._bar.refresh()


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
