"""The loop: what hooks see, what is saved, how it stops and how it goes on."""

import os
import signal

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from library import fit, per_device, sharding, testing
from library.train_step import init_state, make_train_step
from library.types import Aux
from tests.library import updates


class MemoryCheckpoints:
    """Keeps host copies of the saved states, as the loop's protocol asks."""

    def __init__(self, every):
        self.every, self.saved = every, {}

    def save(self, step, state):
        self.saved[step] = jax.tree.map(jnp.copy, state)

    def restore(self, state_like):
        return jax.tree.map(jnp.copy, self.saved[self.latest()]) if self.saved else None

    def latest(self):
        return max(self.saved, default=None)

    def wait(self):
        pass


@pytest.fixture(scope="module")
def step():
    state = jax.eval_shape(updates.make_state)
    return sharding.compile_step(updates.make_step(), state, sharding.make_mesh())


def bare_loop(step, num_steps):
    state, losses = step.place_state(updates.make_state()), []
    for index in range(num_steps):
        state, metrics = step(state, updates.batch_at(index))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_the_loop_is_the_bare_loop_to_the_bit(step):
    expected, losses = bare_loop(step, 7)
    seen = []
    state = fit.fit(
        step,
        updates.make_state(),
        updates.batch_at,
        num_steps=7,
        hooks=[fit.OnMetrics(1, lambda index, metrics: seen.append((index, metrics["loss"])))],
    )
    testing.assert_trees_equal(state, expected)
    assert seen == list(enumerate(losses, start=1))


def test_a_plain_step_is_traced_once_alone_and_once_in_the_scan():
    """Calls of three with single steps between: of the loss, two traces however many updates."""
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(updates.loss_fn, n=2)
    step = make_train_step(traced, updates.optimizer(), ema_decay=0.9, rng_per_example=True)
    hooks = [fit.OnState(4, lambda index, state: None)]
    state = fit.fit(
        step, updates.make_state(), updates.batch_at, num_steps=11, steps_per_call=3, hooks=hooks
    )
    assert state.step == 11


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_hooks_come_at_their_periods_and_at_the_end(step, steps_per_call):
    metrics_steps, states = [], []
    fit.fit(
        step,
        updates.make_state(),
        updates.batch_at,
        num_steps=11,
        steps_per_call=steps_per_call,
        hooks=[
            fit.OnMetrics(3, lambda index, metrics: metrics_steps.append(index)),
            fit.OnState(4, lambda index, state: states.append((index, int(state.step)))),
        ],
    )
    assert metrics_steps == [3, 6, 9, 11]
    assert states == [(4, 4), (8, 8), (11, 11)]


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_hooks_may_name_their_steps(step, steps_per_call):
    """Named steps cut calls of several; the last step is always due."""
    states, metrics_steps = [], []
    final = fit.fit(
        step,
        updates.make_state(),
        updates.batch_at,
        num_steps=9,
        steps_per_call=steps_per_call,
        hooks=[
            fit.OnState((1, 4, 6), lambda index, state: states.append((index, int(state.step)))),
            fit.OnMetrics({2, 5}, lambda index, metrics: metrics_steps.append(index)),
        ],
    )
    assert states == [(1, 1), (4, 4), (6, 6), (9, 9)]
    assert metrics_steps == [2, 5, 9]
    testing.assert_trees_close(final.params, bare_loop(step, 9)[0].params, rtol=1e-5)


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_resumed_equals_uninterrupted_to_the_bit(step, steps_per_call):
    def run(num_steps, checkpoints, hooks=()):
        return fit.fit(
            step,
            updates.make_state(),
            updates.batch_at,
            num_steps=num_steps,
            hooks=hooks,
            checkpoints=checkpoints,
            steps_per_call=steps_per_call,
        )

    whole = run(10, MemoryCheckpoints(every=5))
    checkpoints, seen = MemoryCheckpoints(every=5), []

    def stop(index, metrics):
        seen.append(index)
        if index == 6:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(10, checkpoints, [fit.OnMetrics(1, stop)])
    assert checkpoints.latest() == 5
    resumed = run(10, checkpoints, [fit.OnMetrics(1, lambda index, metrics: seen.append(index))])
    testing.assert_trees_equal(resumed, whole)
    assert seen == [1, 2, 3, 4, 5, 6] + [6, 7, 8, 9, 10]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at, saved", [(2, 3), (6, 6)])
def test_a_signal_saves_within_one_step_and_resumes_exactly(step, number, at, saved):
    checkpoints = MemoryCheckpoints(every=100)
    whole, _ = bare_loop(step, 6)

    def batch_at(index):
        if index + 1 == at and not checkpoints.saved:
            os.kill(os.getpid(), number)
        return updates.batch_at(index)

    def run():
        return fit.fit(step, updates.make_state(), batch_at, num_steps=6, checkpoints=checkpoints)

    handler = signal.getsignal(number)
    with pytest.raises(fit.Interrupted) as stopped:
        run()
    assert stopped.value.signal_number == number and stopped.value.saved
    assert at <= checkpoints.latest() <= saved
    assert signal.getsignal(number) is handler
    testing.assert_trees_equal(run(), whole)


