"""Networks that mix examples are refused by every entry point; no other is, whatever it rounds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk import compositions
from tests.research.ntk import networks

W = networks.normal(0, 6, 3).astype(np.float32)
X = networks.normal(1, 5, 6).astype(np.float32)
RNG = jax.random.key(0)


def dropped(params, x):
    """Dropout under one key for all examples."""
    return (x * jax.random.bernoulli(jax.random.key(7), 0.5, x.shape)) @ params


def normalised(params, x):
    """Batch statistics in training mode."""
    model = nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False)
    return model.apply({"batch_stats": {}}, x @ params, mutable=["batch_stats"])[0]


def attentive(params, x):
    """Softmax over the batch."""
    return jax.nn.softmax(x @ params, axis=0)


ENTRIES = {
    "empirical": lambda f: ntk.empirical(f, W, X),
    "by_layer": lambda f: ntk.by_layer(f, W, X),
    "nngp_empirical": lambda f: ntk.nngp_empirical(f, W, X),
    "vector_product": lambda f: ntk.vector_product(f, W, X),
    "features": lambda f: ntk.projection.features(f, W, X, 4, rng=RNG),
    "top_eigenpairs": lambda f: ntk.spectrum.top_eigenpairs(f, W, X, 2, rng=RNG),
    "trace": lambda f: ntk.spectrum.trace(f, W, X, rng=RNG),
    "diagonal": lambda f: ntk.spectrum.diagonal(f, W, X),
    "frobenius_norm": lambda f: ntk.spectrum.frobenius_norm(f, W, X, rng=RNG),
    "distance": lambda f: ntk.spectrum.distance(f, W, W, X, rng=RNG),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_refuses_dropout(entry):
    with pytest.raises(ValueError, match="apply mixes examples.*train=False"):
        ENTRIES[entry](dropped)


MIXING = {
    "batch_norm": (normalised, X, None),
    "softmax": (attentive, X, None),
    "two": (normalised, X[:2], None),
    "alone": (dropped, X[:1], None),
    "one_of_each": (normalised, X[:1], X[1:2]),
    "equal": (dropped, np.ones((4, 6), np.float32), None),
    "half": (dropped, jnp.asarray(X, jnp.bfloat16), None),
    "weak": (lambda p, x: x @ p + 1e-2 * x.mean(), X, None),
}


@pytest.mark.parametrize("case", MIXING)
def test_what_mixes_is_found(case):
    apply, x1, x2 = MIXING[case]
    with pytest.raises(ValueError, match="apply mixes examples"):
        compositions.check(apply, W, x1, x2)


def keyed(params, x):
    """Dropout under a key an example, made of its own numbers."""
    seeds = jax.lax.bitcast_convert_type(x[:, 0], jnp.int32)
    keys = jax.vmap(jax.random.key)(seeds)
    return (x * jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, x.shape[1:]))(keys)) @ params


def half_inside(params, x):
    h = jnp.tanh(8 * x.astype(jnp.bfloat16) @ params.astype(jnp.bfloat16))
    return (h @ params.T.astype(jnp.bfloat16)).astype(jnp.float32)


def unhashable(apply):
    class Network:
        __hash__ = None

        def __call__(self, params, x):
            return apply(params, x)

    return Network()


APART = {
    "plain": (lambda p, x: x @ p, X),
    "keyed": (keyed, X),
    "running": (lambda p, x: nn.BatchNorm(use_running_average=True).apply(
        {"params": {"scale": p[0], "bias": p[1]}, "batch_stats": {"mean": p[2], "var": p[3] ** 2}},
        x @ p), X),
    "half_inside": (half_inside, X),
    "cancels": (lambda p, x: (1e7 + x @ p).sum(1, keepdims=True) - 3e7, X),
    "chaotic": (lambda p, x: jnp.sin(1e6 * (x @ p)), X),
    "huge": (lambda p, x: 1e37 * (x @ p), X),
    "overflowing": (lambda p, x: jnp.exp(100 * (x @ p)), X),
    "nan": (lambda p, x: jnp.log(x @ p), X),
    "zero": (lambda p, x: 0 * (x @ p), X),
    "tiny": (lambda p, x: 1e-37 * (x @ p), X),
    "rounded": (lambda p, x: jnp.round(x @ p), X),
    "tokens": (lambda p, x: p[x].sum(1), np.arange(12, dtype=np.int32).reshape(4, 3) % 6),
    "one_number": (lambda p, x: (x @ p).sum(1), X),
    "unhashable": (unhashable(lambda p, x: x @ p), X),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_rounding_is_never_taken_for_mixing(case):
    apply, x = APART[case]
    compositions.check(apply, W, x)
    compositions.check(apply, W, x[:1], x[1:])


def test_nothing_is_checked_of_values_that_are_not_known():
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    compositions.check(dropped, W, shape)
    found = jax.jit(lambda x: ntk.empirical(dropped, W, x))(X)
    assert found.shape == (5, 5, 3, 3)
    jax.jit(lambda v: ntk.vector_product(dropped, W, X)(v))(np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match="apply mixes examples"):
        compositions.check(unhashable(dropped), W, X)
