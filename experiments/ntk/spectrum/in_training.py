"""A network's kernel on the way of its training on squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from experiments.ntk import _networks
from library.train_step import init_state, make_train_step
from library.types import Array, Aux, Batch, Key, Params, PyTree, TrainState
from research import ntk


def alignments(
    apply: Callable,
    params: Params,
    data: _networks.Digits,
    steps: Sequence[int],
    *,
    learning_rate: float,
    num_probes: int,
    rng: Key,
) -> list[dict[str, float]]:
    """Alignment, distance from the start and effective rank at the chosen steps."""
    records = []
    found = snapshots(apply, params, data, list(steps), learning_rate)
    for index, (step, now) in enumerate(zip(steps, found)):
        options = {"rng": jax.random.fold_in(rng, index), "num_probes": num_probes}
        aligned = ntk.spectrum.alignment(apply, now, data.x, data.y, **options)
        moved = ntk.spectrum.distance(apply, params, now, data.x, **options)
        rank = ntk.spectrum.effective_rank(apply, now, data.x, **options)
        records.append(
            {
                "step": step,
                "alignment": float(aligned.value),
                "alignment_error": float(aligned.standard_error),
                "distance": float(moved.value),
                "effective_rank": float(rank.value),
            }
        )
    return records


def snapshots(
    apply: Callable,
    params: Params,
    data: _networks.Digits,
    steps: Sequence[int],
    learning_rate: float,
) -> list[Params]:
    """Parameters after these numbers of steps of Adam on the mean squared error of all."""
    optimizer, batch = optax.adam(learning_rate), {"x": data.x, "y": data.y}

    def loss_fn(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        return jnp.mean(jnp.square(apply(params, batch["x"]) - batch["y"])), Aux(1.0)

    update = make_train_step(loss_fn, optimizer)

    @jax.jit
    def advance(state: TrainState, num: Array) -> TrainState:
        return jax.lax.fori_loop(0, num, lambda _, state: update(state, batch)[0], state)

    state, found, done = init_state(params, optimizer, jax.random.key(0)), [], 0
    for step in steps:
        state, done = advance(state, step - done), step
        found.append(state.params)
    return found
