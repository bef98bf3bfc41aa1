"""The pure update: gradients of a weighted loss, one optimizer step, a moving average.

`make_train_step` compiles and places nothing. `library.sharding.compile_step` puts it on a mesh,
`library.per_device.pmap_step` under `jax.pmap`, `library.fit.fit` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from library import checks, loops, types
from library.types import Array, Aux, Batch, Key, LossFn, Metrics, Params, PyTree, TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Schedule = Callable[[Array], Array]

_COUNTS = re.compile(
    r"(^|[^a-z])(mask|weight)s?($|[^a-z])", re.IGNORECASE
)  # in a path of the batch


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    rng: Key,
    model_state: PyTree = None,
    ema: bool = False,
) -> TrainState:
    """The state before the first update.

    Args:
        params: pytree of float arrays.
        optimizer: any Optax transformation.
        rng: [] key, root of the run's randomness.
        model_state: pytree carried beside the parameters; an empty dict when None.
        ema: whether to keep a moving average; it starts as a copy of `params` in float32 at
            least, never the same buffers, so that the whole state can be donated.
    Returns:
        `TrainState` at step 0.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state={} if model_state is None else model_state,
        rng=rng,
        ema=types.copy_at_least_float32(params) if ema else None,
    )


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    compute_dtype: Any = None,
    ema_decay: float | Schedule | None = None,
    rng_per_example: bool = False,
    axis_name: str | None = None,
) -> TrainStep:
    """A pure function (state, batch) -> (state, metrics) that does one update.

    The gradient is that of the mean over *all units of the whole batch*: microbatches and devices
    contribute sums of weight * gradient, divided once by the sum of weights, so the result does
    not depend on how unequal masks fall into microbatches. The sums, and all metrics, are in
    float32 at least, whatever the dtype of the parameters, the batch and the loss.

    Args:
        loss_fn: see `library.types.LossFn`; a `library.types.BatchLoss` where it is over the batch.
        optimizer: any Optax transformation; its update receives `value=loss` as an extra argument.
        accumulate: number of microbatches the batch is split into; must divide the batch size, and
            be 1 for a `BatchLoss`, whose microbatches are not the whole.
        compute_dtype: dtype of the forward and backward pass, e.g. jnp.bfloat16. Float leaves of
            params and batch are cast on the way in, but for masks and weights, which are counted
            with: leaves of the batch with the word mask or weight in their path, such as
            `source_mask`. Gradients, parameters and the optimizer stay in the parameters' dtype.
            None computes in the dtypes given.
        ema_decay: decay of the moving average in [0, 1], or a function of the step; needs a state
            made with `ema=True`. None leaves the average alone.
        rng_per_example: give the loss one key per example, [B], rather than one key, so that its
            noise depends on neither `accumulate` nor the number of devices.
        axis_name: mapped axis to sum over (jax.pmap, jax.shard_map); None under jit.
    Returns:
        The step. Its metrics are the loss's own and `loss`, `grad_norm`, `weight`; means are
        over all units.
    Raises:
        ValueError: if `accumulate` is no positive whole number, or above 1 for a loss over the
            batch, or `ema_decay` not in [0, 1]; at trace time if `accumulate` does not divide the
            batch, `ema_decay` meets a state without an average, or the loss counts its units in
            half precision.
    """
    checks.count("accumulate", accumulate, of="microbatches")
    if not (ema_decay is None or callable(ema_decay) or isinstance(ema_decay, jax.Array)):
        checks.share("ema_decay", ema_decay)
    if isinstance(loss_fn, types.BatchLoss):
        if accumulate > 1:
            raise ValueError(
                f"accumulate={accumulate} for a loss over the batch, of which a microbatch sees a "
                "part: expected 1, and an encoder that works in chunks where memory is short"
            )
        loss_fn = loss_fn.over_axis(axis_name)
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rngs = _microbatch_rngs(state, batch, accumulate, rng_per_example, axis_name)
        batches = _microbatches(batch, accumulate)
        sums = weighted_sums(loss_fn, state.params, compute_dtype)
        grads, metrics, model_state = _accumulate(sums, state.model_state, rngs, batches, axis_name)
        grad_norm = optax.tree.norm(grads)
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, state.params)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, value=metrics["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        new_state = state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            model_state=model_state,
            ema=_average(state, params, ema_decay),
        )
        return new_state, {**metrics, "grad_norm": grad_norm}

    return step


