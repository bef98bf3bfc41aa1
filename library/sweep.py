"""Sweeps: a whole training run vmapped over seeds and array hyper-parameters.

Runs of one shape differ only in numbers: `train_many` compiles one program for all of them, and
`compile_stages` one for runs of any length. On an accelerator all runs are one batch. On a CPU they
are not: products with weights of their own for every run are no larger for being batched, and the
states of 32 runs fit no cache. There runs go in groups whose state fits one core's, each group on a
thread of its own. Runs of different shapes are different programs: `library.job_queue` does them
one after the other. Convolutions do not like a vmap over kernels: `library.fleet` unrolls the runs.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import checks
from library.environment import num_cores
from library.train_step import init_state, make_train_step
from library.types import Array, Batch, Key, LossFn, ModelState, Params, TrainState

CACHE_BYTES = 1 << 18  # states of a group on a CPU: half of a small second-level cache


def train_many(
    init: Callable[[Key], Params],
    loss_fn: LossFn,
    make_optimizer: Callable[..., optax.GradientTransformation],
    batches: Batch,
    rngs: Key,
    hyper: Mapping[str, Array],
    *,
    at_once: int | None = None,
) -> tuple[Params, Array]:
    """Trains R runs of one shape by one compiled program, on the same batches.

    Args:
        init: key -> parameters.
        loss_fn: see `library.types.LossFn`.
        make_optimizer: hyper-parameters by name, each a scalar array -> an Optax transformation,
            e.g. `lambda learning_rate: optax.adam(learning_rate)`.
        batches: leaves [T, B, ...], the batch of every step.
        rngs: [R] keys; run r's parameters come from fold_in(rngs[r], 0), its noise from
            fold_in(rngs[r], 1).
        hyper: {name: [R]} values of each run.
        at_once: runs of one vmapped group. None is all on an accelerator; on a CPU as many as fit
            CACHE_BYTES with their state, but no more than leave every core a group.
    Returns:
        Parameters with leaves [R, ...] and losses [R, T].
    Raises:
        ValueError: if lengths differ, a hyper-parameter is not [R] or `at_once` is below 1.
    """
    program = compile_many(init, loss_fn, make_optimizer, batches, rngs, hyper, at_once=at_once)
    return program(batches, rngs, hyper)


def compile_many(
    init: Callable[[Key], Params],
    loss_fn: LossFn,
    make_optimizer: Callable[..., optax.GradientTransformation],
    batches: Batch,
    rngs: Key,
    hyper: Mapping[str, Array],
    *,
    at_once: int | None = None,
) -> Callable[[Batch, Key, Mapping[str, Array]], tuple[Params, Array]]:
    """`train_many` compiled, for any arrays of the same shapes: (batches, rngs, hyper) -> the same.

    Args, Raises: as for `train_many`.
    """
    _check_runs(rngs, hyper)
    values = {name: jnp.asarray(value) for name, value in hyper.items()}
    start, _ = _stages(init, loss_fn, make_optimizer)
    state = jax.eval_shape(start, None, *_run(rngs, values, 0))
    size = group_size(len(rngs), state, at_once)
    run = train_one(init, loss_fn, make_optimizer)
    if size == 1:  # without a batch axis, for which the CPU's products are slower
        first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
        body = lambda data, rngs, values: jax.tree.map(  # noqa: E731
            lambda leaf: leaf[jnp.newaxis], run(data, first(rngs), first(values))
        )
    else:
        body = jax.vmap(run, in_axes=(None, 0, 0))
    groups = [np.arange(i, i + size) % len(rngs) for i in range(0, len(rngs), size)]
    program = jax.jit(body).lower(batches, *_run(rngs, values, groups[0])).compile()

    def call(batches: Batch, rngs: Key, hyper: Mapping[str, Array]) -> tuple[Params, Array]:
        values = {name: jnp.asarray(value) for name, value in hyper.items()}
        parts = [_run(rngs, values, group) for group in groups]
        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            done = list(
                pool.map(lambda part: jax.block_until_ready(program(batches, *part)), parts)
            )
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(rngs)], *done)

    return call


def group_size(num_runs: int, state: TrainState, at_once: int | None) -> int:
    """How many of the runs with such a state make a group of `train_many`."""
    if at_once is not None:
        return min(checks.count("at_once", at_once, of="runs"), num_runs)
    if jax.default_backend() != "cpu":
        return num_runs
    leaves = jax.tree.leaves((state.params, state.opt_state))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return max(1, min(CACHE_BYTES // max(size, 1), -(-num_runs // num_cores())))


def _run(rngs: Key, values: Mapping[str, Array], index: Any) -> tuple:
    """The keys and values of some runs, or of one."""
    return rngs[index], {name: value[index] for name, value in values.items()}


def train_one(
    init: Callable[[Key], Params],
    loss_fn: LossFn,
    make_optimizer: Callable[..., optax.GradientTransformation],
) -> Callable[[Batch, Key, Mapping[str, Array]], tuple[Params, Array]]:
    """A pure (batches, rng, hyper) -> (params, losses [T]): one run, the body of `train_many`."""
    start, advance = _stages(init, loss_fn, make_optimizer)

    def run(batches: Batch, rng: Key, hyper: Mapping[str, Array]) -> tuple[Params, Array]:
        state, losses = advance(batches, start(None, rng, hyper), hyper)
        return state.params, losses

    return run


def compile_stages(
    init: Callable[[Key], Params],
    loss_fn: LossFn,
    make_optimizer: Callable[..., optax.GradientTransformation],
    *,
    model_state: Callable[[Key], ModelState] | None = None,
    at_once: int | None = None,
) -> tuple[Callable, Callable]:
    """`train_many` in pieces, so that runs of any length share one compiled program.

    Args:
        init, loss_fn, make_optimizer: as for `train_many`; a schedule may depend on a
            hyper-parameter such as the number of steps.
        model_state: key -> what a run carries beside its parameters, such as batch statistics or a
            teacher; run r's comes from fold_in(rngs[r], 2). None is nothing.
        at_once: runs of one batch; a divisor of R keeps all equal. None is all.
    Returns:
        start(rngs [R], hyper) -> states, leaves [R, ...], and advance(states, batches, hyper) ->
        (states, losses [R, K]) over batches with leaves [K, B, ...]; `advance` compiles once for
        each K and R and takes over the buffers of `states`.
    """
    if at_once is not None:
        checks.count("at_once", at_once, of="runs")
    start, advance = _stages(init, loss_fn, make_optimizer, model_state)
    started = jax.jit(_over_runs(start, at_once))
    advanced = jax.jit(_over_runs(advance, at_once), donate_argnums=1)

    def begin(rngs: Key, hyper: Mapping[str, Array]) -> TrainState:
        _check_runs(rngs, hyper)
        return started(None, rngs, {name: jnp.asarray(value) for name, value in hyper.items()})

    def go_on(states: TrainState, batches: Batch, hyper: Mapping[str, Array]) -> tuple:
        return advanced(batches, states, {name: jnp.asarray(v) for name, v in hyper.items()})

    return begin, go_on


def _stages(init, loss_fn, make_optimizer, model_state=None):
    """(_, rng, hyper) -> state, and (batches, state, hyper) -> (state, losses): of one run."""

    def start(_, rng, hyper):
        params, root = init(jax.random.fold_in(rng, 0)), jax.random.fold_in(rng, 1)
        carried = None if model_state is None else model_state(jax.random.fold_in(rng, 2))
        return init_state(params, make_optimizer(**hyper), root, carried)

    def advance(batches, state, hyper):
        step = make_train_step(loss_fn, make_optimizer(**hyper))

        def body(state, batch):
            state, metrics = step(state, batch)
            return state, metrics["loss"]

        return jax.lax.scan(body, state, batches)

    return start, advance


def _over_runs(function, at_once):
    """(shared, by_run, hyper) -> the function for every run, all at once or some at a time."""

    def all_runs(shared, by_run, hyper):
        if at_once is None:
            return jax.vmap(function, in_axes=(None, 0, 0))(shared, by_run, hyper)
        return jax.lax.map(
            lambda each: function(shared, *each), (by_run, dict(hyper)), batch_size=at_once
        )

    return all_runs


def _check_runs(rngs: Key, hyper: Mapping[str, Array]) -> None:
    if jnp.ndim(rngs) != 1:
        raise ValueError(f"rngs have shape {jnp.shape(rngs)}: expected one key a run, [R]")
    for name, value in hyper.items():
        if jnp.shape(value) != rngs.shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}: expected [{len(rngs)}], one value a run"
            )
