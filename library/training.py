"""From a loss to a finished run: what every training question shares, assembled from the library.

A question holds a `RunOptions` in its config as the field `run`, which gives it `--run.seed`,
`--run.mesh data=4,model=2`, `--run.parallel pmap` and the periods below, and calls `train` once.
What is trained on the way and keeps no record (a probe, a judge, a draft model) is one line:

    params = training.quick(loss_fn, optax.adam(1e-3), init, batch_at, num_steps=500, rng=rng)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from library import checkpoint, checks, fit, per_device, report, sharding
from library.data import pipeline
from library.recording import Every, evaluations, recorders
from library.train_step import Schedule, TrainStep, init_state, make_train_step
from library.types import Batch, Key, LossFn, Params, PyTree, TrainState

__all__ = [
    "Every", "RunOptions", "batches", "ema_warmup", "evaluations", "quick", "quick_state",
    "recorders", "takes_only", "train", "warmup_cosine",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it changes what is asked."""

    seed: int = 0  # root of all randomness of the run
    mesh: str = ""  # devices by axis, e.g. data=4,model=2; empty: all that divide the batch
    parallel: Literal["jit", "pmap"] = "jit"  # how the step is placed on the devices
    fsdp: bool = False  # split parameters and optimizer state over the axis "data" too
    accumulate: int = 1  # microbatches per update
    steps_per_call: int = 1  # updates per compiled call; of convolutions on a CPU one by one
    log_every: int = 50  # steps between two lines of metrics.jsonl
    checkpoint_every: int = 500  # steps between two checkpoints
    keep_checkpoints: int = 3  # newest checkpoints that stay on disk


