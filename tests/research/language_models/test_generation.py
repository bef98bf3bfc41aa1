"""Generation: greedy is argmax, rows keep apart, stops and padding, the cache read in blocks."""

import functools

import jax
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.language_models import caches, generation, sampling
from tests.research.language_models import tiny

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, (3, 12)).astype(np.int32)
PARAMS = tiny.init(layers=1)


def test_greedy_generation_is_the_argmax_of_full_passes():
    lengths = np.array([5, 1, 3])
    out = tiny.generate(
        TOKENS[:, :5], lengths, jax.random.split(jax.random.key(0), 3), num_tokens=9
    )
    for row, length in enumerate(lengths):
        whole = np.concatenate([TOKENS[row, :length], out.tokens[row]])
        padded = np.zeros((3, 14), np.int32)
        padded[0, : len(whole)] = whole
        logits = np.asarray(tiny.full(PARAMS, padded)[0, length - 1 : length + 8])
        np.testing.assert_array_equal(out.tokens[row], logits.argmax(-1))
    np.testing.assert_array_equal(out.log_probs, 0.0)


def test_a_row_that_ended_is_padded_while_others_go_on():
    """Up to its first stop token a row is what it is without one; behind it pad and log-prob 0."""
    rngs, lengths = jax.random.split(jax.random.key(4), 3), np.array([5, 2, 4])
    options = {"num_tokens": 8, "sampler": sampling.Sampler(temperature=1.5)}
    free = tiny.generate(TOKENS[:, :5], lengths, rngs, **options)
    # The token after which the rows' ends are farthest apart.
    until = [(np.cumsum(free.tokens == v, 1) == 0).sum(1) for v in range(tiny.VOCAB)]
    stop = int(np.argmax(np.ptp(until, axis=1)))
    out = tiny.generate(TOKENS[:, :5], lengths, rngs, **options, stop_token=stop, pad=-7)
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
    out = tiny.generate(TOKENS[:, :5], lengths, rngs, num_tokens=8, sampler=sampler, stop_token=2)
    order = np.array([2, 0, 1])
    shuffled = tiny.generate(
        TOKENS[order, :5], lengths[order], rngs[order], num_tokens=8, sampler=sampler, stop_token=2
    )
    np.testing.assert_array_equal(shuffled.tokens, out.tokens[order])
    np.testing.assert_array_equal(shuffled.lengths, out.lengths[order])
    garbage = TOKENS[:, :7].copy()
    garbage[np.arange(7)[None] >= lengths[:, None]] = 6
    longer = tiny.generate(garbage, lengths, rngs, num_tokens=8, sampler=sampler, stop_token=2)
    np.testing.assert_array_equal(longer.tokens, out.tokens)
    for row, count in enumerate(np.asarray(out.lengths)):
        ended = np.flatnonzero(out.tokens[row, :count] == 2)
        assert list(ended) == ([count - 1] if count < 8 else [count - 1][: len(ended)])
        assert (np.asarray(out.tokens[row, count:]) == 0).all()


