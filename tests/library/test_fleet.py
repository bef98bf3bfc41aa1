"""A fleet is its runs, each with the gradients, the noise, the state and the batches of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import fleet, report, testing, training
from library.train_step import init_state, make_train_step
from library.types import Aux

OPTIONS = training.RunOptions(seed=5, log_every=1, checkpoint_every=2)


def init(rng):
    return testing.mlp_init(rng, (3, 4, 1)), {"count": jnp.zeros(())}


def loss_fn(params, model_state, rng, batch):
    """Noisy regression that counts its batches, by one key or one an example."""
    if rng.ndim:
        noise = jax.vmap(lambda key: jax.random.normal(key, ()))(rng)
    else:
        noise = jax.random.normal(rng, batch["y"].shape)
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"] + noise
    count = model_state["count"] + 1
    return (error**2).mean(), Aux(len(error), {"bias": error.mean()}, {"count": count})


def batch_at(seed):
    def at(step):
        x = np.random.default_rng([seed, step]).normal(size=(8, 3)).astype(np.float32)
        return {"x": x, "y": x.sum(1)}

    return at


def alone(seed, run, num_steps, per_example):
    """The run by hand: its own key folds the run's index into the fleet's."""
    params, model_state = init(jax.random.key(seed))
    _, root = jax.random.split(jax.random.key(OPTIONS.seed))
    optimizer = optax.adam(1e-2)
    opt_state, losses, biases = optimizer.init(params), [], []
    for step in range(num_steps):
        keys = jnp.stack(
            [
                jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(root, step), slot), run)
                for slot in range(8 if per_example else 1)
            ]
        )
        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, model_state, keys if per_example else keys[0], batch_at(seed)(step)
        )
        updates, opt_state = optimizer.update(grads, opt_state)
        params, model_state = optax.apply_updates(params, updates), aux.model_state
        losses.append(float(loss))
        biases.append(float(aux.metrics["bias"]))
    return params, model_state, losses, biases


@pytest.mark.parametrize("per_example", [False, True])
def test_every_run_is_what_it_is_alone(tmp_path, per_example):
    seeds, out = [4, 7, 9], report.RunDir(tmp_path)
    state = fleet.train(
        loss_fn,
        optax.adam(1e-2),
        init,
        [batch_at(seed) for seed in seeds],
        seeds=seeds,
        num_steps=3,
        run=OPTIONS,
        out=out,
        rng_per_example=per_example,
    )
    assert fleet.size(state) == 3
    runs = [alone(seed, run, 3, per_example) for run, seed in enumerate(seeds)]
    for run, (params, model_state, _, _) in enumerate(runs):
        found = fleet.pick((state.params, state.model_state), run)
        testing.assert_trees_close(found, (params, model_state), rtol=1e-5, atol=1e-6)
    losses, biases = (np.array([run[which] for run in runs]) for which in (2, 3))  # [R, T]
    for name, values in {
        "loss": losses.sum(0), "loss_per_run": losses.mean(0), "bias": biases.mean(0),
    }.items():  # fmt: skip
        found = training.evaluations(out, name)[:, 1]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


def test_a_loss_that_leaves_the_model_state_leaves_that_of_the_fleet():
    def plain(params, model_state, rng, batch):
        return params["w"] * batch["x"].mean() * model_state["scale"], Aux(1.0)

    state = init_state(
        {"w": jnp.ones(2)}, optax.sgd(1.0), jax.random.key(0), {"scale": jnp.arange(1.0, 3.0)}
    )
    batch = {"x": jnp.stack([jnp.ones(4), 10 * jnp.ones(4)], 1)}
    new, _ = jax.jit(make_train_step(fleet.loss(plain), optax.sgd(1.0)))(state, batch)
    np.testing.assert_allclose(new.params["w"], [1 - 1, 1 - 20])
    np.testing.assert_array_equal(new.model_state["scale"], [1, 2])


def test_batches_stand_side_by_side():
    batch = fleet.batches([batch_at(0), batch_at(1)])(3)
    assert batch["x"].shape == (8, 2, 3) and batch["y"].shape == (8, 2)
    for run in range(2):
        picked = fleet.pick(batch, run, axis=1)
        testing.assert_trees_equal(picked, batch_at(run)(3))


@pytest.mark.parametrize(
    "seeds, num_batches, message",
    [([1], 2, "1 seeds, 2 batch_ats"), ([], 0, "0 seeds, 0 batch_ats")],
)
def test_seeds_and_batches_come_in_pairs(tmp_path, seeds, num_batches, message):
    with pytest.raises(ValueError, match=message):
        fleet.train(
            loss_fn,
            optax.adam(1e-2),
            init,
            [batch_at(0)] * num_batches,
            seeds=seeds,
            num_steps=1,
            run=OPTIONS,
            out=report.RunDir(tmp_path),
        )