def takes_only(run: RunOptions, *names: str) -> None:
    """Refuses the shared options that a question has no use for, which `train` would honour.

    Args:
        run: as the user set it.
        names: of the options that the question honours.
    Raises:
        ValueError: if another option isn't at its default.
    """
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if field.name not in names and value != field.default:
            flag, *takes = (f"--run.{n.replace('_', '-')}" for n in (field.name, *names))
            raise ValueError(
                f"{flag} {value}: of the shared options this question takes "
                f"{', '.join(takes) or 'none'}"
            )


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
    evaluate: Every | None = None,
    hooks: Sequence[fit.Hook] = (),
    make_step: Callable[..., TrainStep] = make_train_step,
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
        evaluate: its numbers join the step's record in `metrics.jsonl`, and the charts: `eval/loss`
            is drawn in that of `loss`. `evaluations` reads them back.
        hooks: further `fit.OnMetrics` and `fit.OnState`.
        make_step: makes the step of `loss_fn` and `optimizer`, by the keywords of
            `make_train_step`: for updates of another kind, such as a game's, whatever the first two
            are there; of the optimizer only `init` is asked here.
    Returns:
        The final state, on its mesh.
    Raises:
        ValueError: for options that contradict each other or the machine, before compilation; for
            a number of `evaluate` under the name of one of the step's own.
    """
    _check_options(num_steps, run)
    step_of = functools.partial(
        make_step,
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

    step, state = _placed(step_of, make_state, rules, run, batch_at)
    # What is wrong with shapes or options shows now, before a file is made or anything compiled.
    _, own = jax.eval_shape(step.one, state, step.place_batch(batch_at(0), False))
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.Checkpoints(
                out.checkpoints, every=run.checkpoint_every, keep=run.keep_checkpoints
            )
        )
        start = checkpoints.latest() or 0
        recording = stack.enter_context(
            recorders(out.path, num_steps, start, run.log_every, evaluate, own)
        )
        return fit.fit(
            step,
            state,
            batch_at,
            num_steps=num_steps,
            hooks=[*recording, *hooks],
            checkpoints=checkpoints,
            steps_per_call=run.steps_per_call,
        )


def quick(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    init: Callable[[Key], Params],
    batch_at: Callable[[int], Batch],
    *,
    num_steps: int,
    rng: Key,
    model_state: PyTree = None,
    rng_per_example: bool = False,
    steps_per_call: int = 1,
    hooks: Sequence[fit.Hook] = (),
) -> Params:
    """The parameters of `quick_state`: the step and the loop of `train`, without a file."""
    return quick_state(
        loss_fn,
        optimizer,
        init,
        batch_at,
        num_steps=num_steps,
        rng=rng,
        model_state=model_state,
        rng_per_example=rng_per_example,
        steps_per_call=steps_per_call,
        hooks=hooks,
    ).params


def quick_state(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    init: Callable[[Key], Params],
    batch_at: Callable[[int], Batch],
    *,
    num_steps: int,
    rng: Key,
    model_state: PyTree = None,
    rng_per_example: bool = False,
    steps_per_call: int = 1,
    hooks: Sequence[fit.Hook] = (),
) -> TrainState:
    """Trains on the default device, by the step and the loop of `train`, and leaves no file.

    From parameters that are there: `init=lambda _: params`. On the way, e.g. to keep parameters
    after 1, 10 and 100 updates: `hooks=[fit.OnState((1, 10, 100), keep)]`. Small steps are bound by
    their dispatch: `steps_per_call=100` scans over a hundred. Examples that are drawn on the device
    are drawn in the loss, from a key in the batch:

        keys = np.asarray(jax.random.key_data(jax.random.split(rng, num_steps)))
        batch_at = lambda step: keys[step : step + 1]  # wrap_key_data(batch[0]) in the loss

    Under vmap, where a loop of the host can't be, the same step is scanned:
    `scan_steps(make_train_step(loss_fn, optimizer))(init_state(...), batches)`.

    Args:
        loss_fn, optimizer, rng_per_example: see `library.train_step.make_train_step`.
        init: key -> parameters; traced.
        batch_at: t -> batch of update t, leaves [B, ...].
        num_steps: number of updates; 0 returns the start.
        rng: split as in `train`: the first key is for `init`, the second for the updates.
        model_state: carried beside the parameters.
        steps_per_call: updates per compiled call.
        hooks: `fit.OnMetrics` and `fit.OnState`.
    Returns:
        The final state.
    Raises:
        ValueError: for a count that is negative, and as `library.fit.fit`.
        library.fit.NonFiniteLoss, library.fit.Interrupted: as `library.fit.fit`.
    """

    def start(rng: Key, model_state: PyTree) -> TrainState:
        init_rng, train_rng = jax.random.split(rng)
        return init_state(init(init_rng), optimizer, train_rng, model_state)

    checks.count("num_steps", num_steps, least=0, of="updates")
    state = jax.jit(start)(rng, model_state)
    if num_steps == 0:
        return state
    return fit.fit(
        make_train_step(loss_fn, optimizer, rng_per_example=rng_per_example),
        state,
        batch_at,
        num_steps=num_steps,
        hooks=hooks,
        steps_per_call=steps_per_call,
    )


def warmup_cosine(
    peak: float,
    num_steps: int,
    warmup: int,
    *,
    end: float = 0.0,
    clip: float | None = None,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = optax.adam,
) -> optax.GradientTransformation:
    """An optimizer whose rate climbs in a line to `peak` and falls in half a cosine to `end`.

    Args:
        peak: the rate after `warmup` updates.
        num_steps: updates until the rate is `end`, the warm-up included.
        warmup: updates of the climb; 0 starts at the peak.
        end: the last rate.
        clip: largest norm of the whole gradient; None leaves it.
        optimizer: schedule -> transformation, e.g. `functools.partial(optax.adamw, b2=0.99)`.
    Raises:
        ValueError: if a number is not positive (`end`: negative), or the warm-up is negative or
            leaves no step for the fall.
    """
    checks.count("num_steps", num_steps, of="updates")
    if not 0 < peak < math.inf:
        raise ValueError(f"peak={peak}: expected a positive learning rate")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: expected a positive norm, or None")
    if not 0 <= end < math.inf:
        raise ValueError(f"end={end}: expected a learning rate >= 0")
    if not 0 <= warmup < num_steps:
        raise ValueError(f"warmup={warmup}: expected 0 to {num_steps - 1} of {num_steps} updates")
    checks.count("warmup", warmup, least=0, of="updates")
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps, end)
    if clip is None:
        return optimizer(schedule)
    return optax.chain(optax.clip_by_global_norm(clip), optimizer(schedule))


def ema_warmup(decay: float) -> Schedule:
    """A moving average's decay min(decay, (1 + t) / (10 + t)) at step t, for `ema_decay`.

    A short run averages over less, so that its first parameters don't linger.

    Raises:
        ValueError: if `decay` is not in [0, 1].
    """
    checks.share("decay", decay)
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _check_options(num_steps: int, run: RunOptions) -> None:
    """What the host can see before anything is traced, or a file is made."""
    checks.count("num_steps", num_steps, of="updates")
    names = ("accumulate", "steps_per_call", "log_every", "checkpoint_every", "keep_checkpoints")
    for name in names:
        checks.count(f"--run.{name.replace('_', '-')}", getattr(run, name))
    if checks.count("--run.seed", run.seed, least=0) >= 2**32:
        raise ValueError(f"--run.seed={run.seed}: expected a whole number below 2^32")
    if run.parallel not in ("jit", "pmap"):
        raise ValueError(f"--run.parallel {run.parallel}: expected jit or pmap")


def _default_axes(batch_at: Callable[[int], Batch]) -> dict[str, int] | None:
    """All devices, but of the cores of a CPU as many as divide the batch; None is all."""
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None  # an accelerator that lies idle is to be noticed
    size = len(jax.tree.leaves(batch_at(0))[0])
    return {"data": sharding.largest_divisor(size, jax.device_count())}


def _placed(
    make_step: Callable[..., TrainStep],
    make_state: Callable[[], TrainState],
    rules: sharding.Rules,
    run: RunOptions,
    batch_at: Callable[[int], Batch],
) -> tuple[Any, TrainState]:
    """The compiled step and the first state, under `jax.pmap` or on the run's mesh."""
    rules = (*rules, (".*", sharding.fsdp())) if run.fsdp else rules
    mesh = sharding.make_mesh(sharding.parse_mesh(run.mesh) or _default_axes(batch_at))
    if run.parallel == "pmap":
        if rules or run.mesh:
            raise ValueError("--run.parallel pmap replicates the state: drop --run.mesh and rules")
        return per_device.pmap_step(lambda axis: make_step(axis_name=axis)), jax.jit(make_state)()
    step = sharding.compile_step(make_step(), jax.eval_shape(make_state), mesh, rules)
    return step, sharding.init_on_mesh(make_state, mesh, rules)
