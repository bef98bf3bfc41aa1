"""Real decoders: GPT-2's and LLaMA's form with every cache, in bytes, in batches, with drafts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.attention import positions
from research.language_models import caches, continuous_batching, generation, quantization, sampling
from research.transformers import layers, models, published
from tests.research.transformers.test_weights import random_params

VOCAB = 11
GPT2 = models.DecoderConfig(VOCAB, layers.Stack(2, 16, 2, 32), max_length=32)
LLAMA = published.llama(VOCAB, 2, 16, 24, 4, num_kv_heads=2, rope=positions.Rope())
WINDOWED = published.llama(VOCAB, 2, 16, 24, 4, num_kv_heads=1, window=4)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 12)).astype(np.int32)


@functools.cache
def decoder(config):
    """The step and parameters far from the quiet start."""
    params = random_params(config, dtype=np.float32, scale=0.5)
    return generation.DecoderStep(models.Decoder(config)), params


@functools.cache
def full(config):
    step, params = decoder(config)
    return np.asarray(jax.jit(step.model.apply)(params, TOKENS))


def feed(config, cache, piece):
    step, params = decoder(config)
    run, out = jax.jit(step), []
    for start in range(0, 12, piece):
        places = jnp.tile(jnp.arange(start, start + piece), (3, 1))
        logits, cache = run(params, cache, TOKENS[:, start : start + piece], places)
        out.append(logits)
    return np.concatenate(out, axis=1)


def pages(num_layers, batch, length, *sizes_):
    cache = caches.paged(num_layers, batch, length // 4, *sizes_, num_pages=12, page_size=4)
    order = np.random.default_rng(2).permutation(12).reshape(3, 4)
    for row in range(batch):
        cache = cache.assign(row, jnp.asarray(order[row]))
    return cache


@pytest.mark.parametrize("config", [GPT2, LLAMA, WINDOWED], ids=["gpt2", "llama", "window"])
def test_cached_is_full_and_pages_are_rows(config):
    logits = feed(config, models.empty_cache(config, 3, 16), 3)
    np.testing.assert_allclose(logits, full(config), rtol=1e-5, atol=2e-5)
    paged = feed(config, models.empty_cache(config, 3, 16, make=pages), 3)
    np.testing.assert_array_equal(paged, logits)


def test_a_ring_serves_a_window():
    """Window 4 fed 3 at a time needs 6 slots, not 5."""
    logits = feed(WINDOWED, models.empty_cache(WINDOWED, 3, 6, make=caches.ring), 3)
    np.testing.assert_allclose(logits, full(WINDOWED), rtol=1e-5, atol=2e-5)
    short = feed(WINDOWED, models.empty_cache(WINDOWED, 3, 5, make=caches.ring), 3)
    assert np.abs(short - full(WINDOWED)).max() > 1e-2


def test_bytes_change_logits_little():
    exact = full(LLAMA)
    cached = feed(LLAMA, models.empty_cache(LLAMA, 3, 12, make=caches.int8), 12)
    step, params = decoder(LLAMA)
    quantized = quantization.quantize_tree(params, 8, None, quantization.decoder_kernels)
    kinds = {
        path[-2].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            quantized, is_leaf=lambda leaf: isinstance(leaf, quantization.Quantized)
        )
        if isinstance(leaf, quantization.Quantized)
    }
    assert {"query", "key", "value", "out", "up", "gate", "down"} <= kinds
    run = jax.jit(lambda tree: step.model.apply(quantization.dequantize_tree(tree), TOKENS))
    for logits in (cached, run(quantized)):
        assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_continuous_batching_is_each_request_alone():
    step, params = decoder(LLAMA)
    sampler = sampling.Sampler(temperature=0.9, top_p=0.9)
    rngs = jax.random.split(jax.random.key(3), 5)
    counts = [3, 9, 1, 6, 9]
    requests = [
        continuous_batching.Request(TOKENS[0, : 2 + index], count, key)
        for index, (count, key) in enumerate(zip(counts, rngs))
    ]
    make = functools.partial(caches.paged, num_pages=6, page_size=4)
    cache = models.empty_cache(LLAMA, 2, 4, make=make)
    served = continuous_batching.serve(
        step, params, cache, requests, max_prompt=6, chunk=4, sampler=sampler
    )
    prompts = np.tile(TOKENS[0, :6], (5, 1))
    alone = generation.generate(
        step,
        params,
        models.empty_cache(LLAMA, 5, 16),
        jnp.asarray(prompts),
        jnp.arange(2, 7),
        rngs,
        num_tokens=9,
        sampler=sampler,
        capacity=16,
    )
    for row, count in enumerate(counts):
        np.testing.assert_array_equal(served[row], alone.tokens[row, :count])


@pytest.mark.parametrize("make", [attention_cache.contiguous, caches.int8, pages])
def test_layers_apart_are_the_layers_of_the_stack(make):
    """Piece by piece through every kind of cache, and what the caches hold."""
    step, params = decoder(LLAMA)
    cache = models.empty_cache(LLAMA, 3, 16, make=make)
    config, apart, rows = models.unstack(LLAMA, params, cache)
    places = jnp.tile(jnp.arange(6), (3, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def twice(step, params, cache):
        first, cache = step(params, cache, TOKENS[:, :6], places)
        second, cache = step(params, cache, TOKENS[:, 6:], places + 6)
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