def scan_steps(step: TrainStep) -> TrainStep:
    """The same update many times in one call: batch leaves [K, B, ...], metrics [K]."""
    return lambda state, batches: jax.lax.scan(step, state, batches)


def weighted_sums(loss_fn: LossFn, params: Params, compute_dtype: Any = None) -> Callable:
    """(model_state, rng, batch) -> weight * gradient, weight * metrics, weight, model state.

    Summing the first three, which are float32 at least, over microbatches or devices and dividing
    once by the summed weight gives the mean over all units.
    """

    def loss_of(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        loss, aux = loss_fn(
            _cast(params, compute_dtype), model_state, rng, _cast(batch, compute_dtype, _COUNTS)
        )
        check_loss(loss, aux)
        return loss, aux

    def sums(model_state: PyTree, rng: Key, batch: Batch) -> tuple[PyTree, Metrics, Array, PyTree]:
        (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, model_state, rng, batch
        )
        weight = jnp.asarray(aux.weight, types.at_least_float32(loss))
        new_model_state = model_state if aux.model_state is None else aux.model_state
        grads, metrics = jax.tree.map(
            lambda mean: _weigh(mean, weight), (grads, {**aux.metrics, "loss": loss})
        )
        return grads, metrics, weight, new_model_state

    return sums


def _accumulate(
    sums: Callable, model_state: PyTree, rngs: Key, batches: Batch, axis_name: str | None
) -> tuple[PyTree, Metrics, PyTree]:
    """Weighted means of gradients and metrics over microbatches [A, B/A, ...] and devices."""
    num_microbatches = rngs.shape[0]
    if num_microbatches == 1:
        rng, batch = jax.tree.map(lambda leaf: leaf[0], (rngs, batches))
        grads, metrics, weight, model_state = sums(model_state, rng, batch)
    else:

        def body(carry: tuple[PyTree, PyTree], xs: tuple[Key, Batch]) -> tuple[tuple, tuple]:
            total, model_state = carry
            grads, metrics, weight, model_state = sums(model_state, *xs)
            return (jax.tree.map(jnp.add, total, grads), model_state), (metrics, weight)

        first = jax.tree.map(lambda leaf: leaf[0], (rngs, batches))
        traced, (grads, *_) = jax.make_jaxpr(sums, return_shape=True)(model_state, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), grads)
        unroll = num_microbatches if loops.slowed(traced) else 1
        (grads, model_state), ys = jax.lax.scan(
            body, (zeros, model_state), (rngs, batches), unroll=unroll
        )
        metrics, weight = jax.tree.map(lambda leaf: leaf.sum(0), ys)
    if axis_name is not None:
        local = weight
        grads, metrics, weight = jax.lax.psum((grads, metrics, weight), axis_name)
        model_state = _mean_over_devices(model_state, local, weight, axis_name)
    safe_weight = jnp.where(weight == 0, 1, weight)  # all units masked: zero gradient, not nan
    grads, metrics = jax.tree.map(
        lambda total: total / safe_weight.astype(total.dtype), (grads, metrics)
    )
    return grads, {**metrics, "weight": weight}, model_state


def _microbatch_rngs(
    state: TrainState, batch: Batch, accumulate: int, per_example: bool, axis_name: str | None
) -> Key:
    """Keys [A] of the microbatches, or [A, B/A] of their examples."""
    rng = jax.random.fold_in(state.rng, state.step)
    num_slots = _batch_size(batch) if per_example else accumulate
    slots = jnp.arange(num_slots)
    if axis_name is not None:
        slots = slots + jax.lax.axis_index(axis_name) * num_slots
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, slots)
    return _microbatches(keys, accumulate) if per_example else keys