def test_a_signal_without_checkpoints_says_that_nothing_was_saved(step):
    def batch_at(index):
        os.kill(os.getpid(), signal.SIGTERM)
        return updates.batch_at(index)

    with pytest.raises(fit.Interrupted, match="SIGTERM after step 1, not saved"):
        fit.fit(step, updates.make_state(), batch_at, num_steps=3)


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(steps_per_call):
    def loss(params, model_state, rng, batch):
        error = params["w"] - batch["x"].mean()
        return error**2, Aux(1.0, {"error": error})

    def batch_at(index):
        return {"x": jnp.full(2, jnp.nan if index == 6 else 1.0)}

    checkpoints = MemoryCheckpoints(every=5)
    state = init_state({"w": jnp.zeros(())}, optax.sgd(0.1), jax.random.key(0))
    message = "training stopped at step 7: loss=nan, .*error=nan.*; last good checkpoint: step 5"
    with pytest.raises(fit.NonFiniteLoss, match=message):
        fit.fit(
            make_train_step(loss, optax.sgd(0.1)),
            state,
            batch_at,
            num_steps=20,
            checkpoints=checkpoints,
            hooks=[fit.OnMetrics(10, lambda index, metrics: None)],
            steps_per_call=steps_per_call,
        )
    assert list(checkpoints.saved) == [5]
    assert jnp.isfinite(checkpoints.saved[5].params["w"])


def test_before_save_comes_before_every_save(step):
    events = []

    class Recording(MemoryCheckpoints):
        def save(self, index, state):
            events.append(("save", index))
            super().save(index, state)

    fit.fit(
        step,
        updates.make_state(),
        updates.batch_at,
        num_steps=5,
        hooks=[fit.BeforeSave(lambda index: events.append(("before", index)))],
        checkpoints=Recording(every=2),
    )
    assert events == [(what, index) for index in (2, 4, 5) for what in ("before", "save")]


def test_jit_and_pmap_runs_can_take_over_from_each_other(x64):
    state = jax.eval_shape(updates.make_state)
    on_mesh = sharding.compile_step(updates.make_step(), state, sharding.make_mesh())
    mapped = per_device.pmap_step(updates.make_step)
    checkpoints = MemoryCheckpoints(every=3)
    fit.fit(mapped, updates.make_state(), updates.batch_at, num_steps=3, checkpoints=checkpoints)
    state = fit.fit(
        on_mesh, updates.make_state(), updates.batch_at, num_steps=6, checkpoints=checkpoints
    )
    expected, _ = bare_loop(on_mesh, 6)
    testing.assert_trees_close(state.params, expected.params, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps_per_call", [1, 2])
@pytest.mark.parametrize("place", [None, "mesh", "pmap"])
def test_batches_of_typed_keys_train_in_calls_of_several_too(steps_per_call, place):
    def loss(params, model_state, rng, batch):
        noise = jax.vmap(jax.random.normal)(batch["key"])
        return (params["w"] * noise).mean(), Aux(len(noise))

    def batch_at(index):
        return {"key": jax.random.split(jax.random.key(index), 2)}

    state = init_state({"w": jnp.zeros(())}, optax.sgd(1.0), jax.random.key(0))
    step = make_train_step(loss, optax.sgd(1.0))
    if place == "mesh":
        step = sharding.compile_step(step, state, sharding.make_mesh())
    if place == "pmap":
        step = per_device.pmap_step(
            lambda axis: make_train_step(loss, optax.sgd(1.0), axis_name=axis)
        )
    final = fit.fit(step, state, batch_at, num_steps=4, steps_per_call=steps_per_call)
    noise = [jax.vmap(jax.random.normal)(batch_at(index)["key"]).mean() for index in range(4)]
    assert abs(final.params["w"] + sum(noise)) < 1e-6


def test_fewer_steps_than_are_done_is_said(step):
    checkpoints = MemoryCheckpoints(every=2)
    saved = step.place_state(updates.make_state())
    checkpoints.save(10, saved.replace(step=saved.step + 10))
    with pytest.raises(ValueError, match="num_steps=4: the newest checkpoint is of step 10"):
        fit.fit(step, updates.make_state(), updates.batch_at, num_steps=4, checkpoints=checkpoints)
    state = updates.make_state()
    state = state.replace(step=state.step + 3)
    with pytest.raises(ValueError, match="num_steps=2: the state is of step 3 already"):
        fit.fit(step, state, updates.batch_at, num_steps=2)
    assert fit.fit(step, state, updates.batch_at, num_steps=3).step == 3


@pytest.mark.parametrize(
    "message, options",
    [
        ("num_steps=0", {"num_steps": 0}),
        ("num_steps=1.5", {"num_steps": 1.5}),
        ("hook <built-in function print>", {"num_steps": 1, "hooks": [print]}),
        ("steps_per_call=0", {"num_steps": 1, "steps_per_call": 0}),
        ("every of OnMetrics", {"num_steps": 1, "hooks": [fit.OnMetrics(0, print)]}),
        ("every of OnState.*=0", {"num_steps": 1, "hooks": [fit.OnState((0, 2), print)]}),
        ("checkpoints.every=0", {"num_steps": 1, "checkpoints": MemoryCheckpoints(0)}),
    ],
)
def test_counts_must_be_positive(step, message, options):
    with pytest.raises(ValueError, match=message):
        fit.fit(step, updates.make_state(), updates.batch_at, **options)
