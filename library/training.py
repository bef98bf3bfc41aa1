"""From a loss to a finished run: what every training question shares, assembled from the library.

A question holds a `RunOptions` in its config as the field `run`, which gives it `--run.seed`,
`--run.mesh data=4,model=2`, `--run.parallel pmap` and the periods below, and calls `train` once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import optax

from library import checkpoint, fit, metrics, per_device, progress, report, sharding
from library.data import pipeline
from library.train_step import Schedule, TrainStep, init_state, make_train_step
from library.types import Batch, Key, LossFn, Params, PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it changes what is asked."""

    seed: int = 0  # root of all randomness of the run
    mesh: str = ""  # devices by axis, e.g. data=4,model=2; empty: all devices on "data"
    parallel: Literal["jit", "pmap"] = "jit"  # how the step is placed on the devices
    fsdp: bool = False  # split parameters and optimizer state over the axis "data" too
    accumulate: int = 1  # microbatches per update
    steps_per_call: int = 1  # updates per compiled call
    log_every: int = 50  # steps between two lines of metrics.jsonl
    checkpoint_every: int = 500  # steps between two checkpoints
    keep_checkpoints: int = 3  # newest checkpoints that stay on disk


def batches(
    arrays: pipeline.Arrays | pipeline.Takeable, batch_size: int, seed: int
) -> pipeline.BatchAt:
    """Shuffled batches of arrays in memory; where there are several processes, this one's rows.

    Args:
        arrays: leaves [N, ...], or a source with `take(indices)` such as `text.Windows`.
        batch_size: of all processes together.
        seed: of the order.
    """
    shard = (jax.process_index(), jax.process_count())
    return pipeline.array_batch_at(arrays, batch_size, seed=seed, shard=shard)


def train(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    init_params: Callable[[Key], Params],
    batch_at: Callable[[int], Batch],
    *,
    num_steps: int,
    run: RunOptions,
    out: report.RunDir,
    model_state: PyTree = None,
    ema_decay: float | Schedule | None = None,
    compute_dtype: Any = None,
    rng_per_example: bool = False,
    rules: sharding.Rules = (),
    hooks: Sequence[fit.Hook] = (),
) -> TrainState:
    """Trains to `num_steps`, with metrics and checkpoints in `out`; resumes what is there.

    Args:
        loss_fn, optimizer, ema_decay, compute_dtype, rng_per_example: see
            `library.train_step.make_train_step`.
        init_params: key -> parameters; traced, so that they are made in place on the mesh.
        batch_at: t -> batch of update t, host arrays [B, ...]; with several processes this
            process's rows.
        num_steps: total number of updates.
        run: the shared options.
        out: the run's folder.
        model_state: carried beside the parameters.
        rules: placement of parameters by path, before `run.fsdp` splits what they leave whole.
        hooks: further `fit.OnMetrics` and `fit.OnState`.
    Returns:
        The final state, on its mesh.
    Raises:
        ValueError: for options that contradict each other or the machine, before compilation.
    """
    make_step = functools.partial(
        make_train_step,
        loss_fn,
        optimizer,
        accumulate=run.accumulate,
        compute_dtype=compute_dtype,
        ema_decay=ema_decay,
        rng_per_example=rng_per_example,
    )

    def make_state() -> TrainState:
        init_rng, train_rng = jax.random.split(jax.random.key(run.seed))
        params = init_params(init_rng)
        return init_state(params, optimizer, train_rng, model_state, ema_decay is not None)

    step, state = _placed(make_step, make_state, rules, run)
    # What is wrong with shapes or options shows now, before a file is made or anything compiled.
    jax.eval_shape(step.one, state, step.place_batch(batch_at(0), False))
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.Checkpoints(
                out.checkpoints, every=run.checkpoint_every, keep=run.keep_checkpoints
            )
        )
        start = checkpoints.latest() or 0
        recording = stack.enter_context(recorders(out.path, num_steps, start, run.log_every))
        return fit.fit(
            step,
            state,
            batch_at,
            num_steps=num_steps,
            hooks=[*recording, *hooks],
            checkpoints=checkpoints,
            steps_per_call=run.steps_per_call,
        )


def _placed(
    make_step: Callable[..., TrainStep],
    make_state: Callable[[], TrainState],
    rules: sharding.Rules,
    run: RunOptions,
) -> tuple[Any, TrainState]:
    """The compiled step and the first state, under `jax.pmap` or on the run's mesh."""
    rules = (*rules, (".*", sharding.fsdp())) if run.fsdp else rules
    mesh = sharding.make_mesh(sharding.parse_mesh(run.mesh))
    if run.parallel == "pmap":
        if rules or run.mesh:
            raise ValueError("--run.parallel pmap replicates the state: drop --run.mesh and rules")
        return per_device.pmap_step(lambda axis: make_step(axis_name=axis)), jax.jit(make_state)()
    step = sharding.compile_step(make_step(), jax.eval_shape(make_state), mesh, rules)
    return step, sharding.init_on_mesh(make_state, mesh, rules)


@contextlib.contextmanager
def recorders(
    directory: pathlib.Path, num_steps: int, start: int, log_every: int
) -> Iterator[list[fit.Hook]]:
    """The hooks of every training run: metrics to disk, durable before a checkpoint, and a bar."""
    with (
        metrics.MetricsWriter(directory, resume_step=start) as writer,
        progress.Progress(num_steps, "training", start=start) as bar,
    ):

        def record(step: int, values: dict[str, float]) -> None:
            writer.write(step, values)
            bar.update(step, values)

        yield [fit.OnMetrics(log_every, record), fit.BeforeSave(lambda step: writer.flush())]
