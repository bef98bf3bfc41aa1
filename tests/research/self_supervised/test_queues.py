"""First in, first out, on one device and on two, against a list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import queues
from tests.research.self_supervised import oracles

KEYS = np.random.default_rng(0).normal(size=(5, 2, 3))  # pushes of 2 keys


def test_it_starts_with_random_directions(x64):
    queue = queues.init(jax.random.key(0), 6, 3)
    assert queue.keys.shape == (6, 3) and queue.position == 0
    np.testing.assert_allclose((queue.keys**2).sum(1), 1, rtol=1e-12)
    assert (queue.keys != queues.init(jax.random.key(1), 6, 3).keys).all()


def test_first_in_first_out(x64):
    """The oldest go first, and a push as large as the queue leaves nothing of before."""
    queue = queues.init(jax.random.key(0), 6, 3)
    ring, push = np.array(queue.keys), jax.jit(queues.push)
    for t, keys in enumerate(KEYS):
        queue = push(queue, keys)
        ring[2 * (t % 3) : 2 * (t % 3) + 2] = oracles.unit(keys)
        np.testing.assert_allclose(queue.keys, ring, rtol=1e-12)
        assert queue.position == 2 * (t + 1) % 6
    last = {tuple(key) for key in oracles.unit(KEYS[2:]).reshape(6, 3).round(9)}
    assert {tuple(key) for key in np.asarray(queue.keys).round(9)} == last
    whole = push(queue, KEYS[:3].reshape(6, 3))
    assert whole.position == queue.position


def test_all_devices_push_the_keys_of_all(x64):
    queue = queues.init(jax.random.key(0), 8, 3)
    push = jax.pmap(
        lambda queue, keys: queues.push(queue, keys, "i"), "i", in_axes=(None, 0),
        devices=jax.devices()[:2],
    )  # fmt: skip
    found = push(queue, KEYS[:2])
    expected = queues.push(queue, KEYS[:2].reshape(4, 3))
    for device in (0, 1):
        np.testing.assert_allclose(found.keys[device], expected.keys, rtol=1e-12)
        assert found.position[device] == 4


def test_keys_have_no_gradient_and_stay_in_float32():
    queue = queues.init(jax.random.key(0), 4, 3)
    keys = jnp.asarray(KEYS[0], jnp.bfloat16)
    assert queues.push(queue, keys).keys.dtype == jnp.float32
    grad = jax.grad(lambda keys: queues.push(queue, keys).keys.sum())(jnp.asarray(KEYS[0]))
    assert (grad == 0).all()


QUEUE = queues.Queue(jnp.ones((6, 3)), jnp.zeros((), jnp.int32))
push = lambda size: lambda: queues.push(QUEUE, np.ones((size, 3)))  # noqa: E731


@pytest.mark.parametrize("message, call", [
    ("a queue of 6 keys is no multiple of the batch of 4", push(4)),
    ("a queue of 6 keys is no multiple of the batch of 0", push(0)),
    ("a queue of 6 keys is no multiple of the batch of 12", push(12)),
    ("keys have shape .2, 4.: expected .B, 3.", lambda: queues.push(QUEUE, np.ones((2, 4)))),
    ("size=0: expected a positive whole number of keys", lambda: queues.init(None, 0, 3)),
    ("dim=2.0: expected a positive", lambda: queues.init(None, 4, 2.0)),
])  # fmt: skip
def test_bad_input(message, call):
    with pytest.raises(ValueError, match=message):
        call()
