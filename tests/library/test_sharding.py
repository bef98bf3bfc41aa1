"""Placement changes where numbers live, never what they are: mesh, FSDP, rules and pmap agree."""

import functools
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from library import per_device, sharding, testing
from tests.library import updates

FSDP = ((".*", sharding.fsdp()),)
TENSOR = (("1/w", P(None, "model")), ("2/w", P("model", None)))


def place(kind, optimizer, accumulate=1):
    """The update of `updates` under one placement on two devices."""
    step = updates.make_step(accumulate=accumulate, optimizer=optimizer)
    state = jax.eval_shape(lambda: updates.make_state(optimizer))
    if kind == "single":
        return sharding.compile_step(step, state, sharding.make_mesh({"data": 1}))
    if kind == "data":
        return sharding.compile_step(step, state, sharding.make_mesh())
    if kind == "fsdp":
        return sharding.compile_step(step, state, sharding.make_mesh(), FSDP)
    if kind == "tensor":
        mesh = sharding.make_mesh({"data": 1, "model": 2})
        return sharding.compile_step(step, state, mesh, TENSOR)
    make = functools.partial(updates.make_step, accumulate=accumulate, optimizer=optimizer)
    return per_device.pmap_step(make)


def run(step, state, num_steps):
    state = step.place_state(state)
    for index in range(num_steps):
        state, metrics = step(state, updates.batch_at(index))
        jax.block_until_ready(metrics)
    return state, metrics


def raw_gradient(kind, accumulate):
    """Through an optimizer that subtracts the gradient unscaled: Adam would hide a wrong scale."""
    state = updates.make_state(optax.sgd(1.0))
    new_state, metrics = run(place(kind, optax.sgd(1.0), accumulate), state, 1)
    grads = jax.tree.map(lambda a, b: a - np.asarray(b), state.params, new_state.params)
    return grads, jax.device_get(metrics)


