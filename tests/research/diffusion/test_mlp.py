"""The perceptron: its size and layers by hand, the null class, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import mlp
from tests.research.diffusion import networks


def test_examples_do_not_mix_and_no_label_is_the_null_class(x64):
    networks.assert_examples_keep_apart(mlp.MLP(8, 2, num_classes=3), (3, 2))


def test_it_is_the_perceptron_written_by_hand(x64):
    net = mlp.MLP(5, 3, features=lambda t: jnp.stack([t, t**2], -1), num_classes=2)
    x, t, labels = np.array([[0.3, -1.0], [2.0, 0.1]]), np.array([0.4, 0.9]), np.array([1, 0])
    params = networks.random_params(net, x, t)
    weights = params["params"]
    dense = lambda i, h: h @ weights[f"Dense_{i}"]["kernel"] + weights[f"Dense_{i}"]["bias"]
    silu = lambda h: h / (1 + np.exp(-h))
    h = dense(0, np.concatenate([x, t[:, None], t[:, None] ** 2], 1))
    h = h + weights["Embed_0"]["embedding"][labels]
    expected = dense(3, silu(dense(2, silu(dense(1, silu(h))))))
    keys = jax.random.split(jax.random.key(0), 2)  # of no dropout
    found = jax.jit(net.apply)(params, x, t, labels, keys)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_output_is_zero_at_init():
    net, x, t = mlp.MLP(4, 1), jnp.ones((2, 3)), jnp.ones(2)
    out = jax.jit(lambda key: net.apply(net.init(key, x, t), x, t))(jax.random.key(0))
    np.testing.assert_array_equal(out, np.zeros((2, 3)))


@pytest.mark.parametrize(
    "args, message",
    [
        ((jnp.zeros((2, 4, 4, 1)), jnp.zeros(2)), r"expected \[B, D\]"),
        ((jnp.zeros((2, 4)), jnp.zeros(2), jnp.zeros(2, int)), "num_classes=None"),
    ],
)
def test_bad_input_is_named(args, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(mlp.MLP().init, jax.random.key(0), *args)
