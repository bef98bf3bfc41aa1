"""Whole runs: with a folder and without, however they are carried out; the common schedule."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import fit, report, testing, training
from library.train_step import init_state, make_train_step, scan_steps
from tests.library import updates
from tests.library.runs import batch_at, init, loss_fn, train


def by_hand(num_steps, rng, model_state=None, rng_per_example=False, params=None):
    """States after 0 ... num_steps updates, by the bare step."""
    init_rng, train_rng = jax.random.split(rng)
    optimizer = optax.adam(1e-2)
    params = params or jax.jit(init)(init_rng)  # unjitted, products round otherwise
    state = init_state(params, optimizer, train_rng, model_state)
    step = jax.jit(make_train_step(loss_fn, optimizer, rng_per_example=rng_per_example))
    states = [state]
    for index in range(num_steps):
        states.append(step(states[-1], batch_at(index))[0])
    return states


def quick_state(**options):
    options = {"num_steps": 5, "rng": jax.random.key(3)} | options
    return training.quick_state(loss_fn, optax.adam(1e-2), init, batch_at, **options)


@pytest.mark.parametrize(
    "options", [{}, {"rng_per_example": True}, {"model_state": {"count": jnp.zeros(())}}]
)
def test_quick_is_the_bare_step_to_the_bit_and_leaves_no_file(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    expected = by_hand(5, jax.random.key(3), **options)[-1]
    testing.assert_trees_equal(quick_state(**options), expected)
    assert not list(tmp_path.iterdir())


def test_quick_hands_on_its_options():
    options = {
        "num_steps": 4,
        "rng": jax.random.key(3),
        "model_state": {"count": jnp.ones(())},
        "rng_per_example": True,
        "steps_per_call": 2,
    }
    seen = []
    params = training.quick(
        loss_fn, optax.adam(1e-2), init, batch_at, **options,
        hooks=[fit.OnState(2, lambda step, state: seen.append(float(state.model_state["count"])))],
    )  # fmt: skip
    testing.assert_trees_equal(params, quick_state(**options).params)
    assert seen == [3, 5]


def test_quick_is_train_without_a_folder(tmp_path):
    state = train(tmp_path, num_steps=5, seed=3)
    params = training.quick(
        loss_fn, optax.adam(1e-2), init, batch_at, num_steps=5, rng=jax.random.key(3)
    )
    # Here one device, there two: sums in another order.
    testing.assert_trees_close(params, state.params, rtol=1e-5, atol=1e-6)


def test_quick_from_given_parameters_for_no_step_and_for_some():
    """The caller's own buffers stay."""
    params = init(jax.random.key(8))
    given = functools.partial(
        training.quick, loss_fn, optax.adam(1e-2), lambda _: params, batch_at,
        rng=jax.random.key(3),
    )  # fmt: skip
    testing.assert_trees_equal(given(num_steps=0), params)
    expected = by_hand(3, jax.random.key(3), params=params)[-1].params
    testing.assert_trees_equal(given(num_steps=3), expected)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_quick_shows_its_state_and_its_metrics_at_the_steps_asked_for():
    seen, losses = {}, []
    hooks = [
        fit.OnState((1, 4), lambda step, s: seen.__setitem__(step, jax.tree.map(jnp.copy, s))),
        fit.OnMetrics(2, lambda step, values: losses.append(step)),
    ]
    quick_state(num_steps=6, hooks=hooks)
    states = by_hand(6, jax.random.key(3))
    assert [*seen] == [1, 4, 6] and losses == [2, 4, 6]
    for step, state in seen.items():
        testing.assert_trees_equal(state, states[step])


def test_quick_scans_over_several_steps_a_call():
    """Two traces however many calls, the first to look for convolutions; equal but for rounding."""
    traced = chex.assert_max_traces(loss_fn, n=2)
    chex.clear_trace_counter()
    state = training.quick_state(
        traced, optax.adam(1e-2), init, batch_at,
        num_steps=8, rng=jax.random.key(3), steps_per_call=4,
    )  # fmt: skip
    expected = by_hand(8, jax.random.key(3))[-1]
    testing.assert_trees_close(state.params, expected.params, rtol=1e-5, atol=1e-6)
    assert state.step == 8


def test_examples_may_be_drawn_on_the_device_and_runs_vmapped():
    """The two recipes of the docstring, one against the other."""
    root, optimizer = jax.random.key(1), optax.adam(1e-2)
    keys = np.asarray(jax.random.key_data(jax.random.split(root, 6)))  # [T, 2]

    def drawing(params, model_state, rng, batch):
        x = jax.random.normal(jax.random.wrap_key_data(batch[0]), (8, 3))
        return loss_fn(params, model_state, rng, {"x": x, "y": x.sum(1)})

    def scanned(rng):
        init_rng, train_rng = jax.random.split(rng)
        state = init_state(init(init_rng), optimizer, train_rng)
        return scan_steps(make_train_step(drawing, optimizer))(state, keys[:, None])[0].params

    rngs = jax.random.split(jax.random.key(2), 2)
    many = jax.jit(jax.vmap(scanned))(rngs)
    for index, rng in enumerate(rngs):
        one = training.quick(
            drawing, optimizer, init, lambda step: keys[step : step + 1], num_steps=6, rng=rng
        )
        found = jax.tree.map(lambda leaf, index=index: leaf[index], many)
        testing.assert_trees_close(found, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "message, options",
    [("num_steps=-1", {"num_steps": -1}), ("steps_per_call=0", {"steps_per_call": 0})],
)
def test_quick_refuses_counts_below_one(message, options):
    with pytest.raises(ValueError, match=message):
        quick_state(**options)