PLACEMENTS = ["data", "fsdp", "tensor", "pmap"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", PLACEMENTS)
def test_raw_gradient_equals_the_single_device(x64, kind, accumulate):
    expected, expected_metrics = raw_gradient("single", 1)
    grads, metrics = raw_gradient(kind, accumulate)
    testing.assert_trees_close(grads, expected, rtol=1e-10, atol=1e-14)
    testing.assert_trees_close(metrics, expected_metrics, rtol=1e-10)


@pytest.mark.parametrize("kind", PLACEMENTS)
def test_one_step_equals_the_single_device_in_float32(kind):
    optimizer = updates.optimizer()
    expected, _ = run(place("single", optimizer), updates.make_state(), 1)
    actual, _ = run(place(kind, optimizer), updates.make_state(), 1)
    # The first Adam update is lr * sign(g): parameters whose gradient is rounding noise may differ.
    testing.assert_trees_close(
        (actual.opt_state, actual.step), (expected.opt_state, expected.step), rtol=1e-5, atol=1e-7
    )
    testing.assert_trees_close(actual.params, expected.params, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PLACEMENTS)
def test_five_steps_stay_together_in_float64(x64, kind):
    optimizer = updates.optimizer()
    expected, _ = run(place("single", optimizer), updates.make_state(), 5)
    actual, _ = run(place(kind, optimizer), updates.make_state(), 5)
    testing.assert_trees_close(actual.params, expected.params, rtol=1e-8, atol=1e-12)
    testing.assert_trees_close(actual.ema, expected.ema, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["data", "pmap"])
def test_many_steps_in_one_call_equal_single_calls(x64, kind):
    step = place(kind, updates.optimizer())
    expected, last = run(step, updates.make_state(), 4)
    batches = [updates.batch_at(index) for index in range(4)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    state = step.place_state(updates.make_state())
    state, metrics = step.many(state, step.place_batch(stacked, True))
    testing.assert_trees_close(state.params, expected.params, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(metrics["loss"][-1], last["loss"], rtol=1e-12)
    assert metrics["loss"].shape == (4,)


@pytest.mark.parametrize("kind", ["data", "fsdp", "pmap"])
def test_step_compiles_once_and_donates(kind, caplog, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(updates, "loss_fn", chex.assert_max_traces(updates.loss_fn, n=1))
    step = place(kind, updates.optimizer())
    state = step.place_state(updates.make_state())
    first = jax.tree.leaves(state.params)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for index in range(3):
            state, metrics = step(state, updates.batch_at(index))
            jax.block_until_ready(metrics)
    compiled = [line for line in caplog.messages if re.match(r"Compiling .*\[64,64\]", line)]
    assert len(compiled) == 1
    assert all(leaf.is_deleted() for leaf in first)


def test_placing_spares_the_original_state():
    state = updates.make_state()
    step = place("single", updates.optimizer())
    step(step.place_state(state), updates.batch_at(0))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("kind", ["data", "pmap"])
def test_of_stacked_batches_the_second_axis_is_split(kind):
    """Three batches of 8 go on two devices, two of 7 do not."""
    place_batch = place(kind, updates.optimizer()).place_batch
    placed = place_batch({"x": np.zeros((3, 8))}, True)
    assert placed["x"].size == 24
    with pytest.raises(ValueError, match="batch size 7 is not a multiple of the 2 devices"):
        place_batch({"x": np.zeros((2, 7))}, True)


def test_fsdp_splits_large_leaves_and_their_moments_alike():
    state = jax.eval_shape(updates.make_state)
    placed = sharding.shardings(state, sharding.make_mesh(), FSDP)
    assert placed.params[1]["w"].spec == P("data", None)
    assert placed.opt_state[0].mu[1]["w"].spec == P("data", None)
    assert placed.ema[1]["w"].spec == P("data", None)
    assert placed.params[0]["w"].spec == P()  # 4 x 64 is below the minimal size
    assert placed.rng.spec == placed.step.spec == P()


def test_state_is_made_in_place():
    mesh = sharding.make_mesh()
    state = sharding.init_on_mesh(updates.make_state, mesh, FSDP)
    assert state.params[1]["w"].sharding.spec == P("data", None)
    testing.assert_trees_close(state.params, updates.make_state().params, rtol=1e-6)


def test_factored_statistics_of_a_split_matrix_are_replicated():
    optimizer = optax.adafactor(1e-2, min_dim_size_to_factor=8)
    state = jax.eval_shape(lambda: updates.make_state(optimizer))
    mesh = sharding.make_mesh({"data": 1, "model": 2})
    placed = sharding.shardings(state, mesh, TENSOR)
    assert placed.params[1]["w"].spec == P(None, "model")
    assert {s.spec for s in jax.tree.leaves(placed.opt_state)} <= {
        P(),
        P(None, "model"),
        P("model", None),
    }


@pytest.mark.parametrize(
    "text, axes",
    [("", None), ("data=4", {"data": 4}), ("data=4,model=2", {"data": 4, "model": 2})],
)
def test_mesh_text(text, axes):
    assert sharding.parse_mesh(text) == axes


@pytest.mark.parametrize(
    "text", ["data", "data=", "data=4,", "data=4;model=2", "data=2,data=2", "=3"]
)
def test_wrong_mesh_text_is_named(text):
    with pytest.raises(ValueError, match="expected NAME=SIZE"):
        sharding.parse_mesh(text)


@pytest.mark.parametrize(
    "message, call",
    [
        ("needs 8 devices, 2 are there", lambda: sharding.make_mesh({"data": 8})),
        ("expected positive sizes", lambda: sharding.make_mesh({"data": 0})),
        ("expected positive sizes, whole", lambda: sharding.make_mesh({"data": 2.0})),
        ("names axis 'model'; the mesh has", lambda: compile_with((("w", P("model")),))),
        ("matches no leaf", lambda: compile_with((("kernl", P("data")),))),
        (
            "2/w of shape \\(64, 1\\): axis 1 is not",
            lambda: compile_with((("2/w", P(None, "data")),)),
        ),
        ("has too few axes", lambda: compile_with((("params/0/b", P(None, "data")),))),
        ("names axis 'batch'", lambda: compile_with((), batch_axes="batch")),
    ],
)
def test_placement_mistakes_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def compile_with(rules, **options):
    state = jax.eval_shape(updates.make_state)
    return sharding.compile_step(updates.make_step(), state, sharding.make_mesh(), rules, **options)


@pytest.mark.parametrize("kind", ["data", "pmap"])
def test_indivisible_batch_is_named_before_compilation(kind):
    step = place(kind, updates.optimizer())
    state = step.place_state(updates.make_state())
    with pytest.raises(ValueError, match="batch size 7 is not a multiple of the 2 devices"):
        step(state, updates.batch_at(0, batch_size=7))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_mesh_of_given_devices_and_fsdp_of_another_axis_and_size():
    """The last device first; the largest axis that 2 divides, of leaves from 6 elements on."""
    mesh = sharding.make_mesh({"model": 2}, devices=jax.devices()[::-1])
    assert mesh.devices.tolist() == jax.devices()[::-1]
    spec = sharding.fsdp(axis="model", min_size=6)
    assert spec((3, 2), mesh) == P(None, "model")
    assert spec((2, 4), mesh) == P(None, "model")
    assert spec((5,), mesh) == spec((3, 3), mesh) == P()
    assert sharding.fsdp(axis="model")((64, 63), mesh) == P()
    assert sharding.fsdp(axis="model")((64, 64), mesh) == P("model", None)


@pytest.mark.parametrize("size, num_devices", [(6, 2), (7, 1), (1, 1)])
def test_a_batch_is_split_over_as_many_devices_as_divide_it(size, num_devices):
    params = {"w": jnp.arange(3.0)}
    batch = np.arange(3.0 * size, dtype=np.float32).reshape(size, 3)
    whole, split = sharding.split_over_devices(params, batch)
    assert len(split.sharding.device_set) == len(whole["w"].sharding.device_set) == num_devices
    assert whole["w"].sharding.is_fully_replicated
    out = jax.jit(lambda p, b: b @ p["w"])(whole, split)
    np.testing.assert_array_equal(out, batch @ np.arange(3.0))
    assert len(out.sharding.device_set) == num_devices
    alone = sharding.on_one_device(out)
    assert alone.sharding.device_set == {jax.devices()[0]}
    np.testing.assert_array_equal(alone, out)


def test_the_largest_divisor():
    assert [sharding.largest_divisor(12, most) for most in (1, 2, 5, 8, 12, 99)] == [
        1, 2, 4, 6, 12, 12,
    ]  # fmt: skip
