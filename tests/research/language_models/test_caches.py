"""Caches: cached = full attention, paged = contiguous, rings, bytes; in tiny and real decoders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.language_models import caches
from research.transformers import models
from tests.research.language_models import decoders, tiny

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, (3, 12)).astype(np.int32)
STEP = jax.jit(tiny.step, static_argnames="window")


def feed(cache, sizes, **kwargs):
    """Logits of TOKENS fed in pieces of these sizes."""
    params, out, start = tiny.init(), [], 0
    for size in sizes:
        positions = np.tile(np.arange(start, start + size), (3, 1))
        logits, cache = STEP(params, cache, TOKENS[:, start : start + size], positions, **kwargs)
        out.append(logits)
        start += size
    return np.concatenate(out, axis=1), cache


def with_pages(cache):
    return tiny.spread(cache, (3, 15), 5)


@pytest.mark.parametrize("sizes", [(12,), (5,) + (1,) * 7, (4, 4, 4)])
def test_cached_is_full(sizes):
    logits, _ = feed(tiny.empty(3, 16), sizes)
    np.testing.assert_allclose(logits, tiny.full(tiny.init(), TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [attention_cache.contiguous, caches.ring])
def test_cached_is_full_in_float64(make, x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tiny.init())
    positions = np.tile(np.arange(12), (3, 1))
    cache = tiny.empty(3, 16, make, dtype=jnp.float64)
    _, cache = STEP(params, cache, TOKENS[:, :7], positions[:, :7])
    logits, _ = STEP(params, cache, TOKENS[:, 7:], positions[:, 7:])
    np.testing.assert_allclose(logits, tiny.full(params, TOKENS)[:, 7:], rtol=1e-12, atol=1e-12)


def test_paged_is_contiguous_to_the_bit():
    expected, _ = feed(tiny.empty(3, 15), (5,) + (1,) * 7)
    logits, cache = feed(with_pages(tiny.paged(3, 5, 15, 3)), (5,) + (1,) * 7)
    np.testing.assert_array_equal(logits, expected)
    stored = np.asarray(cache.positions)[0][np.asarray(cache.table)[0]].reshape(3, 15)
    np.testing.assert_array_equal(stored[:, :12], np.tile(np.arange(12), (3, 1)))
    assert (stored[:, 12:] == caches.EMPTY).all()


def test_a_ring_is_a_sliding_window():
    """A ring of w + T - 1 slots, fed T at a time, equals the band mask; one slot less does not."""
    expected = tiny.full(tiny.init(), TOKENS, window=4)
    for size in (1, 3):
        logits, _ = feed(tiny.empty(3, 4 + size - 1, caches.ring), (size,) * (12 // size), window=4)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        short, _ = feed(tiny.empty(3, 3 + size - 1, caches.ring), (size,) * (12 // size), window=4)
        assert np.abs(short - expected).max() > 1e-2


def test_int8_cache_errs_within_its_bound():
    rng = np.random.default_rng(2)
    keys, values = (rng.normal(size=(2, 5, 2, 4)).astype(np.float32) for _ in range(2))
    keys[0, 0] = 0.0
    layer = jax.tree.map(lambda leaf: leaf[0], caches.int8(1, 2, 8, 2, 4))
    update = jax.jit(caches.Int8.update)
    _, *stored, _ = update(layer, keys, values, np.tile(np.arange(5, dtype=np.int32), (2, 1)))
    for coded, exact in zip(stored, (keys, values)):
        bound = np.abs(exact).max(-1, keepdims=True) / 254 * (1 + 1e-6)
        assert (np.abs(coded[:, :5] - exact) <= bound).all()
    logits, _ = feed(tiny.empty(3, 16, caches.int8), (5,) + (1,) * 7)
    expected = tiny.full(tiny.init(), TOKENS)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.05
    codes = caches.int8(3, 1, 100, 2, 64).codes
    assert codes.key.nbytes + codes.value.nbytes == 100 * caches.bytes_per_token(3, 2, 64, 1)


def test_bytes_in_pages_are_bytes_in_a_row():
    pages = functools.partial(caches.paged, num_pages=15, page_size=3)
    cache = tiny.empty(3, 5, functools.partial(caches.int8, make=pages))
    cache = caches.Int8(with_pages(cache.codes), with_pages(cache.scales))
    logits, _ = feed(cache, (5,) + (1,) * 7)
    expected, _ = feed(tiny.empty(3, 15, caches.int8), (5,) + (1,) * 7)
    np.testing.assert_array_equal(logits, expected)


def test_rejected_tokens_leave_no_trace():
    params, cache = tiny.init(), tiny.empty(3, 16)
    positions = np.tile(np.arange(12), (3, 1))
    _, cache = STEP(params, cache, TOKENS[:, :6], positions[:, :6])
    _, cache = STEP(params, cache, (TOKENS[:, 6:10] + 1) % tiny.VOCAB, positions[:, 6:10])
    logits, _ = STEP(params, cache, TOKENS[:, 6:8], positions[:, 6:8])
    np.testing.assert_allclose(logits, tiny.full(params, TOKENS)[:, 6:8], rtol=1e-5, atol=1e-5)


def test_memory_per_token():
    empty = tiny.empty(3, 6, caches.ring)
    assert not empty.key.any() and not empty.value.any() and (empty.positions == -1).all()
    assert caches.bytes_per_token(32, 8, 128, 2) == 131_072  # Llama-3-8B, bf16
    assert caches.bytes_per_token(32, 32, 128, 2) == 524_288  # LLaMA-7B, bf16


@pytest.mark.parametrize(
    "config", [decoders.GPT2, decoders.LLAMA, decoders.WINDOWED], ids=["gpt2", "llama", "window"]
)
def test_real_decoders_cached_are_full_and_pages_are_rows(config):
    logits = decoders.feed(config, models.empty_cache(config, 3, 16), 3)
    np.testing.assert_allclose(logits, decoders.full(config), rtol=1e-5, atol=2e-5)
    paged = decoders.feed(config, models.empty_cache(config, 3, 16, make=decoders.pages), 3)
    np.testing.assert_array_equal(paged, logits)


def test_a_ring_serves_a_window():
    """Window 4 fed 3 at a time needs 6 slots, not 5."""
    logits = decoders.feed(
        decoders.WINDOWED, models.empty_cache(decoders.WINDOWED, 3, 6, make=caches.ring), 3
    )
    np.testing.assert_allclose(logits, decoders.full(decoders.WINDOWED), rtol=1e-5, atol=2e-5)
    short = decoders.feed(
        decoders.WINDOWED, models.empty_cache(decoders.WINDOWED, 3, 5, make=caches.ring), 3
    )
    assert np.abs(short - decoders.full(decoders.WINDOWED)).max() > 1e-2


def test_bytes_change_logits_little():
    exact = decoders.full(decoders.LLAMA)
    cache = models.empty_cache(decoders.LLAMA, 3, 12, make=caches.int8)
    logits = decoders.feed(decoders.LLAMA, cache, 12)
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_the_first_pages_are_all_that_a_block_reads():
    """Of a ring all is read; of pages those that hold the positions; bytes as what holds them."""
    assert tiny.paged(3, 5, 15, 3).first(7).table.shape == (2, 3, 3)
    ring, coded = tiny.empty(3, 6, caches.ring), tiny.empty(3, 6, caches.int8)
    assert ring.first(2) is ring and ring.with_first(ring) is ring
    part = coded.first(2)
    assert part.codes.key.shape == (2, 3, 2, 2, 4) and part.scales.key.shape == (2, 3, 2, 2, 1)
    marked = part.replace(scales=jax.tree.map(lambda leaf: leaf + 1, part.scales))
    back = coded.with_first(marked)
    np.testing.assert_array_equal(back.scales.positions, np.tile([0, 0, -1, -1, -1, -1], (2, 3, 1)))
    np.testing.assert_array_equal(back.codes.positions, coded.codes.positions)
    paged = tiny.paged(3, 5, 15, 3)
    assert paged.with_first(paged.first(7)).table.shape == paged.table.shape


def test_capacity_is_of_rows_full_of_pages_and_a_ring_has_none():
    paged = functools.partial(caches.paged, num_pages=15, page_size=3)
    assert tiny.paged(3, 5, 15, 3).capacity == 15
    assert tiny.empty(3, 5, functools.partial(caches.int8, make=paged)).capacity == 15
    ring = tiny.empty(3, 6, caches.ring)
    assert ring.capacity is None and attention_cache.capacity((ring, tiny.empty(3, 7))) == 7


def test_pages_that_are_given_again_forget_what_they_held():
    """Also with fewer pages than a row may have, whose later positions are dropped."""
    cache = jax.tree.map(lambda leaf: leaf[0], tiny.paged(2, 3, 4, 2, layers=1))
    new = np.ones((2, 5, 2, 4), np.float32)
    places = np.tile(np.arange(5), (2, 1))

    @jax.jit
    def run(cache):
        cache = cache.assign(0, jnp.array([2, 0, -1])).assign(1, jnp.array([1, -1, -1]))
        cache, _, _, stored = cache.update(new, new, places)
        cache = cache.assign(1, jnp.array([2, 3, -1])).assign(0, jnp.array([-1, -1, -1]))
        return stored, cache.update(new, new, places - 5)[-1]

    stored, later = run(cache)
    np.testing.assert_array_equal(stored, [[0, 1, 2, 3, -1, -1], [0, 1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(later, -1)


def test_bad_input():
    for broken, message in [
        (lambda: tiny.empty(0, 4, caches.ring), r"shape \(2, 0, 2, 4, 4\)"),
        (lambda: tiny.paged(2, 0, 4, 2), "pages_per_row=0"),
        (lambda: feed(tiny.empty(3, 2, caches.ring), (3,)), "with T <= 2"),
        (lambda: feed(tiny.empty(2, 4, caches.ring), (3,)), r"expected \[2, T, 2, 4\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()


def test_pages_that_are_not_there_are_refused():
    """A row or page outside is dropped by a scatter, one given twice holds two places."""
    cache = tiny.paged(2, 2, 3, 4, layers=1)
    for row, pages, message in [
        (2, [0, 1], "row=2: the table has 2"),
        (-1, [0, 1], "row=-1: the table has 2"),
        (0, [0, 3], "expected different ones below 3"),
        (0, [1, 1], "expected different ones below 3"),
        (0, [0], r"pages int32\[1\]: expected int \[2\]"),
        (0, [0.0, 1.0], r"pages float32\[2\]: expected int \[2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            cache.assign(row, jnp.array(pages))
    np.testing.assert_array_equal(cache.assign(1, jnp.array([2, -1])).table[0], [[-1, -1], [2, -1]])
