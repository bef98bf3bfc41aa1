"""A network's kernel on the way of its training on squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from experiments.ntk import _networks
from library.types import Array, Key, Params
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
    apply: Callable, params: Params, data: _networks.Digits, steps: list[int], learning_rate: float
) -> list[Params]:
    """Parameters after these numbers of steps of Adam on the mean squared error of all."""
    optimizer = optax.adam(learning_rate)

    def loss(params: Params) -> Array:
        return jnp.mean(jnp.square(apply(params, data.x) - data.y))

    @jax.jit
    def advance(carry: tuple, num: Array) -> tuple:
        def step(_: Array, carry: tuple) -> tuple:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, num, step, carry)

    found, carry, done = [], (params, optimizer.init(params)), 0
    for step in steps:
        carry, done = advance(carry, step - done), step
        found.append(carry[0])
    return found