def _microbatches(batch: Batch, accumulate: int) -> Batch:
    """Leaves [B, ...] as [A, B/A, ...]; microbatch j takes the examples j, j + A, j + 2A, ...

    The stride keeps every microbatch spread evenly over a batch axis that is sharded in blocks.
    """
    batch_size = _batch_size(batch)
    if batch_size % accumulate:
        raise ValueError(f"batch size {batch_size} is not a multiple of accumulate={accumulate}")
    if accumulate == 1:
        return jax.tree.map(lambda leaf: leaf[None], batch)
    shape = (batch_size // accumulate, accumulate)
    return jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(shape + leaf.shape[1:]), 0, 1), batch
    )


def _batch_size(batch: Batch) -> int:
    """The first axis that all leaves share."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
        raise ValueError(f"batch leaves have shapes {shapes}: expected one common first axis")
    return sizes.pop()[0]


def _weigh(mean: Array, weight: Array) -> Array:
    """weight * mean, and 0 where the weight is 0 even if the mean over no units is nan.

    A weight of nan stays nan: what it counted cannot be left out of a mean.
    """
    dtype = types.at_least_float32(mean)
    total = jnp.asarray(mean, dtype) * weight.astype(dtype)
    return jnp.where(weight == 0, jnp.zeros((), dtype), total)


def _average(state: TrainState, params: Params, decay: float | Schedule | None) -> Params | None:
    """ema <- decay * ema + (1 - decay) * params, in the average's own dtype, float32 at least."""
    if decay is None:
        return state.ema
    if state.ema is None:
        raise ValueError("ema_decay is set but the state has no average: use init_state(ema=True)")
    for leaf in jax.tree.leaves(state.ema):
        if _is_half(leaf):
            raise ValueError(
                f"the moving average is kept in {leaf.dtype}, in which it stands still: expected "
                "float32 at least, as init_state(ema=True) makes it"
            )
    decay = decay(state.step) if callable(decay) else decay

    def mix(old: Array, new: Array) -> Array:
        keep = jnp.asarray(decay, old.dtype)
        return keep * old + (1 - keep) * new.astype(old.dtype)

    return jax.tree.map(mix, state.ema, params)


def _mean_over_devices(model_state: PyTree, local: Array, total: Array, axis_name: str) -> PyTree:
    """Float leaves averaged by weight over devices, so that all devices go on with the same."""
    share = jnp.where(total == 0, 0, local / jnp.where(total == 0, 1, total))

    def mean(leaf: Array) -> Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        dtype = types.at_least_float32(leaf)
        return jax.lax.psum(leaf.astype(dtype) * share.astype(dtype), axis_name).astype(leaf.dtype)

    return jax.tree.map(mean, model_state)


def _cast(tree: PyTree, dtype: Any, but: re.Pattern | None = None) -> PyTree:
    """Float leaves in a dtype, but for those whose path matches."""
    if dtype is None:
        return tree

    def cast(path: tuple, leaf: Array) -> Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf if but is not None and but.search(name) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, tree)


def _is_half(value: Any) -> bool:
    """Whether a number is floating and shorter than float32."""
    dtype = jnp.result_type(value)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def check_loss(loss: Array, aux: Aux) -> None:
    """At trace time: a scalar loss, scalar metrics under free names, a weight that can count.

    Raises:
        ValueError: naming what is otherwise.
    """
    if jnp.shape(loss) != ():
        raise ValueError(f"the loss has shape {jnp.shape(loss)}: expected a scalar")
    for name, value in aux.metrics.items():
        if jnp.shape(value) != ():
            raise ValueError(f"metric {name!r} has shape {jnp.shape(value)}: expected a scalar")
    taken = {"loss", "grad_norm", "weight"} & set(aux.metrics)
    if taken:
        raise ValueError(f"metric names {sorted(taken)} are the training step's own")
    if jnp.shape(aux.weight) != () or _is_half(aux.weight):
        raise ValueError(
            f"the loss's weight is {jnp.result_type(aux.weight)} of shape {jnp.shape(aux.weight)}: "
            "expected a scalar, float32 at least (a mask of half precision counts to 256 or 2048; "
            'compute_dtype leaves leaves of the batch alone that are named "mask" or "weight")'
        )
