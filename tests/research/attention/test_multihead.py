"""The layer and its cache: cached steps equal the whole, unused slots do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as caches
from research.attention import masks, multihead, positions


def test_cached_steps_equal_the_whole(x64):
    """A prompt of 4, then tokens one by one, each sequence at its own offset."""
    layer = multihead.MultiHead(4, 6, num_kv_heads=2, rope=positions.Rope())
    x = jax.random.normal(jax.random.key(0), (2, 7, 10), jnp.float64)
    params = jax.jit(layer.init)(jax.random.key(1), x)
    offset = jnp.array([[0], [3]])
    apply = jax.jit(
        lambda x, i, cache: layer.apply(params, x, mask=masks.Causal(), positions=i, cache=cache)
    )
    whole, _ = apply(x, jnp.arange(7)[None], None)
    cache = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 2, 12, 2, 6, jnp.float64))
    parts, start = [], 0
    for size in (4, 1, 1, 1):
        i = offset + start + jnp.arange(size)[None]
        out, cache = apply(x[:, start : start + size], i, cache)
        parts.append(out)
        start += size
    # Rotary positions are relative: an offset of the whole sequence changes nothing.
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(cache.positions[1], [-1, -1, -1, *range(3, 10), -1, -1])


def test_padding_tokens_are_not_kept_and_overflow_is_dropped():
    cache = jax.tree.map(lambda leaf: leaf[0], caches.contiguous(1, 1, 3, 1, 2))
    new = jnp.ones((1, 3, 1, 2))
    cache, *_ = jax.jit(caches.Contiguous.update)(cache, new, new, jnp.array([[-1, 1, 5]]))
    np.testing.assert_array_equal(cache.positions, [[-1, 1, -1]])
    np.testing.assert_array_equal(cache.key[0, 0, :, 0], [0, 1, 0])
    with pytest.raises(ValueError, match="4 tokens do not fit into a cache of 3"):
        cache.update(jnp.ones((1, 4, 1, 2)), jnp.ones((1, 4, 1, 2)), jnp.arange(4)[None])


def test_bytes_per_token_of_published_models():
    """Reference sheet: Llama-3-8B 131,072 and LLaMA-7B 524,288 in bfloat16, positions apart."""
    for layers, heads, expected in ((32, 8, 131_072), (32, 32, 524_288)):
        cache = caches.contiguous(layers, 1, 1, heads, 128, jnp.bfloat16)
        assert caches.nbytes((cache.key, cache.value)) == expected


def test_bad_input_is_named():
    x = jnp.zeros((1, 4, 10))
    for layer, options, message in (
        (multihead.MultiHead(4, 6, num_kv_heads=3), {}, "num_kv_heads=3"),
        (multihead.MultiHead(3), {}, "width 10"),
        (multihead.MultiHead(2), {"cache": caches.contiguous(1, 1, 4, 2, 5)}, "positions"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.init(jax.random.key(0), x, **options)