def test_quick_stops_at_a_loss_that_is_no_number():
    def bad_at(step):
        return batch_at(step) | ({"y": np.full(8, np.nan, np.float32)} if step == 2 else {})

    with pytest.raises(fit.NonFiniteLoss, match="step 3"):
        training.quick(loss_fn, optax.adam(1e-2), init, bad_at, num_steps=5, rng=jax.random.key(0))


def rate_of(optimizer, step):
    """The rate by which plain descent moves after so many updates, for a gradient of one."""
    params, state = jnp.zeros(()), None
    state = optimizer.init(params)
    for _ in range(step + 1):
        update, state = optimizer.update(jnp.ones(()), state, params)
    return -float(update)


def test_the_rate_climbs_in_a_line_and_falls_in_a_cosine(x64):
    optimizer = training.warmup_cosine(0.3, 20, 4, end=0.1, optimizer=optax.sgd)
    rates = [rate_of(optimizer, step) for step in range(22)]
    expected = [0.3 * step / 4 for step in range(4)]
    expected += [0.1 + 0.2 * (1 + np.cos(np.pi * k / 16)) / 2 for k in range(17)] + [0.1]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)  # optax counts in float32
    at_once = training.warmup_cosine(0.3, 20, 0, optimizer=optax.sgd)
    np.testing.assert_allclose(rate_of(at_once, 0), 0.3, rtol=1e-6)
    np.testing.assert_allclose(rate_of(at_once, 20), 0.0, atol=1e-12)


COPIES = {
    "adam": (
        lambda s: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(s)), 0.0,
        {"clip": 1.0},
    ),
    "adamw": (lambda s: optax.adamw(s, weight_decay=0.05), 0.0,
              {"optimizer": functools.partial(optax.adamw, weight_decay=0.05)}),
    "adamw, clipped, end": (
        lambda s: optax.chain(
            optax.clip_by_global_norm(0.5), optax.adamw(s, 0.9, 0.99, weight_decay=0.1)
        ),
        1e-3,
        {"clip": 0.5, "end": 1e-3,
         "optimizer": functools.partial(optax.adamw, b2=0.99, weight_decay=0.1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_the_optimizer_is_the_chain_it_stands_for_to_the_bit(name):
    make, end, options = COPIES[name]
    chain = make(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 8, end))
    ours = training.warmup_cosine(1e-2, 8, 2, **options)
    states = []
    for optimizer in (ours, chain):
        state = init_state(init(jax.random.key(0)), optimizer, jax.random.key(1))
        step = jax.jit(make_train_step(loss_fn, optimizer))
        for index in range(4):
            state, _ = step(state, batch_at(index))
        states.append(state)
    testing.assert_trees_equal(*states)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"peak": float("nan")}, "peak=nan"),
        ({"peak": -1e-3}, "peak=-0.001"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"end": -1e-3}, "end=-0.001: expected a learning rate >= 0"),
        ({"end": float("nan")}, "end=nan"),
        ({"num_steps": 8.0}, "num_steps=8.0"),
        ({"warmup": 2.5}, "warmup=2.5"),
    ],
)
def test_a_schedule_that_cannot_be_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        training.warmup_cosine(**{"peak": 1e-2, "num_steps": 8, "warmup": 2, **options})


@pytest.mark.parametrize("num_steps", [-1, 1.5, float("nan")])
def test_quick_counts_whole_updates(num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
        training.quick(
            None, optax.sgd(1.0), lambda _: 0.0, None, num_steps=num_steps, rng=jax.random.key(0)
        )


@pytest.mark.parametrize("warmup, num_steps", [(-1, 8), (8, 8)])
def test_a_warm_up_that_leaves_no_fall_is_refused(warmup, num_steps):
    with pytest.raises(ValueError, match=f"warmup={warmup}: expected 0 to {num_steps - 1}"):
        training.warmup_cosine(1e-2, num_steps, warmup)


def test_the_average_warms_up():
    decay = training.ema_warmup(0.9)
    np.testing.assert_allclose(
        [decay(step) for step in (0, 10, 79, 80, 81, 1000)],
        [1 / 10, 11 / 20, 80 / 89, 0.9, 0.9, 0.9],
        rtol=1e-6,
    )
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"decay={bad}"):
            training.ema_warmup(bad)


def test_batches_come_from_memory_in_an_order_of_the_seed():
    """Each example once an epoch."""
    at = training.batches({"x": np.arange(12)}, 4, seed=1)
    epoch = np.concatenate([at(step)["x"] for step in range(3)])
    assert sorted(epoch) == list(range(12))
    other = np.concatenate([training.batches({"x": np.arange(12)}, 4, 2)(i)["x"] for i in range(3)])
    assert list(epoch) != list(other)


