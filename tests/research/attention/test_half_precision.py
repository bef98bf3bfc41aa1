"""Attention in half precision: thousands of keys, large logits, far distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from research.attention import dot_product, masks, positions, ring
from tests import half_precision


def inputs(length=4096, num_queries=2, scale=1.0):
    """Values in [1, 2], so that no sum cancels; [B, T, H, K] with one key head for two."""
    rng = np.random.default_rng(0)
    query, key = (
        jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
        for shape in ((1, num_queries, 2, 4), (1, length, 1, 4))
    )
    return query, key, jnp.asarray(rng.uniform(1, 2, (1, length, 1, 4)), jnp.float32)


def attention(implementation, **options):
    attend = functools.partial(
        dot_product.attend, implementation=implementation, block=(2, 512), **options
    )
    return jax.jit(attend)


def value_gradient(query, key, value):
    """Of the sum over one query to each value: its weight."""
    out = lambda v: dot_product.attend(query, key, v, implementation="plain").sum()  # noqa: E731
    return jax.grad(out)(value)


def ring_of_one():
    mesh = sharding.make_mesh({"sequence": 1})
    return jax.jit(functools.partial(ring.attend, mesh=mesh, axis="sequence", block=(32, 32)))


def offsets():
    return jnp.arange(3)[None, :, None], jnp.array([[[0, 257, 4097]]])


CASES = {
    "dot_product.attend, plain": lambda: (attention("plain"), inputs()),
    "dot_product.attend, blocked": lambda: (attention("blocked"), inputs()),
    "dot_product.attend, large logits": lambda: (attention("plain", scale=100.0), inputs(64)),
    "dot_product.attend, masked": lambda: (
        attention("plain", mask=masks.Padding(jnp.array([700]))), inputs(1024),
    ),
    "dot_product.attend, gradient": lambda: (jax.jit(value_gradient), inputs(64, scale=0.1)),
    "dot_product.softmax": lambda: (
        lambda x: dot_product.softmax(x.astype(jnp.float32), jnp.ones(4096, bool)),
        (jnp.linspace(-8.0, 8.0, 4096),),
    ),
    "ring.attend": lambda: (ring_of_one(), inputs(64, 64)),
    "positions.Rope": lambda: (
        lambda x: positions.Rope()(x, jnp.arange(5000, 5002)[None]), inputs()[:1],
    ),
    "positions.Alibi": lambda: (
        lambda slopes: positions.Alibi(slopes)(*offsets()), (jnp.array([0.7, 0.3]),),
    ),
    "positions.Buckets": lambda: (
        lambda table: positions.Buckets(table)(*offsets()),
        (jnp.linspace(0.0, 1.0, 64).reshape(32, 2),),
    ),
    "positions.sinusoidal": lambda: (
        lambda t: positions.sinusoidal(t, 8), (jnp.arange(250.0, 256.0)[None],),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
