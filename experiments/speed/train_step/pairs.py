"""The shared step and loop beside their counterparts written by hand, in turn in one process."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np
import optax

from experiments.speed.train_step import cases
from experiments.speed.train_step.cases import Case
from library import fit, sharding, timing, training
from library.train_step import init_state, make_train_step
from library.types import TrainState


def compiled(case: Case) -> tuple[sharding.Step, TrainState, optax.GradientTransformation]:
    """The shared step of a case with Adam and a moving average, its first state, the optimizer."""
    optimizer = optax.adam(1e-3)
    state = init_state(case.params, optimizer, jax.random.key(2), ema=True)
    step = make_train_step(case.loss_fn, optimizer, ema_decay=0.999)
    return sharding.compile_step(step, state, sharding.make_mesh({"data": 1})), state, optimizer


def against_hand(
    case: Case, step: sharding.Step, state: TrainState, optimizer: optax.GradientTransformation
) -> tuple[float, float]:
    """Ratios of time and of compiled memory."""
    hand = cases.by_hand(case.loss_fn, optimizer)
    states = {"ours": step.place_state(state), "hand": step.place_state(state)}

    def advance(name: str, update: Callable) -> Callable:
        def run() -> jax.Array:
            for _ in range(case.num_steps):
                states[name], metrics = update(states[name], case.batch)
            return metrics["loss"]

        return run

    runs = {"ours": advance("ours", step.one), "hand": advance("hand", hand)}
    times = timing.alternate(runs, case.rounds)
    memory = timing.compiled_bytes(step.one, state, case.batch)
    return (
        timing.median_ratio(times, "ours", "hand"),
        memory / timing.compiled_bytes(hand, state, case.batch),
    )


def loops(
    name: str, case: Case, step: sharding.Step, state: TrainState, many: bool
) -> dict[str, float]:
    """The loop with every hook that training installs, against a bare one, and ten steps a call."""
    num_steps = 10 * max(case.num_steps // 10, 1)

    def bare() -> jax.Array:
        current = step.place_state(state)
        for _ in range(num_steps):
            current, metrics = step.one(current, case.batch)
            jax.block_until_ready(metrics["loss"])
        return metrics["loss"]

    def loop(steps_per_call: int, hooks: list[fit.Hook]) -> Callable:
        return lambda: fit.fit(
            step,
            state,
            lambda index: case.batch,
            num_steps=num_steps,
            hooks=hooks,
            steps_per_call=steps_per_call,
        )

    with (
        tempfile.TemporaryDirectory() as folder,
        training.recorders(
            pathlib.Path(folder), num_steps, start=0, log_every=training.RunOptions().log_every
        ) as hooks,
    ):
        runs = {"bare": bare, "hooks": loop(1, hooks)}
        runs |= {"one": loop(1, []), "ten": loop(10, [])} if many else {}
        times = timing.alternate(runs, case.rounds)
    metrics = {
        f"{name}_loop_ratio": timing.median_ratio(times, "hooks", "bare"),
        f"{name}_step_microseconds": float(np.median(times["bare"]) / num_steps * 1e6),
    }
    if many:
        metrics[f"{name}_ten_steps_per_call_gain"] = timing.median_ratio(times, "one", "ten")
    return metrics