@pytest.mark.parametrize("options", [{"mesh": "data=2"}, {"fsdp": True}])
def test_pmap_replicates_and_refuses_rules_and_meshes(tmp_path, options):
    with pytest.raises(ValueError, match="replicates the state"):
        train(tmp_path / "run", parallel="pmap", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"parallel": "pmap"}, {"accumulate": 2}, {"fsdp": True}])
def test_how_a_run_is_carried_out_changes_nothing(tmp_path, options):
    """The noise-free regression of `updates` on two devices, against its default placement."""

    def run(folder, **options):
        return training.train(
            updates.loss_fn,
            optax.sgd(0.05),
            lambda rng: updates.make_state().params,
            updates.batch_at,
            num_steps=3,
            run=training.RunOptions(**options),
            out=report.RunDir(tmp_path / folder),
            rng_per_example=True,
        ).params

    testing.assert_trees_close(run("a", **options), run("b"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size, num_devices", [(8, 2), (7, 1)])
def test_a_batch_goes_to_as_many_cores_as_divide_it(tmp_path, size, num_devices):
    """Two devices of one CPU; of 7 examples one computes all, and to the same parameters."""
    batches = lambda step: jax.tree.map(lambda leaf: leaf[:size], updates.batch_at(step))  # noqa: E731

    def run(folder, mesh):
        return training.train(
            updates.loss_fn,
            optax.sgd(0.05),
            lambda rng: updates.make_state().params,
            batches,
            num_steps=2,
            run=training.RunOptions(mesh=mesh),
            out=report.RunDir(tmp_path / folder),
            rng_per_example=True,
        ).params

    found = run("a", "")
    assert {len(p.sharding.device_set) for p in jax.tree.leaves(found)} == {num_devices}
    testing.assert_trees_close(found, run("b", "data=1"), rtol=1e-5, atol=1e-6)


def test_options_that_a_question_has_no_use_for_are_refused():
    training.takes_only(training.RunOptions(seed=4), "seed")
    training.takes_only(training.RunOptions(seed=4, fsdp=True), "seed", "fsdp")
    with pytest.raises(ValueError, match=r"--run.mesh data=2: .* takes --run.seed, --run.fsdp"):
        training.takes_only(training.RunOptions(seed=4, mesh="data=2"), "seed", "fsdp")


@pytest.mark.parametrize(
    "num_steps, options, message",
    [
        (0, {}, "num_steps=0"),
        (1.5, {}, "num_steps=1.5"),
        (3, {"log_every": 0}, "--run.log-every=0"),
        (3, {"checkpoint_every": -1}, "--run.checkpoint-every=-1"),
        (3, {"accumulate": 0}, "--run.accumulate=0"),
        (3, {"accumulate": 2.0}, "--run.accumulate=2.0"),
        (3, {"keep_checkpoints": True}, "--run.keep-checkpoints=True"),
        (3, {"steps_per_call": 0}, "--run.steps-per-call=0"),
        (3, {"seed": -1}, "--run.seed=-1: expected a whole number >= 0"),
        (3, {"seed": 2**32}, "--run.seed=4294967296: expected a whole number below 2.32"),
        (3, {"parallel": "x"}, "--run.parallel x: expected jit or pmap"),
    ],
)
def test_options_are_checked_before_anything_is_traced_or_written(num_steps, options, message):
    run = training.RunOptions(**options)
    with pytest.raises(ValueError, match=message):
        training.train(None, None, None, None, num_steps=num_steps, run=run, out=None)


def test_train_hands_on_what_the_step_and_the_loop_take(tmp_path):
    """An average, a compute dtype, rules of placement and hooks, against the bare step."""
    seen, decay = [], 0.75
    hooks = [fit.OnState(2, lambda step, state: seen.append((step, state.params[0]["w"].sharding)))]
    rules = (("0/w", jax.sharding.PartitionSpec(None, "data")),)
    given = {"ema_decay": decay, "compute_dtype": jnp.bfloat16, "rules": rules, "hooks": hooks}
    state = train(tmp_path, num_steps=4, given=given, seed=3)
    init_rng, train_rng = jax.random.split(jax.random.key(3))
    optimizer = optax.adam(1e-2)
    expected = init_state(jax.jit(init)(init_rng), optimizer, train_rng, ema=True)
    step = jax.jit(make_train_step(loss_fn, optimizer, compute_dtype=jnp.bfloat16, ema_decay=decay))
    for index in range(4):
        expected, _ = step(expected, batch_at(index))
    # Sums over two devices round otherwise, in bfloat16: a tenth of what four updates of 0.01 move.
    testing.assert_trees_close(
        (state.params, state.ema), (expected.params, expected.ema), rtol=0, atol=4e-3
    )
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, state.ema)
    assert max(jax.tree.leaves(moved)) > 0.01
    assert [step for step, _ in seen] == [2, 4]
    assert all(place.spec == jax.sharding.PartitionSpec(None, "data") for _, place in seen)
