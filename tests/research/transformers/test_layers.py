"""What a stack's fields mean: windows, norms, buckets by direction, relative and learned places."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import positions
from research.transformers import layers, models
from tests.research.transformers import cases

TOKENS = np.random.default_rng(0).integers(0, 11, (1, 18))


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
