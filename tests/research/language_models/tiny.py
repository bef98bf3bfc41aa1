"""A decoder with random weights, with any cache or without; what runs it; counts of its draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from research.attention import cache as attention_cache
from research.language_models import caches, generation

VOCAB, HEADS, WIDTH, PLACES = 7, 2, 8, 64


def init(seed=0, layers=2, vocab=VOCAB):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)

    embed, place, head = normal(vocab, WIDTH), normal(PLACES, WIDTH), normal(WIDTH, vocab)
    blocks = [{name: normal(WIDTH, WIDTH) for name in "qkvo"} for _ in range(layers)]
    return {"embed": 4 * embed, "place": 8 * place, "head": 3 * head, "blocks": blocks}


def step(params, cache, tokens, positions, window=None):
    """Logits and the cache, leaves [L, ...]."""
    x = jnp.asarray(params["embed"])[tokens] + jnp.asarray(params["place"])[positions]  # [B, T, D]
    out = []
    for index, block in enumerate(params["blocks"]):
        q, k, v = (
            jnp.einsum("btd,de->bte", x, block[name]).reshape(*tokens.shape, HEADS, -1)
            for name in "qkv"
        )
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], cache)
        layer, keys, values, slots = layer.update(k, v, positions)
        scores = jnp.einsum("bthk,bshk->bhts", q, keys) / q.shape[-1] ** 0.5
        gap = positions[:, :, None] - slots[:, None, :]
        seen = (gap >= 0) & (slots >= 0)[:, None, :] & (gap < (window or PLACES))
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, values).reshape(x.shape)
        x = x + jnp.tanh(jnp.einsum("btd,de->bte", mixed, block["o"]))
        out.append(layer)
    cache = jax.tree.map(lambda *leaves: jnp.stack(leaves), *out)
    return jnp.einsum("btd,dv->btv", x, params["head"]), cache


@functools.partial(jax.jit, static_argnames="window")
def full(params, tokens, window=None):
    """Logits [B, T, V] of whole sequences, by attention without any cache."""
    length = tokens.shape[1]
    x = params["embed"][tokens] + params["place"][:length][None]
    gap = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    seen = (gap >= 0) & (gap < (window or length))
    for block in params["blocks"]:
        q, k, v = (
            jnp.einsum("btd,de->bte", x, block[name]).reshape(*tokens.shape, HEADS, -1)
            for name in "qkv"
        )
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf), axis=-1)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v).reshape(x.shape)
        x = x + jnp.tanh(jnp.einsum("btd,de->bte", mixed, block["o"]))
    return jnp.einsum("btd,dv->btv", x, params["head"])


def empty(batch, length, make=attention_cache.contiguous, layers=2, **kwargs):
    return make(layers, batch, length, HEADS, WIDTH // HEADS, **kwargs)


def paged(batch, per_row, num_pages, size, layers=2):
    make = functools.partial(caches.paged, num_pages=num_pages, page_size=size)
    return empty(batch, per_row, make, layers)


@functools.partial(jax.jit, static_argnames=("shape", "per_row"))
def spread(cache, shape, per_row):
    """Pages in scattered order, another for each row; shape is (rows, pages to choose from)."""
    order = np.random.default_rng(1).permutation(shape[1])[: shape[0] * per_row]
    for row, pages in enumerate(order.reshape(shape[0], per_row)):
        cache = cache.assign(row, jnp.asarray(pages))
    return cache


def generate(prompts, lengths, rngs, make=attention_cache.contiguous, **options):
    """By one layer, with 24 slots a row: what is tested is the loop around it."""
    cache = empty(len(prompts), 24, make, layers=1)
    arguments = (init(layers=1), cache, jnp.asarray(prompts), jnp.asarray(lengths), rngs)
    return generation.generate(step, *arguments, **options)


def check_counts(counts, probs, alarm=1e-4):
    """Pearson's test at a false-alarm rate; what has no probability never comes."""
    probs = np.asarray(probs, np.float64)
    assert counts[probs == 0].sum() == 0
    counts, probs = counts[probs > 0], probs[probs > 0]
    assert stats.chisquare(counts, counts.sum() * probs / probs.sum()).pvalue > alarm
