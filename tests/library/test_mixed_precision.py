"""The training step in half precision: counts, sums and averages are those of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import testing, train_step
from library.train_step import init_state, make_train_step
from library.types import Aux

# Keeps the gradient as its state and changes nothing.
RECORD = optax.GradientTransformation(
    lambda params: params, lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads)
)
HALF = [jnp.bfloat16, jnp.float16]


def masked_square(params, model_state, rng, batch):
    """The mean square of x w over the units of a mask; the gradient at w = 1 is known."""
    weight = batch["mask"].sum()
    loss = (batch["mask"] * (batch["x"] @ params["w"]) ** 2).sum() / weight
    return loss, Aux(weight, {"share": (batch["mask"] * 0.5).sum() / weight})


@pytest.mark.parametrize("num_units, accumulate", [(257, 1), (1001, 1), (1282, 2)])
def test_masks_are_counted_exactly_whatever_the_compute_dtype(num_units, accumulate):
    """bfloat16 counts to 256; with x = w = 1 in three dimensions the gradient is 6."""
    state = init_state({"w": jnp.ones(3)}, RECORD, jax.random.key(0))
    mask = jnp.ones(num_units).at[-1].set(0.5)
    step = make_train_step(masked_square, RECORD, accumulate=accumulate, compute_dtype=jnp.bfloat16)
    new, metrics = jax.jit(step)(state, {"x": jnp.ones((num_units, 3)), "mask": mask})
    assert metrics["weight"] == num_units - 0.5
    np.testing.assert_allclose(new.opt_state["w"], 6, rtol=2**-8)  # the backward pass is bfloat16
    np.testing.assert_allclose([metrics["loss"], metrics["share"]], [9, 0.5], rtol=2e-7)


@pytest.mark.parametrize(
    "name, kept",
    [
        ("mask", True), ("source_mask", True), ("weights", True), ("loss/weight", True),
        ("Mask0", True), ("x", False), ("unmasked", False), ("weightless", False),
    ],
)  # fmt: skip
def test_leaves_named_as_masks_or_weights_keep_their_dtype(name, kept):
    seen = []

    def loss(params, model_state, rng, batch):
        seen.append(jax.tree.leaves(batch)[0].dtype)
        return params["weight"].astype(jnp.float32), Aux(1.0)

    leaf = jnp.ones(4)
    for part in reversed(name.split("/")):
        leaf = {part: leaf}
    state = init_state({"weight": jnp.ones(())}, RECORD, jax.random.key(0))
    jax.eval_shape(make_train_step(loss, RECORD, compute_dtype=jnp.float16), state, leaf)
    assert seen == [jnp.float32 if kept else jnp.float16]


@pytest.mark.parametrize("accumulate", [1, 16, 256])
def test_gradients_of_half_parameters_do_not_suffer_from_microbatches(accumulate):
    """Least squares over 4,096 rows; summed in bfloat16, 256 microbatches would be 1.6 % off."""

    def loss(params, model_state, rng, batch):
        error = batch["x"].astype(jnp.float32) @ params["w"].astype(jnp.float32) - batch["y"]
        return (error**2).mean(), Aux(error.size)

    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4096, 8)).astype("f4"), np.asarray(np.arange(8.0), jnp.bfloat16)
    y = rng.normal(size=4096).astype("f4")
    exact = 2 * x.astype(float).T @ (x.astype(float) @ w.astype(float) - y) / 4096
    state = init_state({"w": jnp.asarray(w)}, RECORD, jax.random.key(0))
    new, metrics = jax.jit(make_train_step(loss, RECORD, accumulate=accumulate))(
        state, {"x": x, "y": y}
    )
    assert new.opt_state["w"].dtype == jnp.bfloat16  # as the optimizer of bfloat16 takes it
    np.testing.assert_allclose(np.float64(new.opt_state["w"]), exact, rtol=2**-7, atol=2e-3)
    off = np.linalg.norm(np.float64(new.opt_state["w"]) - exact) / np.linalg.norm(exact)
    assert off < 2**-9  # half a unit in the last place
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(exact), rtol=1e-3)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_metrics_of_half_precision_are_averaged_in_float32(dtype, accumulate):
    """9 x 16,384 units is beyond float16; an integer metric and a plain number are means too."""

    def loss(params, model_state, rng, batch):
        value = ((batch["x"] @ params["w"] - 3) ** 2).astype(jnp.float32).mean().astype(dtype)
        count = (batch["x"][:, 0] > 0).sum() // batch["x"].shape[0]
        return value, Aux(1.0 * len(batch["x"]), {"half": value, "count": count, "plain": 0.25})

    state = init_state({"w": jnp.zeros(3)}, RECORD, jax.random.key(0))
    step = jax.jit(make_train_step(loss, RECORD, accumulate=accumulate))
    new, metrics = step(state, {"x": jnp.ones((16384, 3))})
    found = [metrics[name] for name in ("loss", "half", "count", "plain", "weight")]
    np.testing.assert_array_equal(found, [9, 9, 1, 0.25, 16384])
    assert {value.dtype for value in metrics.values()} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(new.opt_state["w"], -6)


@pytest.mark.parametrize("dtype", HALF)
def test_the_average_of_half_parameters_moves(dtype):
    """0.999 old + 0.001 new rounds to old in half precision; in float32 it is exact."""
    optimizer = optax.GradientTransformation(
        lambda params: (), lambda grads, state, params: (jax.tree.map(jnp.ones_like, grads), state)
    )
    state = init_state({"w": jnp.ones(2, dtype)}, optimizer, jax.random.key(0), ema=True)
    assert state.ema["w"].dtype == jnp.float32

    def loss(params, model_state, rng, batch):
        return params["w"].sum().astype(jnp.float32), Aux(1.0)

    step = jax.jit(make_train_step(loss, optimizer, ema_decay=0.999))
    expected = 1.0
    for index in range(3):  # parameters 2, 3, 4
        state, _ = step(state, {"x": jnp.zeros(1)})
        expected = 0.999 * expected + 0.001 * (index + 2)
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-6)
    stuck = state.replace(ema=state.params)
    with pytest.raises(ValueError, match=f"average is kept in {jnp.dtype(dtype).name}, in which"):
        jax.eval_shape(step, stuck, {"x": jnp.zeros(1)})


def test_model_states_of_half_precision_are_averaged_over_devices_in_float32():
    """Shares 1/3 and 2/3 of the same number are that number; in bfloat16 they sum to the next."""
    value = jnp.bfloat16(1.0390625)

    def mean(local):  # op by op: a compiled program may keep float32 between two operations
        state = {"mean": value, "count": jnp.int32(3)}
        return train_step._mean_over_devices(state, local, jax.lax.psum(local, "data"), "data")

    found = jax.vmap(mean, axis_name="data", out_axes=None)(jnp.array([1.0, 2.0]))
    testing.assert_trees_equal(found, {"mean": value, "count": jnp.int32(3)})
