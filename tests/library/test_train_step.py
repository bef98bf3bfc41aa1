"""The pure update against closed forms and against the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import per_device, sharding, testing
from library.train_step import init_state, make_train_step
from library.types import Aux, BatchLoss

BATCH = 8


def regression_loss(params, model_state, rng, batch):
    """Mean squared error over the unmasked targets, with a metric of its own."""
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
    weight = batch["mask"].sum()
    loss = (batch["mask"] * error**2).sum() / weight
    return loss, Aux(weight, {"bias": (batch["mask"] * error).sum() / weight})


def make_batch(seed, dtype=None):
    x_rng, y_rng, mask_rng = jax.random.split(jax.random.key(seed), 3)
    mask = jax.random.bernoulli(mask_rng, 0.4, (BATCH,)).at[0].set(True)
    return {
        "x": jax.random.normal(x_rng, (BATCH, 3), dtype),
        "y": jax.random.normal(y_rng, (BATCH,), dtype),
        "mask": mask.astype(dtype or jnp.float32),
    }


def make_state(optimizer, ema=False):
    params = testing.mlp_init(jax.random.key(1), (3, 8, 1))
    return init_state(params, optimizer, jax.random.key(2), ema=ema)


def raw_gradient(state, batch, loss_fn=regression_loss, **options):
    """The gradient itself, through an optimizer that subtracts it unscaled."""
    step = jax.jit(make_train_step(loss_fn, optax.sgd(1.0), **options))
    new_state, metrics = step(state, batch)
    return jax.tree.map(jnp.subtract, state.params, new_state.params), metrics


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 3])
def test_accumulated_equals_whole_batch_with_unequal_masks(x64, accumulate, seed):
    state, batch = make_state(optax.sgd(1.0)), make_batch(seed)
    per_microbatch = batch["mask"].reshape(-1, accumulate).sum(0)
    assert accumulate == 1 or len(np.unique(per_microbatch)) > 1, "masks must be unequal"
    grads, metrics = raw_gradient(state, batch, accumulate=accumulate)
    loss, expected = jax.value_and_grad(lambda params: regression_loss(params, {}, None, batch)[0])(
        state.params
    )
    testing.assert_trees_close(grads, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-12)
    bias = regression_loss(state.params, {}, None, batch)[1].metrics["bias"]
    np.testing.assert_allclose(metrics["bias"], bias, rtol=1e-12)
    np.testing.assert_allclose(metrics["weight"], batch["mask"].sum(), rtol=0)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(expected), rtol=1e-10)


def test_empty_microbatch_does_not_poison_the_sum(x64):
    state, batch = make_state(optax.sgd(1.0)), make_batch(0)
    batch["mask"] = jnp.array([1.0, 0, 1, 0, 0, 0, 1, 0])  # the odd microbatch has no unit: 0 / 0
    grads, metrics = raw_gradient(state, batch, accumulate=2)
    expected = jax.grad(lambda params: regression_loss(params, {}, None, batch)[0])(state.params)
    testing.assert_trees_close(grads, expected, rtol=1e-10, atol=1e-13)
    assert metrics["weight"] == 3


def test_fully_masked_batch_changes_nothing(x64):
    state, batch = make_state(optax.sgd(1.0)), make_batch(0)
    batch["mask"] = jnp.zeros(BATCH)
    grads, metrics = raw_gradient(state, batch, accumulate=2)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
    assert metrics["weight"] == 0


def test_adam_step_and_average_by_hand(x64):
    optimizer = optax.adam(1e-2)
    state, batch = make_state(optimizer, ema=True), make_batch(0)
    step = jax.jit(make_train_step(regression_loss, optimizer, ema_decay=0.9))
    new_state, _ = step(state, batch)
    grads = jax.grad(lambda params: regression_loss(params, {}, None, batch)[0])(state.params)
    # After one step of Adam the bias-corrected moments are g and g^2.
    expected = jax.tree.map(lambda p, g: p - 1e-2 * g / (jnp.abs(g) + 1e-8), state.params, grads)
    testing.assert_trees_close(new_state.params, expected, rtol=1e-10, atol=1e-12)
    average = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.params, expected)
    testing.assert_trees_close(new_state.ema, average, rtol=1e-10, atol=1e-12)
    assert new_state.step == 1


def test_average_decay_may_depend_on_the_step():
    state, batch = make_state(optax.sgd(0.1), ema=True), make_batch(0)
    step = make_train_step(regression_loss, optax.sgd(0.1), ema_decay=lambda t: t / (t + 10.0))
    new_state, _ = jax.jit(step)(state, batch)
    testing.assert_trees_equal(new_state.ema, new_state.params)  # decay 0 at step 0


def test_average_starts_in_buffers_of_its_own():
    state = make_state(optax.sgd(0.1), ema=True)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert len(set(pointers)) == len(pointers)


def noise_loss(params, model_state, rng, batch):
    """Linear in noise that comes from one key per example."""
    noise = jax.vmap(lambda key: jax.random.normal(key, ()))(rng)
    return (params["w"] * noise * batch["x"]).mean(), Aux(batch["x"].size)


def test_per_example_noise_does_not_depend_on_accumulation(x64):
    state = init_state({"w": jnp.ones(())}, optax.sgd(1.0), jax.random.key(0))
    batch = {"x": jnp.arange(8.0)}
    whole, _ = raw_gradient(state, batch, noise_loss, rng_per_example=True)
    for accumulate in (2, 4):
        parts, _ = raw_gradient(
            state, batch, noise_loss, rng_per_example=True, accumulate=accumulate
        )
        testing.assert_trees_close(parts, whole, rtol=1e-12)
    later, _ = raw_gradient(
        state.replace(step=state.step + 1), batch, noise_loss, rng_per_example=True
    )
    assert abs(later["w"] - whole["w"]) > 1e-3, "step t must fold t into the key"


def test_microbatches_get_different_keys():
    def loss(params, model_state, rng, batch):
        return params["w"] * jax.random.normal(rng, ()), Aux(1.0, {"u": jax.random.uniform(rng)})

    state = init_state({"w": jnp.ones(())}, optax.sgd(1.0), jax.random.key(0))
    batch = {"x": jnp.zeros(4)}
    means = [raw_gradient(state, batch, loss, accumulate=a)[1]["u"] for a in (1, 2, 4)]
    assert len({float(mean) for mean in means}) == 3


def test_model_state_is_carried_through_microbatches():
    def loss(params, model_state, rng, batch):
        count = model_state["count"] + batch["x"].shape[0]
        return params["w"] * batch["x"].mean(), Aux(1.0, model_state={"count": count})

    state = init_state({"w": jnp.ones(())}, optax.sgd(1.0), jax.random.key(0), {"count": 0})
    new_state, _ = jax.jit(make_train_step(loss, optax.sgd(1.0), accumulate=4))(
        state, {"x": jnp.ones(8)}
    )
    assert new_state.model_state["count"] == 8


def test_mixed_precision_computes_low_and_keeps_high():
    seen = []

    def loss(params, model_state, rng, batch):
        seen.append((params["w"].dtype, batch["x"].dtype, batch["label"].dtype))
        error = jnp.einsum("bi,i->b", batch["x"], params["w"]).astype(jnp.float32)
        return (error**2).mean(), Aux(4.0)

    optimizer = optax.adam(1e-3)
    state = init_state({"w": jnp.ones(3)}, optimizer, jax.random.key(0))
    batch = {"x": jnp.ones((4, 3)), "label": jnp.zeros(4, jnp.int32)}
    step = jax.jit(make_train_step(loss, optimizer, compute_dtype=jnp.bfloat16))
    new_state, metrics = step(state, batch)
    assert seen[0] == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves((new_state.params, metrics))} == {
        jnp.dtype(jnp.float32)
    }
    for old, new in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(new_state.opt_state)):
        assert old.dtype == new.dtype


def test_optimizer_sees_the_loss():
    optimizer = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    state, batch = make_state(optimizer), make_batch(0)
    new_state, metrics = jax.jit(make_train_step(regression_loss, optimizer))(state, batch)
    np.testing.assert_allclose(new_state.opt_state[1].best_value, metrics["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    "message, batch, options",
    [
        ("batch size 8 is not a multiple of accumulate=3", make_batch(0), {"accumulate": 3}),
        ("accumulate=0: expected a positive whole", make_batch(0), {"accumulate": 0}),
        ("accumulate=2.0: expected a positive whole", make_batch(0), {"accumulate": 2.0}),
        ("ema_decay=1.5: expected a number in", make_batch(0), {"ema_decay": 1.5}),
        ("ema_decay=-0.2", make_batch(0), {"ema_decay": -0.2}),
        ("ema_decay=nan", make_batch(0), {"ema_decay": float("nan")}),
        ("init_state\\(ema=True\\)", make_batch(0), {"ema_decay": 0.9}),
        ("one common first axis", make_batch(0) | {"y": jnp.zeros(4)}, {}),
    ],
)
def test_mistakes_are_named(message, batch, options):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            make_train_step(regression_loss, optax.sgd(1.0), **options),
            make_state(optax.sgd(1.0)),
            batch,
        )


@pytest.mark.parametrize(
    "message, output",
    [
        ("the loss has shape", lambda x: (x, Aux(1.0))),
        ("metric 'm' has shape", lambda x: (x.sum(), Aux(1.0, {"m": x}))),
        ("are the training step's own", lambda x: (x.sum(), Aux(1.0, {"loss": x.sum()}))),
        ("weight is float32 of shape .4,.: expected a scalar", lambda x: (x.sum(), Aux(x))),
        (
            "weight is bfloat16 .* expected a scalar, float32 at least",
            lambda x: (x.sum(), Aux(x.astype("bfloat16").sum())),
        ),
    ],
)
def test_a_loss_of_the_wrong_form_is_named(message, output):
    step = make_train_step(
        lambda params, model_state, rng, batch: output(params["w"] * batch["x"]), optax.sgd(1.0)
    )
    state = init_state({"w": jnp.ones(())}, optax.sgd(1.0), jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(step, state, {"x": jnp.ones(4)})


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_a_weight_of_nan_is_no_weight_of_zero(accumulate):
    """Leaving its microbatch out would leave a gradient that nothing is divided by."""
    state, batch = make_state(optax.sgd(1.0)), make_batch(0)
    batch["mask"] = batch["mask"].at[3].set(jnp.nan)
    grads, metrics = raw_gradient(state, batch, accumulate=accumulate)
    assert jnp.isnan(metrics["loss"]) and jnp.isnan(metrics["weight"])
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(grads))


@BatchLoss
def variance_loss(axis_name):
    """Variance of the outputs over the whole batch, no mean of what the parts of a batch give."""

    def loss(params, model_state, rng, batch):
        output = testing.mlp_apply(params, batch["x"])[:, 0]
        if axis_name is not None:
            output = jax.lax.all_gather(output, axis_name, tiled=True)
        return output.var(), Aux(len(batch["x"]))

    return loss


def test_a_loss_over_the_batch_is_refused_microbatches():
    with pytest.raises(ValueError, match="accumulate=2 for a loss over the batch"):
        make_train_step(variance_loss, optax.sgd(1.0), accumulate=2)


def test_a_loss_over_the_batch_is_told_the_axis(x64):
    """One device, a mesh of two and pmap over two: the same value and raw gradient."""
    state, batch = make_state(optax.sgd(1.0)), make_batch(0)
    whole = lambda params: jnp.var(testing.mlp_apply(params, batch["x"])[:, 0])  # noqa: E731
    loss, expected = jax.value_and_grad(whole)(state.params)
    make = lambda axis=None: make_train_step(  # noqa: E731
        variance_loss, optax.sgd(1.0), axis_name=axis
    )
    steps = [
        jax.jit(make()),
        sharding.compile_step(make(), state, sharding.make_mesh({"data": 2})),
        per_device.pmap_step(make),
    ]
    for step in steps:
        new, metrics = step(jax.tree.map(jnp.copy, state), batch)
        grads = jax.tree.map(jnp.subtract, state.params, new.params)
        testing.assert_trees_close(grads, expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-12)
    np.testing.assert_allclose(
        variance_loss(state.params, {}, state.rng, batch)[0], loss, rtol=1e-12
    )
