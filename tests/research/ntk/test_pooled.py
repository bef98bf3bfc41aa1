"""Layers whose cotangents are one mask for all outputs, and those that only look like it."""

import jax
import jax.numpy as jnp
import pytest

from research.ntk import checks
from research.ntk.jacobians import jaxprs, structured
from tests.research.ntk.agreement import agree, normal


def pooled_net(params, x):
    """A residual convolution of two groups, pooled: what runs after it is the mask's business."""
    numbers = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
    conv = lambda x, w, **o: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **numbers, **o)
    h = jnp.tanh(conv(x, params["first"]))
    y = conv(h, 0.7 * params["last"], feature_group_count=2) + params["b"][None, None, None]
    h = h + jax.nn.silu(y)
    return jnp.tanh(h.mean((1, 2)) @ params["v"]) @ params["v"].T


def pooled_params():
    shapes = {"first": (3, 3, 2, 4), "last": (3, 3, 2, 4), "b": (4,), "v": (4, 3)}
    return {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("size", [2, 5])  # few positions take the factors, many the pooled route
def test_pooled_layers(size):
    params, x = pooled_params(), normal(3, size, size, 2, seed=8)
    how = {"first": "factors", "last": "factors", "v": "factors"}
    agree(pooled_net, params, x, how)
    program = jaxprs.trace(checks.one_example(pooled_net), params, checks.first(x))
    blocks = structured.plan(program).blocks
    uses = {name: blocks[i][0] for i, name in enumerate(sorted(params)) if i in blocks}
    assert {name for name in uses if any(use.pool for use in uses[name])} == {"last"}


NOT_POOLED = {
    "mixed before": lambda y, gate: jnp.tanh(y[:, ::-1] * y).sum((1, 2)),
    "second way": lambda y, gate: jnp.tanh(y).sum((1, 2)) + y[:, 0, 0],
    "partial sum": lambda y, gate: jnp.tanh(y.sum(1)).sum(1),
    "gated by itself": lambda y, gate: (y * jnp.tanh(y.mean((1, 2), keepdims=True))).sum((1, 2)),
    "softmax": lambda y, gate: (jax.nn.softmax(y, axis=1) * gate).sum((1, 2)),
    "over features": lambda y, gate: jnp.tanh(y).sum((1, 3)),
}


@pytest.mark.parametrize("case", NOT_POOLED)
def test_what_is_not_a_pool_is_not_taken_for_one(case):
    head = NOT_POOLED[case]

    def apply(params, x):
        y = jnp.einsum("nhwc,cd->nhwd", x, params["w"])
        return jnp.sin(head(y, x[..., :1]))

    params, x = {"w": normal(3, 3)}, normal(3, 3, 3, 3, seed=8)
    agree(apply, params, x, {"w": "factors"})
    program = jaxprs.trace(checks.one_example(apply), params, checks.first(x))
    ((use,),) = structured.plan(program).blocks[0]
    assert use.pool is None


def relu_net(after):
    """y = x w1 w2 ...: the last hidden layer w2, its nonlinearity, and what follows it."""

    def apply(params, x):
        y = jnp.tanh(x @ params["w1"]) @ params["w2"] + params["b"][None]
        return after(jax.nn.relu(0.7 * y), y, x, params)

    shapes = {"w1": (3, 4), "w2": (4, 5), "b": (5,), "v": (5, 3)}
    return apply, {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


HEADS = {
    "dense": lambda z, y, x, p: z @ p["v"] / 2 + p["v"][0, 0],
    "residual from elsewhere": lambda z, y, x, p: z @ p["v"] - 3 * x,
    "sum and rearrangement": lambda z, y, x, p: z.reshape(-1, 5, 1).sum(1) * p["v"][None, 0],
    "gated by data": lambda z, y, x, p: (z * jnp.cos(x[:, :1])) @ p["v"],
}


NO_HEADS = {
    "second way": lambda z, y, x, p: z @ p["v"] + y[:, :3],
    "not linear after": lambda z, y, x, p: jnp.tanh(z @ p["v"]),
    "mixed with data after": lambda z, y, x, p: (z @ p["v"]) * x,
    "divides": lambda z, y, x, p: 1 / (2 + z @ p["v"]),
    "squared": lambda z, y, x, p: (z @ p["v"]) * (z @ p["v"]),
}


@pytest.mark.parametrize("case", [*HEADS, *NO_HEADS])
def test_heads(case):
    """What follows the last hidden layer linearly passes one vector an output back to it."""
    apply, params = relu_net((HEADS | NO_HEADS)[case])
    x = normal(4, 3, seed=9)
    agree(apply, params, x, {"w1": "factors", "w2": "factors"})
    program = jaxprs.trace(checks.one_example(apply), params, checks.first(x))
    blocks = structured.plan(program).blocks
    w1, w2 = (blocks[sorted(params).index(name)][0][0] for name in ("w1", "w2"))
    assert bool(w2.pool) == (case in HEADS) and not w1.pool
