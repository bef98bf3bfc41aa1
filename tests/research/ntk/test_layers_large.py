"""Large kernels, whose layers are computed apart and in tiles, equal small ones put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.ntk import layers
from research.ntk.layers import layer, state

CONV = (layers.conv(4, (3,), weight_std=2**0.5, bias_std=0.1), layers.relu())
POOLED = layers.serial(*CONV, layers.global_average_pool(), layers.dense(1))
LENGTH = 6


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Compilations are remembered by arguments: those of a test differ in `batch_size`."""
    monkeypatch.setattr(state, "_LARGE", 4 * 4 * LENGTH**2)
    monkeypatch.setattr(layer, "_TILE", 4 * 4 * LENGTH**2)


def signals(num, seed=0):
    return jax.random.normal(jax.random.key(seed), (num, LENGTH, 2))


def test_large_layers_are_the_small_ones(x64):
    """Of a network that reads positions of single examples, too, and is computed at once."""
    net = layers.serial(*CONV, layers.average_pool((2,)), layers.dense(4), *POOLED.layers[1:])
    x1, x2 = signals(5), signals(7, seed=1)
    large, small = net.kernel(x1, x2), net.kernel(x1, x2, batch_size=2)
    np.testing.assert_allclose(large.nngp, small.nngp, rtol=1e-12)
    np.testing.assert_allclose(large.ntk, small.ntk, rtol=1e-12)


def test_large_kernels_come_in_tiles(x64):
    x = signals(5)

    def kernel(x, size=None):
        return POOLED.kernel(x, get="nngp", batch_size=size)

    text = jax.jit(kernel).lower(x).as_text()
    assert f"<4x4x{LENGTH}x" in text and f"<5x5x{LENGTH}x" not in text and "stablehlo.case" in text
    whole = kernel(x)
    np.testing.assert_allclose(whole, kernel(x, 3), rtol=1e-12)
    # At most 16 pairs of equal rank at a time: one tile of them and three pairs more.
    x1, x2 = x[jnp.arange(19) % 5], x[jnp.arange(19) % 3]
    pairs = POOLED.kernel(x1, x2, get="nngp", pairs="diagonal")
    expected = whole[jnp.arange(19) % 5, jnp.arange(19) % 3]
    np.testing.assert_allclose(pairs, expected, rtol=1e-12)


def test_what_is_computed_apart_is_differentiated_and_mapped(x64):
    def total(x, size):
        pairs = state.Pairs(nngp=x, gap=x**2, ntk=None, full=True)
        function = lambda p: p.replace(nngp=p.nngp * p.gap, gap=p.nngp + 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "_LARGE", size)
            after = state.apart(function, pairs)
        assert after.ntk is None
        return (after.nngp * after.gap).sum()  # x^3 (x + 1)

    x = jax.random.normal(jax.random.key(0), (2, 3))
    text = str(jax.make_jaxpr(lambda x: total(x, 1))(x))
    assert "cond" in text
    grads = jax.jit(jax.vmap(jax.grad(lambda x: total(x, 1))))(x)
    np.testing.assert_allclose(grads, 4 * x**3 + 3 * x**2, rtol=1e-12)