def _bytes_in_pages(*sizes):
    pages = functools.partial(caches.paged, num_pages=24, page_size=3)
    cache = caches.int8(sizes[0], sizes[1], sizes[2] // 3, *sizes[3:], make=pages)
    return caches.Int8(*(tiny.spread(part, (3, 24), 8) for part in (cache.codes, cache.scales)))


MAKES = {"rows": attention_cache.contiguous, "ring": caches.ring, "bytes": _bytes_in_pages}


@functools.cache
def written(make, block=None):
    """What three rows write that end at different times."""
    rngs, lengths = jax.random.split(jax.random.key(4), 3), np.array([5, 2, 4])
    options = {"num_tokens": 9, "sampler": sampling.Sampler(temperature=1.5), "stop_token": 4}
    return tiny.generate(TOKENS[:, :5], lengths, rngs, MAKES[make], block=block, **options)


@pytest.mark.parametrize(
    "make, block",
    [(make, block) for make in MAKES for block in (3, 5, 20)] + [("rows", 1), ("rows", 4)],
)
def test_reading_the_cache_in_blocks_changes_nothing(make, block):
    """Neither what is written nor what is kept, also for rows that end before others."""
    whole, parts = written(make), written(make, block)
    assert whole.lengths.min() < 6 < whole.lengths.max()
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_array_equal(parts.lengths, whole.lengths)
    for mine, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


def test_log_probs_are_those_of_the_whole_text_under_the_sampler():
    """Teacher-forced through a pass without a cache, for each row at its own place."""
    out, lengths = written("rows"), np.array([5, 2, 4])
    sampler = sampling.Sampler(temperature=1.5)
    text = np.zeros((3, 14), np.int32)
    for row, length in enumerate(lengths):
        text[row, : length + 9] = np.concatenate([TOKENS[row, :length], out.tokens[row]])
    laws = np.asarray(sampler.log_probs(tiny.full(PARAMS, text)))
    for row, (length, count) in enumerate(zip(lengths, np.asarray(out.lengths))):
        places = np.arange(length - 1, length - 1 + count)
        expected = laws[row, places, out.tokens[row, :count]]
        np.testing.assert_allclose(out.log_probs[row, :count], expected, rtol=1e-4, atol=1e-5)


def test_prefill_is_the_logits_after_each_prompt():
    lengths, cache = np.array([5, 1, 3]), tiny.empty(3, 6, layers=1)
    logits, cache = jax.jit(generation.prefill, static_argnums=0)(
        tiny.step, PARAMS, cache, TOKENS[:, :5], lengths
    )
    whole = np.asarray(tiny.full(PARAMS, TOKENS[:, :5]))
    np.testing.assert_allclose(logits, whole[np.arange(3), lengths - 1], rtol=1e-5, atol=1e-5)
    kept = np.arange(6)[None] < lengths[:, None]
    np.testing.assert_array_equal(cache.positions[0], np.where(kept, np.arange(6), -1))


def test_keys_of_a_row_do_not_know_the_others():
    rngs = jax.random.split(jax.random.key(0), 3)
    both = generation.row_keys(rngs, np.array([4, 7, 7]))
    for row, index in enumerate((4, 7, 7)):
        assert both[row] == jax.random.fold_in(rngs[row], index)
    assert (generation.row_keys(rngs, np.int32(7))[1:] == both[1:]).all()


def test_bad_input():
    rngs = jax.random.split(jax.random.key(0), 3)
    short = functools.partial(tiny.generate, TOKENS[:, :5])
    for broken, message in [
        (lambda: short(np.array([5, 5, 6]), rngs, num_tokens=1), "5 to 6: expected 1 to 5"),
        (lambda: short(np.array([0, 3, 5]), rngs, num_tokens=1), "prompt_lengths from 0 to 5"),
        (lambda: short(np.array([5, 5]), rngs, num_tokens=1), r"expected \[B, T\] and \[B\]"),
        (lambda: short(np.array([5, 5, 5]), rngs[:2], num_tokens=1), "one key a row"),
        (lambda: short(np.array([5, 5, 5]), rngs, num_tokens=0), "num_tokens=0"),
        (lambda: short([5, 5, 5], rngs, num_tokens=2.0), "num_tokens=2.0: expected a positive"),
        (lambda: short([5, 5, 4.5], rngs, num_tokens=1), "prompt_lengths of type float"),
        (lambda: short([5, 5, 5], rngs, num_tokens=1, stop_token=[1, 2]), "expected one integer"),
        (lambda: short(np.array([5, 5, 5]), rngs, num_tokens=2, block=0), "block=0"),
        (
            lambda: short(np.array([5, 5, 5]), rngs, num_tokens=9, capacity=12),
            "holds 12 positions: 13 are needed",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
