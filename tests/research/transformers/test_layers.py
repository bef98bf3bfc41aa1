"""What a stack's fields mean: windows, norms, buckets by direction, relative and learned places."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import positions
from research.transformers import layers, models
from tests.research.attention import cases as attention_cases
from tests.research.transformers import cases

TOKENS = np.random.default_rng(0).integers(0, 11, (1, 18))


def standard(x, norm, kind="layer"):
    """A norm over features, by its definition; 1e-5 is the default epsilon."""
    x = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"]
    return y + norm["bias"] if "bias" in norm else y


def affine(x, params):
    """x times a kernel, over as many axes as the kernel has in front of its outputs."""
    kernel = params["kernel"]
    inputs = 2 if kernel.ndim == 3 and x.ndim == 4 else 1
    return np.tensordot(x, kernel, inputs) + params.get("bias", 0.0)


@pytest.mark.parametrize("pre_norm, gated", [(True, False), (True, True), (False, False)])
def test_layers_by_their_equations(pre_norm, gated, x64):
    """Two layers in NumPy: where norms stand, what is added, what a gate multiplies."""
    stack = layers.Stack(
        2, 8, 2, 12, norm=layers.Norm("rms" if gated else "layer"), pre_norm=pre_norm,
        activation=nn.silu if gated else nn.relu, gated=gated, use_bias=not gated,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    model = layers.Layers(stack)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.5 * noise.standard_normal(leaf.shape), shapes)
    out, _ = jax.jit(model.apply)(params, x)
    kind = stack.norm.kind

    def attention(x, p):
        query, key, value = (affine(x, p[name]) for name in ("query", "key", "value"))
        mixed = attention_cases.by_loops(query, key, value, lambda b, i, j: j <= i)
        return affine(mixed, p["out"])

    def perceptron(x, p):
        up = affine(x, p["up"])
        if not gated:
            return affine(np.maximum(up, 0), p["down"])
        gate = affine(x, p["gate"])
        return affine(gate / (1 + np.exp(-gate)) * up, p["down"])

    for index in range(2):
        p = jax.tree.map(lambda leaf, index=index: leaf[index], params["params"]["layers"])
        for name, branch in (("attention", attention), ("mlp", perceptron)):
            norm = p[f"{name}_norm"]
            if pre_norm:
                x = x + branch(standard(x, norm, kind), p[name])
            else:
                x = standard(x + branch(x, p[name]), norm, kind)
    x = standard(x, params["params"]["final_norm"], kind) if pre_norm else x
    np.testing.assert_allclose(out, x, rtol=1e-9, atol=1e-10)


def test_a_window_reaches_back_so_many_tokens(x64):
    """One layer: a changed token changes its own logits and those of the next two, no others."""
    stack = dataclasses.replace(cases.TINY["llama"].stack, depth=1, window=3)
    config = dataclasses.replace(cases.TINY["llama"], stack=stack)
    params, apply = cases.random_params(config), jax.jit(models.Decoder(config).apply)
    changed = np.where(np.arange(18) == 5, (TOKENS + 1) % 11, TOKENS)
    moved = np.abs(apply(params, changed) - apply(params, TOKENS)).max((0, 2))
    np.testing.assert_array_equal(np.flatnonzero(moved > 1e-9), [5, 6, 7])


def test_norms_come_where_they_should_and_start_at_one(x64):
    """Without learned changes: norms after the branches leave every token standardised."""
    x = 3 * jax.random.normal(jax.random.key(0), (2, 5, 12), jnp.float64) + 1
    after = layers.Layers(layers.Stack(2, 12, 3, 20, pre_norm=False, causal=False))
    y = np.asarray(jax.jit(after.init_with_output)(jax.random.key(1), x)[0][0])
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)  # epsilon
    gemma, plain = layers.Norm("rms", 0.0, scale_offset=1.0), layers.Norm("rms", 0.0)
    scale = np.linspace(-0.5, 0.5, 12)
    wide = np.asarray(x)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True)) * (1 + scale)
    for norm, learned in ((gemma, scale), (plain, 1 + scale)):
        out = jax.jit(norm(None).apply)({"params": {"scale": learned}}, x)
        np.testing.assert_allclose(out, expected, rtol=1e-12)
    started = jax.jit(gemma(None).init)(jax.random.key(0), x)["params"]["scale"]
    np.testing.assert_array_equal(started, 0)


def test_buckets_know_both_sides_in_the_encoder_and_the_past_in_the_decoder(x64):
    """Rows of T5's two tables that a gradient reaches, at distances up to 17."""
    config = cases.TINY["t5"]
    params, apply = cases.random_params(config), models.EncoderDecoder(config).apply
    gradient = jax.jit(jax.grad(lambda params: jnp.sin(apply(params, TOKENS, TOKENS)).sum()))
    tables = gradient(params)["params"]
    reached = {
        half: set(np.flatnonzero(np.abs(tables[half]["buckets"]).max(1) > 0))
        for half in ("encoder", "decoder")
    }
    offsets = np.arange(-17, 18)
    for half, seen, both in (("encoder", offsets, True), ("decoder", offsets[:18], False)):
        assert reached[half] == set(np.asarray(positions.bucket(seen, 32, both, 128))), half
    assert {17, 18} <= reached["encoder"] and max(reached["decoder"]) == 16


@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_relative_places_may_be_shifted_and_learned_ones_not(kind, x64):
    """Of the target; source and target differ in length. The memory is attended without places."""
    options = {"rope": positions.Rope()} if kind == "rotary" else {}
    halves = [
        dataclasses.replace(half, num_buckets=None, depth=1, **{**options, "head_dim": 4})
        for half in (cases.TINY["t5"].encoder, cases.TINY["t5"].decoder)
    ]
    length = {"max_length": 7} if kind == "learned" else {}
    config = models.EncoderDecoderConfig(11, *halves, **length)
    model, params = models.EncoderDecoder(config), cases.random_params(config)

    @jax.jit
    def logits(shift):
        memory = model.apply(params, TOKENS[:, :7], method="encode")
        i = jnp.arange(4)[None] + shift
        return model.apply(params, TOKENS[:, :4], memory, positions=i, method="decode")

    apart = np.abs(logits(0) - logits(3)).max()
    assert apart < 1e-10 if kind == "rotary" else apart > 1e-3
    if kind == "learned":
        assert params["params"]["source_positions"].shape == (7, 12)
        with pytest.raises(ValueError, match="8 tokens: the model has 7 positions"):
            jax.eval_shape(lambda: model.apply(params, TOKENS[:, :8], TOKENS[:, :4]))
        with pytest.raises(ValueError, match="sinusoidal and max_length"):
            dataclasses.replace(config, sinusoidal=True)
