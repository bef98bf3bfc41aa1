"""The diffusion transformer against NumPy, at init, and its refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import dit
from tests.research.text_to_image import cases, oracle
from tests.research.text_to_image.test_blocks import filled

NET = dit.DiT(
    in_channels=3, out_channels=2, context_dim=5, patch=2, depth=2, width=8, num_heads=2,
    mlp_ratio=3,
)  # fmt: skip
RNG = np.random.default_rng(0)
ARGS = (RNG.normal(size=(2, 4, 2, 3)), np.zeros(2), RNG.normal(size=(2, 3, 5)))


def normed(x):
    return oracle.layer_norm(x, {"scale": 1.0, "bias": 0.0}, 1e-6)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def positions(rows, columns, width):
    """Sines and cosines of the row, then of the column, token by token."""
    table = []
    for row in range(rows):
        for column in range(columns):
            angles = [
                [place * 10_000 ** (-4 * k / width) for k in range(width // 4)]
                for place in (row, column)
            ]
            table.append(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)]))
    return np.array(table)


def by_hand(params, net, latents, t, context):
    """The whole network for one example."""
    height, width, _ = latents.shape
    p = net.patch
    tokens = [
        latents[i : i + p, j : j + p].ravel() for i in range(0, height, p)
        for j in range(0, width, p)
    ]  # fmt: skip
    condition = oracle.silu(oracle.embedding(params["time"], oracle.sines(t, 256)))
    h = oracle.dense(np.array(tokens), params["patches"])
    h = h + positions(height // p, width // p, net.width)
    for index in range(net.depth):
        block = params[f"block{index}"]
        shift, scale, gate, shift2, scale2, gate2 = np.split(
            oracle.dense(condition, block["modulation"]), 6
        )
        x = normed(h) * (1 + scale) + shift
        h = h + gate * oracle.attention(block["attention"], x, x, net.num_heads)
        x = oracle.layer_norm(h, block["cross_norm"], 1e-6)
        h = h + oracle.attention(block["cross"], x, context, net.num_heads)
        x = normed(h) * (1 + scale2) + shift2
        h = h + gate2 * oracle.dense(gelu_tanh(oracle.dense(x, block["up"])), block["down"])
    shift, scale = np.split(oracle.dense(condition, params["modulation"]), 2)
    h = oracle.dense(normed(h) * (1 + scale) + shift, params["head"])
    rows = h.reshape(height // p, width // p, p, p, -1)
    return rows.transpose(0, 2, 1, 3, 4).reshape(height, width, -1)


def test_the_network_is_as_written_out(x64):
    params = filled(NET, *ARGS)
    apply = jax.jit(NET.apply)
    numbers = oracle.to_numpy(params["params"])
    for row, one in enumerate(zip(*ARGS)):
        expected = by_hand(numbers, NET, *one)
        np.testing.assert_allclose(apply(params, *ARGS)[row], expected, rtol=1e-9)
    later = apply(params, ARGS[0], np.array([3.0, 700.0]), ARGS[2])
    for row, t in enumerate((3.0, 700.0)):
        expected = by_hand(numbers, NET, ARGS[0][row], t, ARGS[2][row])
        # float32 features: an angle of 700 is off by up to 3e-5, its frequency by 5e-7 of it.
        np.testing.assert_allclose(later[row], expected, atol=1e-3 * np.abs(expected).max())


def test_an_initial_network_predicts_zero_and_its_blocks_pass():
    args = tuple(jnp.asarray(x, jnp.float32) for x in ARGS)
    tokens, condition = jnp.ones((2, 3, 8)), jnp.ones((2, 8))
    block = dit.Block(2, 4)

    @jax.jit
    def outputs(rng):
        passed = block.apply(block.init(rng, tokens, condition, args[2]), tokens, condition,
                             args[2])  # fmt: skip
        return NET.apply(NET.init(rng, *args), *args), passed

    predicted, passed = outputs(jax.random.key(0, impl="rbg"))
    np.testing.assert_array_equal(predicted, np.zeros((2, 4, 2, 2)))
    np.testing.assert_array_equal(passed, tokens)


def test_defaults_and_counts():
    assert dit.DiT() == dit.DiT(
        in_channels=4, out_channels=4, context_dim=768, patch=2, depth=12, width=384, num_heads=6,
        mlp_ratio=4,
    )  # fmt: skip
    assert (NET.factor, NET.clone(patch=1).factor, NET.pooled_dim) == (2, 1, None)
    shapes = jax.eval_shape(NET.init, jax.random.key(0), *ARGS)
    d, c, hidden = 8, 5, 24
    block = 6 * d * (d + 1) + 2 * 4 * d * d + 2 * d - 2 * d * (d - c) + 2 * d
    block += d * hidden * 2 + hidden + d
    rest = 256 * d + d + d * (d + 1) + (12 * d + d) + 2 * d * (d + 1) + d * 8 + 8
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2 * block + rest


def test_a_model_takes_it():
    model = dataclasses.replace(cases.SD1, unet=NET.clone(in_channels=4, out_channels=4,
                                                          context_dim=8))  # fmt: skip
    assert model.unet.factor == 2 and not model.inpaints and hash(model) != hash(cases.SD1)


@pytest.mark.parametrize(
    ("net", "changed", "message"),
    [
        (NET, {"latents": (2, 4, 2, 4)}, r"latents \[2, 4, 2, 4\]: expected \[B, h, w, 3\]"),
        (NET, {"latents": (2, 4, 3, 3)}, "latents of 4 x 3: expected multiples of patch=2"),
        (NET, {"t": (1,)}, r"t \[1\]: expected a step for each example, \[2\]"),
        (NET, {"context": (2, 3, 4)}, r"context \[2, 3, 4\]: expected \[2, T, 5\]"),
        (NET, {"pooled": (2, 3)}, "pooled and sizes are given"),
        (NET, {"sizes": (2, 6)}, "pooled and sizes are given"),
        (NET.clone(width=10), {}, "width=10: expected a multiple of 4 and of num_heads=2"),
        (NET.clone(num_heads=3), {}, "width=8: expected a multiple of 4 and of num_heads=3"),
    ],
)
def test_bad_input(net, changed, message):
    given = dict(zip(("latents", "t", "context"), ARGS))
    given |= {name: jnp.zeros(shape) for name, shape in changed.items()}
    with pytest.raises(ValueError, match=message):
        net.apply({}, **given)
