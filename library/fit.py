"""The training loop: batches by step number, hooks by period, checkpoints, and a clean stop.

The loop keeps one call in flight: it dispatches call n, waits for call n - 1, and reads metrics
only of finished calls. Unbounded dispatch starves the collectives of virtual CPU devices and
aborts the process; one call in flight keeps an accelerator busy.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from library import checks, loops, stopping
from library.data import pipeline
from library.sharding import Step
from library.stopping import Interrupted
from library.train_step import TrainStep, scan_steps
from library.types import Batch, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class OnMetrics:
    """Calls `call(step, metrics)` with floats after the steps it is due at and after the last.

    Attributes:
        every: a period in steps, or the steps themselves, e.g. (1, 10, 100).
        call: reads the metrics of one step.
    """

    every: int | Collection[int]
    call: Callable[[int, dict[str, float]], None]

    def due(self, step: int) -> bool:
        """Whether it is called after `step` updates."""
        return _is_due(self.every, step)


@dataclasses.dataclass(frozen=True)
class OnState:
    """Calls `call(step, state)` after the steps it is due at and after the last.

    The next step donates the state: read it during the call, keep no reference to it.

    Attributes:
        every: a period in steps, or the steps themselves, e.g. (1, 10, 100).
        call: reads the state, before a checkpoint of the same step is written.
    """

    every: int | Collection[int]
    call: Callable[[int, TrainState], None]

    def due(self, step: int) -> bool:
        """Whether it is called after `step` updates."""
        return _is_due(self.every, step)


@dataclasses.dataclass(frozen=True)
class BeforeSave:
    """Calls `call(step)` before a checkpoint is written, e.g. to make the metrics durable first."""

    call: Callable[[int], None]


Hook = OnMetrics | OnState | BeforeSave


class Checkpoints(Protocol):
    """What the loop asks of `library.checkpoint.Checkpoints`."""

    every: int

    def save(self, step: int, state: TrainState) -> None: ...
    def restore(self, state_like: TrainState) -> TrainState | None: ...
    def latest(self) -> int | None: ...
    def wait(self) -> None: ...


class NonFiniteLoss(ArithmeticError):
    """The loss stopped being a number; the message names step, metrics and last good checkpoint."""


def fit(
    step: Step | TrainStep,
    state: TrainState,
    batch_at: Callable[[int], Batch],
    *,
    num_steps: int,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    steps_per_call: int = 1,
) -> TrainState:
    """Runs a compiled step until `num_steps` updates are done, resuming from a checkpoint.

    Args:
        step: from `sharding.compile_step` or `per_device.pmap_step`; a plain (state, batch)
            function is jitted with donation.
        state: the initial state; it is copied, not donated. The newest checkpoint replaces it.
        batch_at: the batch of update t = 0, 1, ...: a pure function of t, so that resuming needs
            no iterator state.
        num_steps: total number of updates, those before a resume included.
        hooks: `OnMetrics` and `OnState`, each with its period or its steps, and `BeforeSave`.
        checkpoints: saves after every `checkpoints.every` steps, at the end and when stopped.
        steps_per_call: updates per compiled call. Single steps fill up to the next step at which
            a hook on the state or a checkpoint is due, so periods need not be multiples of it.
    Returns:
        The state after `num_steps` updates.
    Raises:
        ValueError: for a period, a count or a step of a hook that is not positive; where more than
            `num_steps` updates are done already, in the state or in the newest checkpoint.
        NonFiniteLoss: at the first step whose loss is nan or infinite; nothing after it is saved.
        Interrupted: on SIGINT or SIGTERM, after the running call was finished and saved.
    """
    _check_counts(num_steps, steps_per_call, hooks, checkpoints)
    step = _as_step(step)
    state = step.place_state(state)
    restored = None if checkpoints is None else checkpoints.restore(state)
    state = state if restored is None else restored
    metrics_hooks = [hook for hook in hooks if isinstance(hook, OnMetrics)]
    state_hooks = [hook for hook in hooks if isinstance(hook, OnState)]
    before_save = [hook for hook in hooks if isinstance(hook, BeforeSave)]
    log = _MetricsLog(metrics_hooks, num_steps, checkpoints)

    def save_due(step: int) -> bool:
        return checkpoints is not None and (step % checkpoints.every == 0 or step == num_steps)

    def pauses(step: int) -> bool:
        return save_due(step) or any(hook.due(step) for hook in state_hooks)

    done, stop, saved = int(state.step), 0, restored is not None
    if done > num_steps:
        where = "the state" if restored is None else "the newest checkpoint"
        raise ValueError(f"num_steps={num_steps}: {where} is of step {done} already")
    with stopping.listening() as received:
        while done < num_steps and not stop:
            size = _call_size(done, num_steps, pauses, steps_per_call)
            state, metrics = _call(step, state, batch_at, done, size)
            done, saved = done + size, False
            log.append(done, size, metrics)
            stop = stopping.agreed(received, done, size, num_steps)
            due = [hook for hook in state_hooks if hook.due(done) or done == num_steps]
            save = save_due(done) or (stop and checkpoints is not None)
            log.read(everything=bool(due or save or stop or done == num_steps))
            for hook in due:
                hook.call(done, state)
            if save:
                for hook in before_save:
                    hook.call(done)
                checkpoints.save(done, state)
                saved = True
        if checkpoints is not None:
            checkpoints.wait()
        stop = stop or (received[0] if received else 0)
        if stop:
            raise Interrupted(stop, done, saved)
    return state


class _MetricsLog:
    """Device metrics of the calls not yet read, oldest first."""

    def __init__(self, hooks: Sequence[OnMetrics], num_steps: int, checkpoints: Checkpoints | None):
        self.hooks, self.num_steps, self.checkpoints = hooks, num_steps, checkpoints
        self.unread: collections.deque[tuple[int, int, Metrics]] = collections.deque()
        periods = [hook.every for hook in hooks if not isinstance(hook.every, Collection)]
        self.max_unread = min(periods, default=64)

    def append(self, last: int, size: int, metrics: Metrics) -> None:
        self.unread.append((last, size, metrics))

    def read(self, everything: bool) -> None:
        """Waits for all calls but the newest (or for all), and reads them when a reading is due."""
        count = len(self.unread) - (not everything)
        if count < 1:
            return
        last, size, metrics = self.unread[count - 1]
        metrics["loss"].block_until_ready()
        if everything or self._due_steps(last, size) or count >= self.max_unread:
            calls = [self.unread.popleft() for _ in range(count)]
            self._check(calls)
            self._report(calls)

    def _due_steps(self, last: int, size: int) -> list[int]:
        steps = range(last - size + 1, last + 1)
        return [step for step in steps if any(self._is_due(hook, step) for hook in self.hooks)]

    def _is_due(self, hook: OnMetrics, step: int) -> bool:
        return hook.due(step) or step == self.num_steps

    def _check(self, calls: list[tuple[int, int, Metrics]]) -> None:
        """Raises at the first step with a loss that is not finite."""
        losses = jax.device_get([metrics["loss"] for _, _, metrics in calls])
        for (last, size, metrics), loss in zip(calls, losses):
            for index, value in enumerate(np.ravel(loss)):
                if not math.isfinite(value):
                    self._raise(last - size + 1 + index, _row(jax.device_get(metrics), index))

    def _raise(self, step: int, row: dict[str, float]) -> None:
        names = ["loss", *(name for name in row if name != "loss")]
        bad = ", ".join(f"{name}={row[name]}" for name in names if not math.isfinite(row[name]))
        if self.checkpoints is None:
            advice = "the run keeps no checkpoints"
        else:
            self.checkpoints.wait()
            latest = self.checkpoints.latest()
            advice = (
                "no checkpoint yet" if latest is None else f"last good checkpoint: step {latest}"
            )
        raise NonFiniteLoss(f"training stopped at step {step}: {bad}; {advice}")

    def _report(self, calls: list[tuple[int, int, Metrics]]) -> None:
        for last, size, metrics in calls:
            steps = self._due_steps(last, size)
            values = jax.device_get(metrics) if steps else {}
            for step in steps:
                row = _row(values, step - (last - size + 1))
                for hook in self.hooks:
                    if self._is_due(hook, step):
                        hook.call(step, row)


def _row(values: dict[str, Any], index: int) -> dict[str, float]:
    """One step's metrics out of scalars or stacks [K]."""
    return {name: float(np.ravel(value)[index]) for name, value in values.items()}


