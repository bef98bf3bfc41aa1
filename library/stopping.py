"""Stop signals of a run, and the agreement of several processes on when to heed them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from library import multihost

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGREE_EVERY = 16  # steps between two agreements of several processes


class Interrupted(Exception):
    """A signal stopped the run after `step`, which is saved if the run keeps checkpoints."""

    def __init__(self, signal_number: int, step: int, saved: bool):
        self.signal_number, self.step, self.saved = signal_number, step, saved
        name = signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name} after step {step}, {'saved' if saved else 'not saved'}"
        )


@contextlib.contextmanager
def listening() -> Iterator[Sequence[int]]:
    """The numbers of the signals that this process has received so far, oldest first.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread, where Python sets no
    handlers, the sequence stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agreed(received: Sequence[int], done: int, size: int, num_steps: int) -> int:
    """The signal to stop for after step `done`, 0 for none; the same in all processes.

    A single process heeds its signal at once. Several agree when a call crosses a multiple of
    `AGREE_EVERY` steps and at the end, so that all leave after the same step.

    Args:
        received: signals of this process, oldest first.
        done, size: number of steps done, and how many of them the last call made.
        num_steps: of the whole run.
    """
    number = received[0] if received else 0
    if jax.process_count() == 1:
        return number
    crossed = done // AGREE_EVERY != (done - size) // AGREE_EVERY or done == num_steps
    return multihost.agreed_maximum(number) if crossed else 0
