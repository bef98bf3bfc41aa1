"""The pieces that networks share: attention, dropout and the condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import layers
from tests.research.diffusion import networks


def test_attention_is_a_mean_under_softmax_weights(x64):
    """Value and derivatives, also where the exponentials of the logits overflow."""
    noise = np.random.default_rng(0)
    query, tangent = noise.standard_normal((2, 2, 5, 3, 4))
    key, value = noise.standard_normal((2, 2, 7, 3, 4))
    query[0] *= 1e4

    def plain(query):
        logits = jnp.einsum("bthk,bshk->bhts", query, key) / 2
        return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(logits, axis=-1), value)

    def all_of(attend, query, tangent):
        value, pushed = jax.jvp(attend, (query,), (tangent,))
        return value, pushed, *jax.vjp(attend, query)[1](tangent)

    attends = plain, lambda query: layers.attend(query, key, value)
    both = jax.jit(lambda *args: [all_of(attend, *args) for attend in attends])
    for expected, found in zip(*both(query, tangent), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_dropout_keeps_the_mean_and_belongs_to_its_example():
    """Kept entries are scaled by 1/(1 - rate); 4 standard deviations, false alarm below 1e-4."""
    h = np.ones((6, 50, 40), np.float32)
    keys = jax.random.split(jax.random.key(0), 6)
    drop = jax.jit(lambda keys, h: layers.dropout(keys, h, 0.2))
    out = np.asarray(drop(keys, h))
    np.testing.assert_allclose(np.unique(out), [0.0, 1.25], rtol=1e-6)
    assert abs(out.mean() - 1) < 4 * np.sqrt(0.25 / h.size)  # the variance of an entry is r/(1-r)
    order = np.array([4, 0, 5, 1, 3, 2])
    np.testing.assert_array_equal(drop(keys[order], h), out[order])
    assert (out[0] != out[1]).any()
    np.testing.assert_array_equal(drop(keys, 3 * h), 3 * out)


def test_the_condition_is_the_perceptron_of_the_features_plus_the_class(x64):
    net = layers.Condition(3, lambda t: jnp.stack([t, t**2], -1), num_classes=2)
    t, labels = np.array([0.4, 0.9]), np.array([1, 0])
    params = networks.random_params(net, t, labels, np.float64)
    weights = params["params"]
    dense = lambda i, h: h @ weights[f"Dense_{i}"]["kernel"] + weights[f"Dense_{i}"]["bias"]
    first = dense(0, np.stack([t, t**2], -1))
    plain = dense(1, first / (1 + np.exp(-first)))
    table = weights["Embed_0"]["embedding"]

    @jax.jit
    def both(params):
        given = net.apply(params, t, jnp.asarray(labels), jnp.float64)
        return given, net.apply(params, t, None, jnp.float64)

    given, without = both(params)
    np.testing.assert_allclose(given, plain + table[labels], rtol=1e-10)
    np.testing.assert_allclose(without, plain + table[[2, 2]], rtol=1e-10)  # the null class


def test_labels_outside_the_table_are_refused_or_nan():
    """Unchecked, -1 would be the null class, which is the last row."""
    t, net = jnp.array([0.4, 0.9]), layers.Condition(3, lambda t: t[:, None], num_classes=2)
    params = networks.random_params(net, t, np.array([1, 0]), np.float32)
    for labels, message in [
        ([0, 3], "label 3: expected 0 to 2, the last one for no class"),
        ([-1, 0], "label -1: expected 0 to 2"),
        ([0.0, 1.0], r"labels float32\[2\]: expected int \[2\]"),
        ([0], r"labels int32\[1\]: expected int \[2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.apply(params, t, jnp.array(labels), jnp.float32)
    out = jax.jit(lambda labels: net.apply(params, t, labels, jnp.float32))
    np.testing.assert_array_equal(np.isnan(out(jnp.array([-1, 2]))).all(1), [True, False])
    np.testing.assert_array_equal(np.isnan(out(jnp.array([0, 3]))).all(1), [False, True])