def _as_step(step: Step | TrainStep) -> Step:
    if isinstance(step, Step):
        return step
    one = jax.jit(step, donate_argnums=0)
    return Step(
        one=one,
        many=loops.many(step, one, jax.jit(scan_steps(step), donate_argnums=0)),
        place_state=lambda state: jax.tree.map(jax.numpy.copy, state),
    )


def _call(
    step: Step, state: TrainState, batch_at: Callable[[int], Batch], done: int, size: int
) -> tuple[TrainState, Metrics]:
    """The updates done + 1 ... done + size."""
    if size == 1:
        return step.one(state, step.place_batch(batch_at(done), False))
    batches = [batch_at(done + index) for index in range(size)]
    return step.many(state, step.place_batch(pipeline.stack_batches(batches), True))


def _call_size(
    done: int, num_steps: int, pauses: Callable[[int], bool], steps_per_call: int
) -> int:
    """A whole call when it starts on a multiple of its size and passes over no pause, else one.

    A function of the step alone, so that a resumed run makes the same calls to the bit.
    """
    last = done + steps_per_call
    if done % steps_per_call or last > num_steps or any(map(pauses, range(done + 1, last))):
        return 1
    return steps_per_call


def _is_due(every: int | Collection[int], step: int) -> bool:
    return step in every if isinstance(every, Collection) else step % every == 0


def _check_counts(
    num_steps: int, steps_per_call: int, hooks: Sequence[Hook], checkpoints: Checkpoints | None
) -> None:
    counts = {"num_steps": num_steps, "steps_per_call": steps_per_call}
    for hook in hooks:
        if not isinstance(hook, OnMetrics | OnState | BeforeSave):
            raise ValueError(f"hook {hook!r}: expected OnMetrics, OnState or BeforeSave")
        every = getattr(hook, "every", 1)
        least = min(every, default=1) if isinstance(every, Collection) else every
        counts[f"every of {type(hook).__name__}"] = least
    counts |= {} if checkpoints is None else {"checkpoints.every": checkpoints.every}
    for name, value in counts.items():
        checks.count(name, value, of="steps")
