"""Placement on a mesh: what is split, what stays whole, and gradients that do not change."""

import jax
import numpy as np
import optax
import pytest

from library import sharding
from library.testing import assert_trees_close
from library.train_step import init_state, make_train_step
from research.transformers import losses, models, placement, published
from tests.research.transformers import cases

TOKENS = np.random.default_rng(0).integers(0, 11, (2, 8))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_tensor_parallel_gradients_equal_one_device(name):
    config = cases.TINY[name] if name == "llama" else published.nano_gpt(12, 2, 16, 4, 8)
    params = cases.random_params(config, dtype=np.float32)
    optimizer = optax.sgd(1.0)  # the update is the raw gradient
    state = init_state(params, optimizer, jax.random.key(0))
    step = make_train_step(losses.next_token(models.Decoder(config).apply), optimizer)
    batch = {"tokens": np.asarray(TOKENS, np.int32)}
    mesh = sharding.make_mesh({"data": 1, "model": 2})
    split = sharding.compile_step(step, state, mesh, placement.tensor_parallel())
    placed = split.place_state(state)
    kernel = placed.params["params"]["stack"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[2] == kernel.shape[2] // 2
    after, _ = split.one(placed, batch)
    expected, _ = jax.jit(step)(state, batch)
    assert_trees_close(after.params, expected.params, rtol=1e-4, atol=1e-5)


def test_heads_hidden_features_and_the_vocabulary_are_split():
    """On an axis of another name; what two devices do not divide stays whole."""
    mesh = sharding.make_mesh({"data": 1, "tensor": 2})
    shapes = {
        "params/stack/layers/attention/query/kernel": ((3, 8, 4, 2), 2),  # [L, D, H, K]
        "params/stack/layers/attention/query/bias": ((3, 4, 2), 1),
        "params/stack/layers/attention/key/kernel": ((3, 8, 1, 2), None),  # one key head
        "params/decoder/layers/cross/value/kernel": ((3, 8, 2, 2), 2),
        "params/stack/layers/attention/out/kernel": ((3, 4, 2, 8), 1),  # [L, H, K, D]
        "params/stack/layers/attention/out/bias": ((3, 8), None),
        "params/stack/layers/mlp/gate/kernel": ((3, 8, 32), 2),
        "params/stack/layer0/mlp/up/bias": ((32,), 0),
        "params/stack/layers/mlp/down/kernel": ((3, 32, 8), 1),
        "params/embedding": ((12, 8), 0),
        "params/positions": ((16, 8), None),
        "params/stack/layers/mlp_norm/scale": ((3, 8), None),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, (shape, _) in shapes.items()}
    placed = sharding.shardings(tree, mesh, placement.tensor_parallel("tensor"))
    for name, (shape, axis) in shapes.items():
        local = [n // 2 if index == axis else n for index, n in enumerate(shape)]
        assert placed[name].shard_shape(shape) == tuple(local), name
