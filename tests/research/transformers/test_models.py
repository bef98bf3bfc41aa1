"""Models: causality, cached decoding, scanned and recomputed layers, placement on a mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.testing import assert_trees_close
from research.attention import cache as attention_cache
from research.attention import masks
from research.language_models import caches, generation
from research.transformers import layers, losses, models, published
from tests.research.language_models import decoders
from tests.research.transformers import cases

DECODERS = ("gpt2", "nano", "llama", "gemma")
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 8))


@pytest.mark.parametrize("name", DECODERS)
def test_cached_decoding_equals_the_full_pass_and_nothing_sees_the_future(name, x64):
    """A prompt of 5 and three single tokens; the second sequence is padded on the left by 2."""
    config = cases.TINY[name]
    params, model = cases.random_params(config), models.Decoder(config)
    positions = jnp.stack([jnp.arange(8), jnp.arange(8) - 2])
    step = jax.jit(
        lambda tokens, positions, cache: model.apply(params, tokens, positions, cache=cache)
    )
    cache, start, parts = models.empty_cache(config, 2, 8, jnp.float64), 0, []
    for size in (5, 1, 1, 1):
        part = slice(start, start + size)
        logits, cache = step(TOKENS[:, part], positions[:, part], cache)
        parts.append(logits)
        start += size
    decoded = jnp.concatenate(parts, 1)
    full = jax.jit(lambda tokens: model.apply(params, tokens))
    whole = full(TOKENS)
    np.testing.assert_allclose(decoded[0], whole[0], rtol=1e-10, atol=1e-12)
    shifted = np.roll(TOKENS[1:], -2, axis=1)
    np.testing.assert_allclose(decoded[1, 2:], full(shifted.repeat(2, 0))[0, :6], atol=1e-12)
    changed = full(np.where(np.arange(8) == 5, (TOKENS + 1) % 11, TOKENS))
    np.testing.assert_array_equal(changed[:, :5], whole[:, :5])
    assert (np.abs(changed - whole)[:, 5:].max(-1) > 1e-6).all()


def test_unrolled_recomputed_and_blocked_layers_change_nothing(x64):
    """All three at once against none: two compiled gradients."""
    config = cases.TINY["llama"]
    params, batch = cases.random_params(config), {"tokens": jnp.asarray(TOKENS)}

    def gradient(**options):
        stack = dataclasses.replace(config.stack, **options)
        model = models.Decoder(dataclasses.replace(config, stack=stack))
        loss = losses.next_token(model.apply)
        return jax.jit(jax.grad(lambda params: loss(params, {}, None, batch)[0]))(params)

    changed = gradient(unroll=2, remat=True, implementation="blocked")
    assert_trees_close(changed, gradient(), rtol=1e-9, atol=1e-12)


def test_recomputing_layers_saves_memory():
    def temporaries(remat):
        stack = dataclasses.replace(cases.TINY["gpt2"].stack, depth=8, width=24, remat=remat)
        model = models.Decoder(dataclasses.replace(cases.TINY["gpt2"], stack=stack, max_length=64))
        tokens = jax.ShapeDtypeStruct((4, 65), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), int))
        loss = losses.next_token(model.apply)
        gradient = jax.grad(lambda params, tokens: loss(params, {}, None, {"tokens": tokens})[0])
        return jax.jit(gradient).lower(params, tokens).compile().memory_analysis()

    assert temporaries(True).temp_size_in_bytes < 0.5 * temporaries(False).temp_size_in_bytes


def test_packed_documents_are_as_if_alone(x64):
    config = published.llama(11, 2, 12, 20, 4, 2, 6)  # rotary: positions may start anywhere
    params, apply = cases.random_params(config), jax.jit(models.Decoder(config).apply)
    ids = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1]] * 2)
    packed = apply(params, TOKENS, mask=masks.Documents(ids))
    np.testing.assert_allclose(packed[:, :3], apply(params, TOKENS[:, :3]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(packed[:, 3:], apply(params, TOKENS[:, 3:]), rtol=1e-10, atol=1e-12)


def test_t5_decodes_with_a_cache_and_ignores_padding(x64):
    config = cases.TINY["t5"]
    params, model = cases.random_params(config), models.EncoderDecoder(config)
    mask = masks.Padding(jnp.array([8, 4]))
    full = jax.jit(lambda source: model.apply(params, source, TOKENS[:, :5], mask))
    whole = full(TOKENS)
    changed = np.where(np.arange(8) < np.array([[8], [4]]), TOKENS, 3)
    np.testing.assert_array_equal(full(changed), whole)
    memory = jax.jit(lambda: model.apply(params, TOKENS, mask, method="encode"))()

    @jax.jit
    def step(token, position, cache):
        options = {"positions": position, "cache": cache, "method": "decode"}
        return model.apply(params, token, memory, mask, **options)

    cache = models.empty_cache(models.DecoderConfig(11, config.decoder), 2, 5, jnp.float64)
    for t in range(5):
        logits, cache = step(TOKENS[:, t : t + 1], jnp.full((1, 1), t), cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], rtol=1e-10, atol=1e-12)


def test_dropout_keeps_the_mean_and_needs_a_key():
    x = jnp.ones((100, 100))
    dropped = layers.dropout(jax.random.key(0), x, 0.2)
    assert set(np.unique(dropped)) == {0.0, np.float32(1.25)}
    assert abs(dropped.mean() - 1) < 0.02  # 4 standard errors of 0.005
    np.testing.assert_array_equal(layers.dropout(None, x, 0.2), x)


@pytest.mark.parametrize("make", [attention_cache.contiguous, caches.int8, decoders.pages])
def test_layers_apart_are_the_layers_of_the_stack(make):
    """Piece by piece through every kind of cache, and what the caches hold."""
    config = decoders.LLAMA
    step, params = decoders.decoder(config)
    cache = models.empty_cache(config, 3, 16, make=make)
    config, apart, rows = models.unstack(config, params, cache)
    tokens, places = decoders.TOKENS, np.tile(np.arange(6), (3, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def twice(step, params, cache):
        first, cache = step(params, cache, tokens[:, :6], places)
        second, cache = step(params, cache, tokens[:, 6:], places + 6)
        return jnp.concatenate([first, second], 1), cache

    expected, whole = twice(step, params, cache)
    logits, rows = twice(generation.DecoderStep(models.Decoder(config)), apart, rows)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert len(rows) == 2
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), stacked, whole
    )
    with pytest.raises(ValueError, match="apart already"):
        models.unstack(config, apart)


def pair(**halves):
    """T5's halves with other fields."""
    config = cases.TINY["t5"]
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in halves.items()
    }
    return dataclasses.replace(config, **changed)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_models_drop_with_a_key_only(name):
    """At rate 1/2 in one layer; without a key, or at rate 0, the program has no draw in it."""
    stacks = ("encoder", "decoder") if name == "t5" else ("stack",)

    def at_rate(rate):
        config, options = cases.TINY[name], {"dropout": rate, "depth": 1}
        changed = {n: dataclasses.replace(getattr(config, n), **options) for n in stacks}
        return dataclasses.replace(config, **changed)

    kind = {"gpt2": models.Decoder, "bert": models.Encoder, "t5": models.EncoderDecoder}[name]
    given = (TOKENS, TOKENS[:, :5]) if name == "t5" else (TOKENS,)
    params = cases.random_params(at_rate(0.5), dtype=np.float32)

    def program(rate, rng):
        return str(jax.make_jaxpr(lambda: kind(at_rate(rate)).apply(params, *given, rng=rng))())

    assert program(0.5, None) == program(0.0, None)
    assert "random_bits" not in program(0.0, jax.random.key(0))

    @jax.jit
    def run(rng):
        model = kind(at_rate(0.5))
        dropped, whole = (model.apply(params, *given, rng=key) for key in (rng, None))
        if name == "t5":  # the halves, each with its own key
            first, second = jax.random.split(rng)
            memory = model.apply(params, TOKENS, rng=first, method="encode")
            return (
                dropped,
                whole,
                model.apply(params, given[1], memory, rng=second, method="decode"),
            )
        return (dropped, whole) if name == "gpt2" else (dropped["logits"], whole["logits"])

    dropped, whole, *halves = run(jax.random.key(0))
    assert np.abs(dropped - whole).mean() > 0.1 * np.abs(whole).mean()
    for again in halves:
        np.testing.assert_allclose(again, dropped, rtol=1e-4, atol=1e-5)


