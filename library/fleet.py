"""Fleets: many runs of one shape as one training run of the shared loop, their losses unrolled.

The runs differ by seed and data. Their parameters lie in one pytree with leaves [R, ...], so that a
fleet has one loop, one record and one set of checkpoints, and compiles once. `library.sweep` vmaps
whole runs instead, which suits products of matrices; a vmap over kernels is a grouped convolution,
and a convolution inside a loop leaves XLA's fast path on a CPU: each is 20 times slower than the
unrolled runs of a fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from library import report, training
from library.data import pipeline
from library.types import Array, Aux, Key, LossFn, PyTree, TrainState, at_least_float32


def train(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    init: Callable[[Key], tuple[PyTree, PyTree]],
    batch_ats: Sequence[pipeline.BatchAt],
    *,
    seeds: Sequence[int],
    num_steps: int,
    run: training.RunOptions,
    out: report.RunDir,
    **options: Any,
) -> TrainState:
    """Trains R runs side by side; each is what it would be alone but for its noise.

    Args:
        loss_fn: of one run.
        optimizer: acts on each element alone (SGD, Adam and their decays do; a clip by the global
            norm would couple the runs).
        init: key -> (params, model_state) of one run.
        batch_ats: [R] of the runs, batches of equal shapes and weights.
        seeds: [R] of the runs' parameters.
        num_steps, run, out, options: see `library.training.train`; `run.seed` is that of the noise,
            of which run r has its own by fold_in(rng, r).
    Returns:
        The state of all; parameters and model state have leaves [R, ...].
    Raises:
        ValueError: if the numbers of seeds and batches differ or are zero, and as `training.train`.
    """
    if not len(seeds) == len(batch_ats) > 0:
        raise ValueError(f"{len(seeds)} seeds, {len(batch_ats)} batch_ats: expected one each a run")
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    make = jax.vmap(init)
    return training.train(
        loss(loss_fn),
        optimizer,
        lambda _: make(keys)[0],
        batches(batch_ats),
        num_steps=num_steps,
        run=run,
        out=out,
        model_state=jax.jit(lambda: make(keys)[1])(),
        **options,
    )


def loss(loss_fn: LossFn) -> LossFn:
    """The sum of the losses of a fleet: each run has the gradient that it would have alone.

    Args:
        loss_fn: of one run.
    Returns:
        The loss of parameters and model states [R, ...] and batches [B, R, ...]. Its metrics are
        means over the runs in float32 at least, with `loss_per_run`; its weight is that of the
        first run.
    """
    one = jax.jit(loss_fn)  # traced once for all runs

    def of_fleet(params: PyTree, model_state: PyTree, rng: Key, batch: Any) -> tuple[Array, Aux]:
        num_runs = jax.tree.leaves(batch)[0].shape[1]
        losses, auxes = zip(
            *(
                one(*pick((params, model_state), run), _fold(rng, run), pick(batch, run, axis=1))
                for run in range(num_runs)
            )
        )
        total, metrics = _sum(losses), {}
        for name in auxes[0].metrics:
            metrics[name] = _sum(aux.metrics[name] for aux in auxes) / num_runs
        states = [aux.model_state for aux in auxes]
        return total, Aux(
            auxes[0].weight,
            metrics | {"loss_per_run": total / num_runs},
            None if states[0] is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *states),
        )

    return of_fleet


def _sum(values: Iterable[Array]) -> Array:
    """In float32 at least."""
    return sum(jnp.asarray(value, at_least_float32(value)) for value in values)


def batches(batch_ats: Sequence[pipeline.BatchAt]) -> pipeline.BatchAt:
    """The batches of R runs as one, leaves [B, R, ...]."""

    def at(step: int) -> PyTree:
        return pipeline.stack_batches([batch_at(step) for batch_at in batch_ats], axis=1)

    return at


def pick(fleet: PyTree, run: int, axis: int = 0) -> PyTree:
    """One run of a fleet, leaves [R, ...] -> [...]; of its batches at axis=1."""
    return jax.tree.map(lambda leaf: leaf[(slice(None),) * axis + (run,)], fleet)


def size(state: TrainState) -> int:
    """How many runs a fleet has."""
    return len(jax.tree.leaves(state.params)[0])


def _fold(rng: Key, run: int) -> Key:
    """The run's own key, or [B] keys of its examples."""
    if not rng.ndim:
        return jax.random.fold_in(rng, run)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(rng, run)
