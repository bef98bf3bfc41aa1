"""Sweeps: vmapped runs equal runs in turn, whole or in pieces, in groups that fit a core."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import sweep, testing
from library.types import Aux

RATES = np.array([1e-3, 1e-2, 3e-2])


def init(rng):
    return testing.mlp_init(rng, (3, 8, 1))


def loss_fn(params, model_state, rng, batch):
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
    return (error**2).mean(), Aux(batch["y"].size)


def optimizer(learning_rate, decay):
    return optax.adamw(learning_rate, weight_decay=decay)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 16, 3)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(-1))}


@jax.jit
def update(params, opt_state, batch, values):
    """One step as a reader would write it."""
    tx = optimizer(**values)
    loss, grads = jax.value_and_grad(lambda p: loss_fn(p, {}, None, batch)[0])(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_vmapped_runs_are_plain_loops_in_turn(batches, at_once):
    rngs = jax.random.split(jax.random.key(0), 3)
    hyper = {"learning_rate": RATES, "decay": np.array([0.0, 0.1, 0.0])}
    params, losses = sweep.train_many(
        init, loss_fn, optimizer, batches, rngs, hyper, at_once=at_once
    )
    assert losses.shape == (3, 12)
    for i in range(3):
        values = {name: jnp.asarray(value[i]) for name, value in hyper.items()}
        plain = init(jax.random.fold_in(rngs[i], 0))
        opt_state = optimizer(**values).init(plain)
        for t in range(12):
            batch = {name: leaf[t] for name, leaf in batches.items()}
            plain, opt_state, loss = update(plain, opt_state, batch, values)
            np.testing.assert_allclose(losses[i, t], loss, rtol=1e-5)
        for found, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(plain)):
            np.testing.assert_allclose(found[i], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [None, 1])
def test_runs_in_pieces_are_whole_runs(batches, at_once):
    """The same updates, and one compilation however many pieces there are."""
    traced = []

    def counted(learning_rate, decay):
        traced.append(1)
        return optimizer(learning_rate, decay)

    rngs = jax.random.split(jax.random.key(0), 2)
    hyper = {"learning_rate": RATES[:2], "decay": np.array([0.0, 0.1])}
    whole, losses = sweep.train_many(init, loss_fn, optimizer, batches, rngs, hyper, at_once=1)
    start, advance = sweep.compile_stages(init, loss_fn, counted, at_once=at_once)
    states, found = start(rngs, hyper), []
    for first in range(0, 12, 3):
        some = {name: leaf[first : first + 3] for name, leaf in batches.items()}
        states, piece = advance(states, some, hyper)
        found.append(piece)
        if not first:
            count = len(traced)
    assert len(traced) == count
    np.testing.assert_allclose(np.concatenate(found, 1), losses, rtol=1e-5)
    for leaf, expected in zip(jax.tree.leaves(states.params), jax.tree.leaves(whole)):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \[2\]"):
        start(rngs, {"learning_rate": RATES, "decay": np.zeros(2)})


def test_each_run_carries_a_state_of_its_own():
    """A running mean of the losses, weighted by a key that only the run's state is drawn from."""

    def remembers(params, model_state, rng, batch):
        loss = jnp.sum(params * batch)
        memory = 0.5 * model_state["memory"] + loss
        return loss, Aux(1, model_state={"memory": memory})

    start, advance = sweep.compile_stages(
        lambda rng: jnp.ones(2), remembers, optax.sgd,
        model_state=lambda rng: {"memory": jax.random.normal(rng)},
    )  # fmt: skip
    rngs, hyper = jax.random.split(jax.random.key(0), 3), {"learning_rate": jnp.zeros(3)}
    batches = np.asarray([[1.0, 2.0], [0.5, 0.25]], np.float32)
    states, _ = advance(start(rngs, hyper), batches, hyper)
    first = np.asarray([jax.random.normal(jax.random.fold_in(rng, 2)) for rng in rngs])
    want = 0.25 * first + 0.5 * 3.0 + 0.75
    np.testing.assert_allclose(states.model_state["memory"], want, rtol=1e-6)


def test_groups_fit_the_cache_and_leave_no_core_idle(monkeypatch):
    """Of 12 kB a run: all that fit, but a group for every core; one where none fits."""
    params = {"w": jnp.zeros(1000)}
    state = sweep.init_state(params, optax.adam(1e-3), jax.random.key(0))
    monkeypatch.setattr(sweep, "num_cores", lambda: 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(sweep, "CACHE_BYTES", 60_100)  # 5 runs of 12,004 bytes
    assert [sweep.group_size(n, state, None) for n in (1, 4, 8, 10, 32)] == [1, 2, 4, 5, 5]
    monkeypatch.setattr(sweep, "CACHE_BYTES", 11_000)
    assert sweep.group_size(32, state, None) == 1
    assert sweep.group_size(3, state, 8) == 3
    with pytest.raises(ValueError, match="at_once=0: expected a positive whole number of runs"):
        sweep.compile_stages(init, loss_fn, optimizer, at_once=0)
    with pytest.raises(ValueError, match="at_once=0"):
        sweep.group_size(3, state, 0)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep.group_size(32, state, None) == 32


def test_groups_run_on_threads_of_their_own(batches, monkeypatch):
    """Two groups wait for each other inside the program: in turn they would never end."""
    import threading

    meet = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(sweep, "num_cores", lambda: 2)

    def waits(params, model_state, rng, batch):
        jax.debug.callback(lambda: meet.wait())
        return loss_fn(params, model_state, rng, batch)

    first = {name: leaf[:1] for name, leaf in batches.items()}
    rngs = jax.random.split(jax.random.key(0), 2)
    hyper = {"learning_rate": RATES[:2], "decay": np.zeros(2)}
    _, losses = sweep.train_many(init, waits, optimizer, first, rngs, hyper, at_once=1)
    jax.effects_barrier()
    assert losses.shape == (2, 1) and not meet.broken


def test_shapes_that_do_not_fit_are_refused(batches):
    rngs = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"decay has shape \(2,\): expected \[3\]"):
        sweep.train_many(
            init, loss_fn, optimizer, batches, rngs, {"learning_rate": RATES, "decay": np.ones(2)}
        )
    with pytest.raises(ValueError, match="one key a run"):
        sweep.train_many(init, loss_fn, optimizer, batches, rngs[0], {})
