"""Every rule of the structured method, and every way around it, against full Jacobians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk import checks, finite
from research.ntk.jacobians import contract, jaxprs, structured
from research.ntk.jacobians.structured import Block, Term
from tests.research.ntk import networks

RNG = jax.random.key(0)


def agree(apply, params, x, how):
    """Structured equals Jacobian in all entries, by the treatment expected of each parameter."""
    with jax.enable_x64(True):
        to_float64 = lambda leaf: jnp.asarray(leaf, jnp.float64)
        params = jax.tree.map(to_float64, params)
        x = to_float64(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
        program = jaxprs.trace(checks.one_example(apply), params, checks.first(x))
        treated = finite.treatment(structured.plan(program), params)
        for path, expected in how.items():
            assert treated[path].startswith(expected), (path, treated[path])

        @jax.jit
        def kernels(params, x):
            kernel = lambda method, outputs: ntk.empirical(
                apply, params, x, x[:2], method=method, outputs=outputs
            )
            return (
                kernel("jacobian", "full"),
                kernel("structured", "full"),
                kernel("structured", "trace"),
            )

        full, found, trace = kernels(params, x)
        scale = jnp.abs(full).max()
        assert scale > 1e-3
        np.testing.assert_allclose(found, full, rtol=1e-10, atol=1e-12 * scale)
        np.testing.assert_allclose(
            trace, jnp.einsum("nmcc->nm", full), rtol=1e-10, atol=1e-12 * scale
        )


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


CONVS = {  # spatial sizes, kernel, options
    "1d": ((7,), (3,), {}),
    "2d stride": ((6, 5), (3, 2), dict(window_strides=(2, 1), padding=((1, 0), (0, 1)))),
    "3d": ((3, 3, 2), (2, 2, 2), {}),
    "dilated": ((7, 7), (3, 2), dict(rhs_dilation=(2, 3), padding=((2, 2), (1, 2)))),
    "transposed": ((3, 3), (3, 3), dict(lhs_dilation=(2, 2), padding=((1, 2), (2, 1)))),
    "grouped": ((5, 5), (3, 3), dict(feature_group_count=2)),
    "depthwise": ((5, 5), (3, 3), dict(feature_group_count=4)),
    "cropped": ((6, 6), (3, 3), dict(padding=((-1, 0), (0, -1)))),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolutions(case):
    space, kernel, options = CONVS[case]
    options = dict(window_strides=(1,) * len(space), padding="VALID") | options
    groups = options.get("feature_group_count", 1)
    letters = "HWD"[: len(space)]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def apply(params, x):
        y = jax.lax.conv_general_dilated(x, params["w"], dimension_numbers=numbers, **options)
        return jnp.tanh(y.reshape(y.shape[0], -1)) @ params["v"]

    x = normal(3, *space, 4)
    params = {"w": normal(*kernel, 4 // groups, 4, seed=1)}
    shape = jax.eval_shape(
        lambda: jax.lax.conv_general_dilated(x, params["w"], dimension_numbers=numbers, **options)
    ).shape
    params["v"] = normal(int(np.prod(shape[1:])), 2, seed=2)
    agree(apply, params, x, {"w": "factors of conv", "v": "factors of dot"})


def test_dot_general_with_the_weight_on_the_left_and_batched():
    def apply(params, x):  # x: [N, H, S, D]
        y = jnp.einsum("hdk,nhsd->nhks", params["heads"], x)
        y = jnp.tanh(jnp.einsum("okh,nhks->nos", params["merge"], y))
        return jnp.einsum("nos,os->no", y, params["last"])

    params = {"heads": normal(2, 3, 4), "merge": normal(3, 4, 2), "last": normal(3, 5, seed=2)}
    agree(apply, params, normal(3, 2, 5, 3, seed=1), {k: "factors of dot_general" for k in params})


def test_ntk_parameterisation_scales_and_rearrangements():
    def apply(params, x):
        w = -params["w"].T * (2.0**0.5) / params["w"].shape[1] ** 0.5
        y = jnp.tanh(x @ w + params["b"][None] * 0.1)
        q, k, v = jnp.split(params["qkv"], 3, axis=1)  # disjoint parts of one parameter
        q, k, v = (y @ p for p in (q, k, v.reshape(3, 2, 2).reshape(3, 4)))
        return q * jnp.tanh(k) + v

    params = {"w": normal(3, 4), "b": normal(3), "qkv": normal(3, 12, seed=3)}
    how = {"w": "factors", "qkv": "factors", "b": "plain"}
    agree(apply, params, normal(3, 4, seed=1), how)


def test_learned_gain_on_a_weight():
    apply = lambda p, x: jnp.tanh(x @ (p["w"] * p["gain"])) @ p["v"]
    params = {"w": normal(4, 5), "gain": jnp.asarray(1.3), "v": normal(5, 2)}
    agree(apply, params, normal(3, 4, seed=1), {"w": "factors", "gain": "plain", "v": "factors"})


def test_tied_weights_in_every_combination():
    def apply(params, x):  # embedding, transposed use, one-hot use, dense use of one table
        table = params["table"]
        y = table[x]  # [N, S, D]
        y = jnp.tanh(y + jax.nn.one_hot(x, 5, dtype=y.dtype) @ table)
        logits = jnp.tanh(y @ table.T)  # [N, S, V]
        return jnp.tanh(logits @ table).mean(1)

    agree(apply, {"table": normal(5, 4)}, networks.tokens(1, 4) % 5, {"table": "factors of dot_"})


def test_lookups_out_of_range_and_repeated():
    def apply(params, x):
        filled = jnp.take(params["fill"], x - 2, axis=0, mode="fill", fill_value=0.5)
        clipped = jnp.take(params["clip"], x, axis=0, mode="clip")
        return jnp.tanh(filled * clipped).sum(1)

    params = {"fill": normal(5, 4), "clip": normal(4, 4, seed=1)}
    agree(apply, params, jnp.asarray([[0, 6, 6], [1, 2, 1], [9, 3, 2]]), {"clip": "factors of gat"})


def test_many_positions_take_the_jacobian_route_and_few_the_factors():
    def block(positions):
        return structured.Block(
            terms=(structured.Term(normal(2, positions, 1, 3), normal(2, 4, positions, 1, 5)),)
        )

    few, many = block(1), block(64)
    assert contract.flops(few, few, "trace")[0] == "factors"
    assert contract.flops(many, many, "trace")[0] == "jacobian"


def test_layers_under_scan_and_recurrent_cells():
    def apply(params, x):
        def layer(h, p):
            return jnp.tanh(h @ p["w"] + p["b"][None]), h.sum(1)

        h, sums = jax.lax.scan(layer, x, params["stacked"])

        def cell(state, _):
            return jnp.tanh(state @ params["cell"]), None

        h, _ = jax.lax.scan(cell, h, None, length=3)
        return h + sums.sum(0)[:, None]

    params = {"stacked": {"w": normal(3, 4, 4), "b": normal(3, 4)}, "cell": normal(4, 4, seed=2)}
    how = {"stacked/w": "factors", "cell": "factors", "stacked/b": "plain"}
    agree(apply, params, normal(3, 4, seed=1), how)


def test_what_has_no_rule_falls_back_for_that_parameter_alone():
    @jax.custom_vjp
    def scaled(w, x):
        return x @ w

    # A rule that is not the true derivative: the kernel must be that of the rule.
    scaled.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (3 * r[1].T @ g, g @ r[0].T))

    def apply(params, x):
        unit = params["norm"] / jnp.linalg.norm(params["norm"])
        h = jnp.tanh(x @ unit + scaled(params["custom"], x))
        h = jax.lax.cond(h.sum() > 0, lambda h: h @ params["branch"], jnp.sin, h)
        both = params["shared"][:2, :3] + params["shared"][1:, 1:]  # overlapping parts
        constant = jax.lax.stop_gradient(params["dense"])
        return jnp.tanh(h @ params["dense"] + h @ constant) @ both.T

    names = ("norm", "custom", "branch", "dense")
    params = {name: normal(3, 3, seed=i) for i, name in enumerate(names)}
    params["shared"] = normal(3, 4, seed=9)
    how = {name: "plain" for name in ("norm", "custom", "branch", "shared")} | {"dense": "factors"}
    agree(apply, params, normal(3, 3, seed=8), how)


def test_overlapping_uses_of_one_parameter():
    def apply(params, x):
        w = params["w"]
        return jnp.tanh(x @ w[:4]) @ w[1:5] + jnp.tanh(x @ w[:4]) @ w[:4]

    agree(apply, {"w": normal(5, 4)}, normal(3, 4, seed=1), {"w": "plain Jacobian (its uses"})


def test_custom_slope_of_relu_at_zero_is_kept():
    apply = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
    params = {"w": normal(3, 4).at[:, 0].set(0.0), "v": normal(4, 2)}  # unit 0 sits at 0
    agree(apply, params, normal(3, 3, seed=1), {"w": "factors"})


def test_rematerialised_layers_keep_their_structure():
    layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))
    apply = lambda p, x: layer(p["a"], layer(p["b"], x))
    params = {"a": normal(3, 3), "b": normal(3, 3, seed=1)}
    agree(apply, params, normal(3, 3, seed=2), {"a": "factors", "b": "factors"})


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


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
def test_jacobians_formed_in_slices(x64, monkeypatch, outputs):
    """Blocks of two terms between 2 and 3 examples, and of one set with itself; 31 = 3 8 + 7."""
    monkeypatch.setattr(contract, "_SLICE", 3 * 2 * 2 * 20 * 8)
    rng = np.random.default_rng(0)

    def block(num):
        term = lambda: Term(rng.normal(size=(num, 8, 2, 31)), rng.normal(size=(num, 2, 8, 2, 20)))
        return Block(terms=(term(), term()))

    def dense(block):  # [N, C, P]
        each = [np.einsum("nsgi,ncsgo->ncgio", term.left, term.right) for term in block.terms]
        return sum(each).reshape(len(each[0]), 2, -1)

    one, two = block(2), block(3)
    spec = {"full": "ncp,mdp->nmcd", "diagonal": "ncp,mcp->nmc", "trace": "ncp,mcp->nm"}[outputs]
    for a, b in ((one, two), (two, two)):
        num, pairs = (3, 9) if a is b else (5, 6)
        entries = 2 * 31 * 20
        forming = 2 * 2 * num * 2 * 8 * entries
        inner = 2 * pairs * entries * (4 if outputs == "full" else 2)
        assert contract.flops(a, b, outputs) == ("jacobian", forming + inner)
        kernel = functools.partial(contract.block_kernel, a, b, outputs)
        assert "scan" in str(jax.make_jaxpr(kernel)())
        expected = np.einsum(spec, dense(a), dense(b))
        np.testing.assert_allclose(jax.jit(kernel)(), expected, rtol=1e-10)
