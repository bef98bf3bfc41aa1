"""Real decoders, small: of GPT-2, of LLaMA, one with a window; run whole or in pieces."""

import functools

import jax
import numpy as np

from research.attention import positions
from research.language_models import caches, generation
from research.transformers import layers, models, published
from tests.research.language_models import tiny
from tests.research.transformers.cases import random_params

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
    """Logits of TOKENS fed in pieces of this size."""
    step, params = decoder(config)
    run, out = jax.jit(step), []
    for start in range(0, 12, piece):
        places = np.tile(np.arange(start, start + piece), (3, 1))
        logits, cache = run(params, cache, TOKENS[:, start : start + piece], places)
        out.append(logits)
    return np.concatenate(out, axis=1)


def pages(num_layers, batch, length, *sizes):
    """A cache of pages of 4 that are spread already; as `make` of `models.empty_cache`."""
    cache = caches.paged(num_layers, batch, length // 4, *sizes, num_pages=12, page_size=4)
    return tiny.spread(cache, (batch, 12), length // 4)
