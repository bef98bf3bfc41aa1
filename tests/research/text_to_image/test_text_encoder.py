"""CLIP's text encoder against NumPy, its counts, and what it conditions on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import text_encoder
from research.transformers import layers
from tests.research.text_to_image import oracle

SIZES = dict(depth=3, width=12, num_heads=3, vocab_size=11, max_length=7)
TOKENS = np.array([[3, 4, 10, 10, 5], [9, 1, 2, 6, 10]])


def filled(model, tokens=TOKENS):
    """Parameters of a model, each a fixed random array."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(tokens))
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), shapes)


def by_hand(model, params, tokens, activation):
    """Inputs of every layer, output of the last after its norm, for one text."""
    params = oracle.to_numpy(params["params"])
    x = params["embedding"][tokens] + params["positions"][: len(tokens)]
    inputs = []
    for index in range(model.stack.depth):
        inputs.append(x)
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"]["layer"])
        maps = layer["attention"]
        h = oracle.layer_norm(x, layer["attention_norm"], model.stack.norm.epsilon)
        heads = [
            np.einsum("td,dhk->thk", h, maps[name]["kernel"]) + maps[name]["bias"]
            for name in ("query", "key", "value")
        ]
        mixed = oracle.attend(*heads, causal=True)
        x = x + np.einsum("thk,hkd->td", mixed, maps["out"]["kernel"]) + maps["out"]["bias"]
        h = oracle.layer_norm(x, layer["mlp_norm"], model.stack.norm.epsilon)
        h = oracle.dense(activation(oracle.dense(h, layer["mlp"]["up"])), layer["mlp"]["down"])
        x = x + h
    return inputs, oracle.layer_norm(x, params["final_norm"], model.stack.norm.epsilon)


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, oracle.quick_gelu),
        ({"skip_last": True, "projection_dim": 5, "epsilon": 0.1, "hidden_dim": 20,
          "activation": layers.gelu_exact, "end_token": 5}, oracle.gelu),
        ({"projection_dim": 4}, oracle.quick_gelu),
    ],
)  # fmt: skip
def test_hidden_states_and_pooled_text(x64, options, activation):
    model = text_encoder.clip(**SIZES, **options)
    params = filled(model)
    hidden, pooled = jax.jit(model.apply)(params, TOKENS)
    ends = {None: [2, 4], 5: [4, 0]}[model.end_token]  # the first of the highest number, or of 5
    for row, text in enumerate(TOKENS):
        inputs, last = by_hand(model, params, text, activation)
        expected = inputs[-1] if model.skip_last else last
        np.testing.assert_allclose(hidden[row], expected, rtol=1e-10, atol=1e-12)
        if model.projection_dim is None:
            assert pooled is None
        else:
            expected = last[ends[row]] @ params["params"]["projection"]["kernel"]
            np.testing.assert_allclose(pooled[row], expected, rtol=1e-10, atol=1e-12)


def test_defaults_are_clips():
    model = text_encoder.clip(2, 8, 2)
    plain = text_encoder.TextEncoder(49_408, model.stack)
    assert model == plain and hash(model) == hash(plain)
    assert (model.max_length, model.skip_last, model.projection_dim, model.end_token) == (
        77, False, None, None
    )  # fmt: skip
    stack = model.stack
    assert (stack.hidden_dim, stack.activation) == (32, text_encoder.quick_gelu)
    assert (stack.causal, stack.pre_norm, stack.norm) == (True, True, layers.Norm("layer", 1e-5))


def test_one_more_row_leaves_the_rest_as_it_is(x64):
    model = text_encoder.clip(**SIZES, projection_dim=4)
    params = filled(model)
    row = np.linspace(-1, 1, 12)
    grown, more = text_encoder.with_row(model, params, row)
    assert (grown.vocab_size, grown.end_token) == (12, 10) and grown.stack == model.stack
    same = jax.tree.map(lambda a, b: a is b, more["params"], params["params"])
    assert [key for key, leaf in same.items() if leaf is False] == ["embedding"]
    np.testing.assert_array_equal(more["params"]["embedding"][-1], row)
    np.testing.assert_array_equal(more["params"]["embedding"][:-1], params["params"]["embedding"])
    before, after = model.apply(params, TOKENS), grown.apply(more, TOKENS)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert text_encoder.with_row(model.clone(end_token=3), params, row)[0].end_token == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(3, int), r"tokens int64\[3\]: expected int \[B, T\]"),
        (np.zeros((1, 3)), r"tokens float64\[1, 3\]: expected int \[B, T\]"),
        (np.zeros((1, 8), int), "8 tokens: the model has 7 positions"),
        (np.full((1, 2), 11), r"tokens: 11 is outside \[0, 11\)"),
    ],
)
def test_bad_tokens(tokens, message):
    model = text_encoder.clip(**SIZES)
    with pytest.raises(ValueError, match=message):
        model.apply({}, tokens)


def test_bad_row():
    model = text_encoder.clip(**SIZES)
    with pytest.raises(ValueError, match=r"row \[3\]: expected \[12\]"):
        text_encoder.with_row(model, filled(model), np.zeros(3))
