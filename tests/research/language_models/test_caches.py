"""Caches: cached decoding = full attention, paged = contiguous, rings, bytes, and generation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.language_models import caches, continuous_batching, generation, sampling
from tests.research.language_models import tiny

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, (3, 12)).astype(np.int32)
STEP = jax.jit(tiny.step, static_argnames="window")


def feed(cache, sizes, **kwargs):
    """Logits of TOKENS fed in pieces of these sizes."""
    params, out, start = tiny.init(), [], 0
    for size in sizes:
        positions = jnp.broadcast_to(jnp.arange(start, start + size), (3, size))
        logits, cache = STEP(params, cache, TOKENS[:, start : start + size], positions, **kwargs)
        out.append(logits)
        start += size
    return jnp.concatenate(out, axis=1), cache


def with_pages(cache, per_row=5):
    """Pages in scattered order, another for each row."""
    order = np.random.default_rng(1).permutation(3 * per_row).reshape(3, per_row)
    for row in range(3):
        cache = cache.assign(row, jnp.asarray(order[row]))
    return cache


@pytest.mark.parametrize("sizes", [(12,), (5,) + (1,) * 7, (4, 4, 4)])
def test_cached_is_full(sizes):
    logits, _ = feed(tiny.empty(3, 16), sizes)
    np.testing.assert_allclose(logits, tiny.full(tiny.init(), TOKENS), rtol=1e-5, atol=1e-5)


def test_cached_is_full_in_float64(x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tiny.init())
    positions = jnp.broadcast_to(jnp.arange(12), (3, 12))
    cache = tiny.empty(3, 16, dtype=jnp.float64)
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
    cache = cache.replace(codes=with_pages(cache.codes), scales=with_pages(cache.scales))
    logits, _ = feed(cache, (5,) + (1,) * 7)
    expected, _ = feed(tiny.empty(3, 15, caches.int8), (5,) + (1,) * 7)
    np.testing.assert_array_equal(logits, expected)


def test_rejected_tokens_leave_no_trace():
    params, cache = tiny.init(), tiny.empty(3, 16)
    positions = jnp.broadcast_to(jnp.arange(12), (3, 12))
    _, cache = STEP(params, cache, TOKENS[:, :6], positions[:, :6])
    _, cache = STEP(params, cache, (TOKENS[:, 6:10] + 1) % tiny.VOCAB, positions[:, 6:10])
    logits, _ = STEP(params, cache, TOKENS[:, 6:8], positions[:, 6:8])
    np.testing.assert_allclose(logits, tiny.full(params, TOKENS)[:, 6:8], rtol=1e-5, atol=1e-5)


def test_memory_per_token():
    assert caches.bytes_per_token(32, 8, 128, 2) == 131_072  # Llama-3-8B, bf16
    assert caches.bytes_per_token(32, 32, 128, 2) == 524_288  # LLaMA-7B, bf16


def generate(prompts, lengths, rngs, **kwargs):
    cache = tiny.empty(len(prompts), 24)
    return generation.generate(
        tiny.step, tiny.init(), cache, jnp.asarray(prompts), jnp.asarray(lengths), rngs, **kwargs
    )


def test_greedy_generation_is_the_argmax_of_full_passes():
    lengths = np.array([5, 1, 3])
    out = generate(TOKENS[:, :5], lengths, jax.random.split(jax.random.key(0), 3), num_tokens=9)
    for row, length in enumerate(lengths):
        whole = np.concatenate([TOKENS[row, :length], out.tokens[row]])
        padded = np.zeros((3, 14), np.int32)
        padded[0, : len(whole)] = whole
        logits = np.asarray(tiny.full(tiny.init(), padded)[0, length - 1 : length + 8])
        np.testing.assert_array_equal(out.tokens[row], logits.argmax(-1))
    np.testing.assert_array_equal(out.log_probs, 0.0)


def test_a_row_that_ended_is_padded_while_others_go_on():
    """Up to its first stop token a row is what it is without one; behind it pad and log-prob 0."""
    rngs, lengths = jax.random.split(jax.random.key(4), 3), np.array([5, 2, 4])
    options = {"num_tokens": 8, "sampler": sampling.Sampler(temperature=1.5)}
    free = generate(TOKENS[:, :5], lengths, rngs, **options)
    # The token after which the rows' ends are farthest apart.
    until = [(np.cumsum(free.tokens == v, 1) == 0).sum(1) for v in range(tiny.VOCAB)]
    stop = int(np.argmax(np.ptp(until, axis=1)))
    out = generate(TOKENS[:, :5], lengths, rngs, **options, stop_token=stop, pad=-7)
    behind = np.cumsum(np.asarray(free.tokens) == stop, 1) - (free.tokens == stop) > 0  # [3, 8]
    np.testing.assert_array_equal(out.lengths, 8 - behind.sum(1))
    assert np.ptp(out.lengths) > 2
    np.testing.assert_array_equal(out.tokens, np.where(behind, -7, free.tokens))
    np.testing.assert_allclose(out.log_probs, np.where(behind, 0.0, free.log_probs), rtol=1e-6)
    assert (np.asarray(free.log_probs) < 0).all()


def test_rows_do_not_depend_on_their_company():
    """Order, company and padding of a batch change nothing; nor does the kind of cache."""
    rngs = jax.random.split(jax.random.key(1), 3)
    sampler, lengths = sampling.Sampler(temperature=0.8, top_k=5), np.array([5, 2, 4])
    out = generate(TOKENS[:, :5], lengths, rngs, num_tokens=8, sampler=sampler, stop_token=2)
    order = np.array([2, 0, 1])
    shuffled = generate(
        TOKENS[order, :5], lengths[order], rngs[order], num_tokens=8, sampler=sampler, stop_token=2
    )
    np.testing.assert_array_equal(shuffled.tokens, out.tokens[order])
    np.testing.assert_array_equal(shuffled.lengths, out.lengths[order])
    garbage = TOKENS[:, :7].copy()
    garbage[np.arange(7)[None] >= lengths[:, None]] = 6
    longer = generate(garbage, lengths, rngs, num_tokens=8, sampler=sampler, stop_token=2)
    np.testing.assert_array_equal(longer.tokens, out.tokens)
    for row, count in enumerate(np.asarray(out.lengths)):
        ended = np.flatnonzero(out.tokens[row, :count] == 2)
        assert list(ended) == ([count - 1] if count < 8 else [count - 1][: len(ended)])
        assert (np.asarray(out.tokens[row, count:]) == 0).all()


def _bytes_in_pages(*sizes):
    pages = functools.partial(caches.paged, num_pages=24, page_size=3)
    cache = caches.int8(sizes[0], sizes[1], sizes[2] // 3, *sizes[3:], make=pages)
    codes, scales = with_pages(cache.codes, 8), with_pages(cache.scales, 8)
    return cache.replace(codes=codes, scales=scales)


@pytest.mark.parametrize("make", [attention_cache.contiguous, caches.ring, _bytes_in_pages])
@pytest.mark.parametrize("block", [1, 3, 4, 20])
def test_reading_the_cache_in_blocks_changes_nothing(make, block):
    """Neither what is written nor what is kept, also for rows that end before others."""
    rngs, lengths = jax.random.split(jax.random.key(4), 3), np.array([5, 2, 4])
    options = {"num_tokens": 9, "sampler": sampling.Sampler(temperature=1.5), "stop_token": 4}
    prompts = (jnp.asarray(TOKENS[:, :5]), jnp.asarray(lengths), rngs)
    cache = tiny.empty(3, 24, make)
    whole, parts = (
        generation.generate(tiny.step, tiny.init(), cache, *prompts, block=size, **options)
        for size in (None, block)
    )
    assert whole.lengths.min() < 6 < whole.lengths.max()
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_array_equal(parts.lengths, whole.lengths)
    for mine, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


def test_the_first_positions_are_all_that_a_block_reads():
    cache = tiny.empty(3, 24)
    assert attention_cache.first(cache, 7).key.shape == (2, 3, 2, 7, 4)
    assert attention_cache.first((cache, cache), 7)[1].positions.shape == (2, 3, 7)
    assert tiny.paged(3, 5, 15, 3).first(7).table.shape == (2, 3, 3)


@pytest.mark.parametrize("num_pages", [5, 12])
def test_continuous_batching_is_each_request_alone(num_pages):
    """Seven requests through two rows, with pages short (5) or plenty (12)."""
    rng = np.random.default_rng(3)
    rngs = jax.random.split(jax.random.key(2), 7)
    sampler = sampling.Sampler(temperature=1.3)
    requests = [
        continuous_batching.Request(
            rng.integers(0, tiny.VOCAB, rng.integers(1, 6)), int(count), key
        )
        for count, key in zip(rng.integers(1, 12, 7), rngs)
    ]
    served = continuous_batching.serve(
        tiny.step,
        tiny.init(),
        tiny.paged(2, 5, num_pages, 3),
        requests,
        max_prompt=5,
        chunk=4,
        sampler=sampler,
        stop_token=3,
    )
    prompts = np.zeros((7, 5), np.int32)
    for row, request in enumerate(requests):
        prompts[row, : len(request.prompt)] = request.prompt
    lengths = np.array([len(request.prompt) for request in requests])
    alone = generate(prompts, lengths, rngs, num_tokens=11, sampler=sampler, stop_token=3)
    for row, request in enumerate(requests):
        count = min(request.num_tokens, int(alone.lengths[row]))
        np.testing.assert_array_equal(served[row], alone.tokens[row, :count])
    assert len({len(tokens) for tokens in served}) > 3


def test_requests_start_in_the_order_given():
    """One row and requests of one token: prefill sees their prompts in turn."""
    prompts = [np.array([token]) for token in (3, 1, 4, 1, 5)]
    requests = [continuous_batching.Request(prompt, 1, jax.random.key(0)) for prompt in prompts]
    seen = []

    def watched(params, cache, tokens, positions):
        jax.debug.callback(lambda fed: seen.append(int(fed[0, 0])), tokens, ordered=True)
        return tiny.step(params, cache, tokens, positions)

    continuous_batching.serve(watched, tiny.init(), tiny.paged(1, 2, 2, 3), requests, max_prompt=1)
    jax.effects_barrier()
    assert seen == [3, 1, 4, 1, 5]


def test_bad_input():
    rngs = jax.random.split(jax.random.key(0), 3)
    short = functools.partial(generate, TOKENS[:, :5])
    request = continuous_batching.Request(np.arange(4), 9, rngs[0])
    serve = functools.partial(continuous_batching.serve, tiny.step, None, tiny.paged(2, 3, 9, 3))
    for broken, message in [
        (lambda: short(np.array([5, 5, 6]), rngs, num_tokens=1), "5 to 6: expected 1 to 5"),
        (lambda: short(np.array([5, 5]), rngs, num_tokens=1), r"expected \[B, T\] and \[B\]"),
        (lambda: short(np.array([5, 5, 5]), rngs[:2], num_tokens=1), "one key a row"),
        (lambda: short(np.array([5, 5, 5]), rngs, num_tokens=0), "num_tokens=0"),
        (
            lambda: short(np.array([5, 5, 5]), rngs, num_tokens=9, capacity=12),
            "holds 12 positions: 13 are needed",
        ),
        (lambda: tiny.empty(0, 4, caches.ring), r"shape \(2, 0, 2, 4, 4\)"),
        (lambda: tiny.paged(2, 0, 4, 2), "pages_per_row=0"),
        (lambda: feed(tiny.empty(3, 2, caches.ring), (3,)), "with T <= 2"),
        (lambda: feed(tiny.empty(2, 4, caches.ring), (3,)), r"expected \[2, T, 2, 4\]"),
        (lambda: serve([request], max_prompt=3), "prompt of 4"),
        (lambda: serve([request], max_prompt=4), "needs 4 pages of 3: a row can have 3"),
        (lambda: serve([request], max_prompt=4, chunk=0), "chunk=0"),
        (
            lambda: continuous_batching.serve(tiny.step, None, {}, [request], max_prompt=4),
            "tree of caches.Paged",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