def test_an_untied_and_scaled_pair_by_hand(x64):
    """Its logits are those of the tied one on the same hidden vectors, under its own matrix."""
    halves = {name: {"depth": 1} for name in ("encoder", "decoder")}
    config = dataclasses.replace(pair(**halves), embed_scale=3.0)
    params, untied = cases.random_params(config), dataclasses.replace(config, tied=False)
    table = params["params"]["embedding"]
    model, apart = models.EncoderDecoder(config), models.EncoderDecoder(untied)
    wider = {"params": {**params["params"], "output": {"kernel": 2 * table.T}}}
    shapes = jax.eval_shape(apart.init, jax.random.key(0), TOKENS, TOKENS)
    assert jax.tree.map(jnp.shape, wider) == jax.tree.map(jnp.shape, shapes)

    @jax.jit
    def run():
        scaled = {"params": {**params["params"], "embedding": 3 * table}}
        plain = models.EncoderDecoder(dataclasses.replace(config, embed_scale=1.0))
        logits = [
            m.apply(p, TOKENS, TOKENS[:, :5])
            for m, p in ((model, params), (apart, wider), (plain, scaled))
        ]
        return logits

    tied, other, scaled = run()
    np.testing.assert_allclose(other, 2 * tied, rtol=1e-10)
    np.testing.assert_allclose(scaled, 3 * tied, rtol=1e-10)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.init(jax.random.key(0), jnp.zeros((1, 9), int)), "9 tokens: .* 8 positions"),
        (lambda m: m.init(jax.random.key(0), jnp.zeros((1, 9))), r"expected int \[B, T\]"),
        (lambda m: models.empty_cache(m.config, 1, 9), "9 tokens: the model has 8 positions"),
        (
            lambda m: m.init(
                jax.random.key(0),
                jnp.zeros((1, 2), int),
                cache=models.empty_cache(m.config, 1, 8),
            ),
            "needs the positions",
        ),
        (lambda m: layers.Stack(0, 1, 1, 1), ">= 1"),
        (lambda m: layers.Stack(1, 4, 1, 1, window=0), "window=0: expected at least 1"),
        (lambda m: layers.Stack(1, 4, 1, 1, num_buckets=0), "num_buckets=0"),
        (lambda m: layers.Stack(1, 4, 1, 1, num_kv_heads=0), "num_kv_heads=0"),
        (lambda m: layers.Stack(1, 4, 1, 1, head_dim=-1), "head_dim=-1"),
        (lambda m: layers.Stack(1, 4, 1, 1, num_buckets=8, alibi=True), "expected one bias"),
        (
            lambda m: layers.Layers(m.config.stack).init(
                jax.random.key(0), jnp.zeros((1, 2, 12)), memory=jnp.zeros((1, 2, 12))
            ),
            "cross=False and a memory of",
        ),
        (lambda m: pair(decoder={"cross": False}), "are .*: expected encoder.causal=False"),
        (lambda m: pair(decoder={"causal": False}), "are .False, False, False, True."),
        (lambda m: pair(encoder={"causal": True}), "are .True, False, True, True."),
        (lambda m: pair(encoder={"width": 15}), "widths 15 and 12 differ"),
        (lambda m: layers.Stack(1, 4, 1, 1, dropout=1.0), "dropout=1.0"),
        (lambda m: models.EncoderConfig(11, cases.TINY["gpt2"].stack), "causal=False"),
        (lambda m: published.bert(1, 4, 1, next_sentence=True), "needs the pooler"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: call(models.Decoder(cases.TINY["gpt2"])))


def test_tokens_without_segments_are_of_the_first():
    config = cases.TINY["bert"]
    params, model = cases.random_params(config, dtype=np.float32), models.Encoder(config)
    tokens, segments = jnp.array([[1, 2, 3]]), jnp.array([[0, 0, 0], [1, 1, 1]])
    apply = jax.jit(lambda *segments: model.apply(params, tokens, *segments)["hidden"])
    none, first, second = apply(), apply(segments[:1]), apply(segments[1:])
    np.testing.assert_allclose(none, first, atol=1e-5)
    assert np.abs(first - second).max() > 1e-2
