"""Checkpoints of states whose parts are one array, a number, nothing, or in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import fit
from library.checkpoint import Checkpoints, restore_params
from library.train_step import init_state, make_train_step
from library.types import Aux
from tests.library.states import assert_equal_bits

# An optimizer whose state is one array: the number of its updates.
COUNTING = optax.GradientTransformation(
    lambda params: jnp.zeros((), jnp.int32),
    lambda grads, count, params: (jax.tree.map(lambda g: -0.1 * g, grads), count + 1),
)
PARTS = {
    "array": jnp.arange(3.0),
    "number": jnp.float32(2.5),
    "half": jnp.ones(2, jnp.bfloat16) / 3,
    "size zero": jnp.zeros((0, 2)),
    "dict of its name": {"array": jnp.arange(2.0)},
    "list": [jnp.arange(2.0)],
    "nothing": {},
    "empty tuple": (),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_any_form_come_back_to_the_bit(tmp_path, name):
    part = PARTS[name]
    state = init_state(part, COUNTING, jax.random.key(0), model_state=part, ema=True)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, state)
        assert_equal_bits(checkpoints.restore(jax.tree.map(jnp.zeros_like, state)), state)
    if jax.tree.leaves(part):
        assert_equal_bits(restore_params(tmp_path, part), part)
        assert_equal_bits(restore_params(tmp_path, part, ema=True), state.ema)
        if name != "size zero":
            assert_equal_bits(restore_params(tmp_path), part)
            assert_equal_bits(restore_params(tmp_path, ema=True), state.ema)
    else:
        with pytest.raises(ValueError, match="holds no parameters"):
            restore_params(tmp_path)
        with pytest.raises(ValueError, match="holds no moving average of the parameters"):
            restore_params(tmp_path, ema=True)


def test_an_array_is_not_taken_for_a_dict_that_holds_it(tmp_path):
    state = init_state(jnp.ones(3), optax.sgd(1.0), jax.random.key(0))
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, state)
        wrapped = init_state({"array": jnp.ones(3)}, optax.sgd(1.0), jax.random.key(0))
        with pytest.raises(ValueError, match="params/array is missing in the checkpoint"):
            checkpoints.restore(wrapped)


def test_training_of_one_array_resumes_to_the_bit(tmp_path):
    """Parameters, optimizer, model state and average are one array each."""

    def loss(params, model_state, rng, batch):
        return ((params - batch["x"].mean()) ** 2).sum(), Aux(1.0, model_state=model_state + 1)

    def run(folder, num_steps):
        state = init_state(jnp.arange(3.0), COUNTING, jax.random.key(0), jnp.zeros(()), ema=True)
        with Checkpoints(folder, every=2) as checkpoints:
            return fit.fit(
                jax.jit(make_train_step(loss, COUNTING, ema_decay=0.5)),
                state,
                lambda step: {"x": jnp.full(2, float(step))},
                num_steps=num_steps,
                checkpoints=checkpoints,
            )

    whole = run(tmp_path / "whole", 5)
    run(tmp_path / "parts", 2)
    assert_equal_bits(run(tmp_path / "parts", 5), whole)
    assert whole.opt_state == whole.model_state == 5
    expected = np.arange(3.0)
    for step in range(5):
        expected -= 0.1 * 2 * (expected - step)
    np.testing.assert_allclose(whole.params, expected, rtol=1e-6)


@pytest.mark.parametrize("call", [lambda path: Checkpoints(path, every=1), restore_params])
@pytest.mark.parametrize("address", ["gs://bucket/ck", "s3://b", "file:///tmp/ck"])
def test_addresses_are_refused_and_leave_no_folder(tmp_path, monkeypatch, call, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{address} is an address: expected a path on this"):
        call(address)
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Checkpoints("~/ck", every=1) as checkpoints:
        assert checkpoints.directory == tmp_path / "ck"
    assert (tmp_path / "ck").is_dir()
