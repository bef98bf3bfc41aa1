"""A two-layer decoder with random weights: one function with any cache, one without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from research.attention import cache as attention_cache
from research.language_models import caches

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
