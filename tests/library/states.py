"""States with every kind of leaf, and how the tests of checkpoints look at them and at folders."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library.checkpoint import Checkpoints
from library.train_step import init_state
from tests.library import workers

ADAM = optax.adam(1e-3)


def make_state(number=0, ema=True, impl="threefry2x32", optimizer=ADAM, model_state=None):
    """A state with every kind of leaf: bfloat16, nan, -0, integers, booleans, keys, size zero."""
    params = {
        "dense/kernel": jnp.arange(12.0).reshape(3, 4) + number,
        "blocks": [jnp.asarray([np.nan, -0.0, np.inf, 1e-40]), {"b": jnp.ones(2, "bfloat16") / 3}],
        "none": jnp.zeros((0, 2)),
        "pair": (jnp.asarray(number), jnp.asarray([True, False])),
    }
    state = init_state(params, optimizer, jax.random.key(3, impl=impl), model_state, ema=ema)
    return state.replace(step=jnp.asarray(number, jnp.int32))


def assert_equal_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    for a, b in zip(workers.raw_leaves(actual), workers.raw_leaves(expected)):
        assert a.tobytes() == b.tobytes()


def contents(directory):
    return {str(p): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def save_two(directory):
    """The steps 1 and 2."""
    with Checkpoints(directory, every=1) as checkpoints:
        for number in (1, 2):
            checkpoints.save(number, make_state(number))
    return directory
