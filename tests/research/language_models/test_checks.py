"""What is refused before anything is compiled: caches too small, tokens beyond the vocabulary."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.language_models import beam, caches, continuous_batching, generation, speculative
from research.language_models.decoding import checks
from research.transformers import models
from tests.research.language_models import decoders, tiny

PROMPTS, LENGTHS = decoders.TOKENS[:, :7], np.array([7, 3, 5])
KEYS = jax.random.split(jax.random.key(0), 3)


def cache(slots, config=decoders.LLAMA, make=attention_cache.contiguous, rows=3):
    return models.empty_cache(config, rows, slots, make=make)


def generate(cache, config=decoders.LLAMA, prompts=PROMPTS, num_tokens=6, **options):
    step, params = decoders.decoder(config)
    arguments = (params, cache, prompts, LENGTHS, KEYS)
    return generation.generate(step, *arguments, num_tokens=num_tokens, **options)


def test_twelve_positions_are_enough_and_eleven_are_refused():
    """Seven of the prompt and all new tokens but the last."""
    np.testing.assert_array_equal(generate(cache(12)).tokens, generate(cache(32)).tokens)
    with pytest.raises(ValueError, match="the cache holds 11 positions: 12 are needed"):
        generate(cache(11))


def test_padding_of_prompts_needs_no_room():
    """The longest prompt counts, not the width of the array."""
    step, params = decoders.decoder(decoders.LLAMA)
    lengths, options = np.array([4, 3, 1]), {"num_tokens": 4}
    few, many = (
        generation.generate(step, params, cache(slots), PROMPTS, lengths, KEYS, **options).tokens
        for slots in (7, 16)
    )
    np.testing.assert_array_equal(few, many)


def test_a_ring_may_be_shorter_than_the_text_under_a_window():
    """A window of 4 fed 7 tokens at once: 10 slots hold it for any length, 9 do not."""
    windowed, ring = decoders.WINDOWED, caches.ring
    expected = generate(cache(32, windowed), windowed, num_tokens=12).tokens
    found = generate(cache(10, windowed, ring), windowed, num_tokens=12).tokens
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="9 slots under a window of 4: 10 are needed to feed 7"):
        generate(cache(9, windowed, ring), windowed, num_tokens=12)
    with pytest.raises(ValueError, match="a ring of 10 slots forgets, .* 18 are needed"):
        generate(cache(10, make=ring), num_tokens=12)
    short = functools.partial(cache, make=ring)  # all positions fit: it forgets none
    checks.room(decoders.decoder(decoders.LLAMA)[0], short(18), np.array([18]))
    checks.room(decoders.decoder(windowed)[0], cache(5, windowed, ring), np.array([5]), fed=5)
    checks.room(tiny.step, short(2), np.array([18]))  # of a plain function no window is known
    with pytest.raises(ValueError, match="window of 4: 6 are needed to feed 2"):
        step = decoders.decoder(windowed)[0]
        checks.room(step, cache(5, windowed, ring), np.array([9]), fed=2, taken_back=1)


def test_a_step_knows_its_model():
    step = decoders.decoder(decoders.WINDOWED)[0]
    assert (step.vocab_size, step.max_length, step.window) == (11, None, 4)
    assert decoders.decoder(decoders.GPT2)[0].max_length == 32
    unknown = generation.DecoderStep(object())
    assert (unknown.vocab_size, unknown.max_length, unknown.window) == (None, None, None)


def test_the_vocabulary_of_a_function_is_that_of_its_logits():
    small = tiny.empty(3, 8, layers=1)
    assert checks.vocab_size(tiny.step, tiny.init(layers=1), small, PROMPTS) == tiny.VOCAB
    checks.vocabulary(7, np.array([[6, 9]]), np.array([[True, False]]), stop_token=6)


@pytest.mark.parametrize(
    "tokens, message",
    [
        (np.array([[4, 50, 6]] * 3), r"prompts: 50 is outside \[0, 11\)"),
        (np.array([[4, -1, 6]] * 3), "prompts: -1 is outside"),
        (np.zeros((3, 3)), "prompts of type float64: expected integers"),
    ],
)
def test_prompts_beyond_the_vocabulary_are_refused(tokens, message):
    step, params = decoders.decoder(decoders.LLAMA)
    lengths = np.array([3, 2, 3])
    with pytest.raises(ValueError, match=message):
        generation.generate(step, params, cache(9), tokens, lengths, KEYS, num_tokens=2)
    draft = (tiny.step, tiny.init(layers=1, vocab=11), tiny.empty(3, 9, layers=1))
    with pytest.raises(ValueError, match=message):
        speculative.generate((step, params, cache(9)), draft, tokens, lengths, KEYS, num_tokens=2)


def test_what_lies_behind_a_prompt_may_be_anything():
    behind = np.where(np.arange(7) < LENGTHS[:, None], PROMPTS, -100)
    expected = generate(cache(12)).tokens
    np.testing.assert_array_equal(generate(cache(12), prompts=behind).tokens, expected)


def paged(rows, per_row, pages):
    step, params = decoders.decoder(decoders.GPT2)
    make = functools.partial(caches.paged, num_pages=pages, page_size=4)
    return step, params, models.empty_cache(decoders.GPT2, rows, per_row, make=make)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: generate(cache(12), stop_token=11), r"stop_token: 11 is outside \[0, 11\)"),
        (lambda: generate(cache(11, make=caches.int8)), "holds 11 positions: 12"),
        (lambda: generate(cache(40, decoders.LLAMA), decoders.GPT2, num_tokens=30), "has 32 pos"),
        (
            lambda: checks.room(*paged(2, 2, 3)[::2], np.array([5, 4])),
            "row 0 has pages for 0 positions: 5 are needed",
        ),
        (
            lambda: checks.room(tiny.step, paged(2, 2, 3)[2].assign(0, jnp.array([0, 1])),
                                np.array([8, 4])),
            "row 1 has pages for 0 positions: 4 are needed",
        ),
        (
            lambda: beam.beam_search(*decoders.decoder(decoders.LLAMA), cache(4), PROMPTS[0, :3],
                                     width=3, num_tokens=3),
            "holds 4 positions: 5 are needed",
        ),
        (
            lambda: beam.beam_search(*decoders.decoder(decoders.LLAMA), cache(9), PROMPTS[0] + 11,
                                     width=3, num_tokens=3),
            "prompt: .* outside",
        ),
        (
            lambda: beam.beam_search(*decoders.decoder(decoders.LLAMA), cache(9), PROMPTS[0],
                                     width=3, num_tokens=3, stop_token=-1),
            "stop_token: -1",
        ),
        (
            lambda: speculative.generate(
                (*decoders.decoder(decoders.LLAMA), cache(30)),
                (*decoders.decoder(decoders.GPT2), cache(13, decoders.GPT2)),
                PROMPTS, LENGTHS, KEYS, num_tokens=4, num_drafts=4),
            "holds 13 positions: 14 are needed",
        ),
        (
            lambda: speculative.generate(
                (*decoders.decoder(decoders.LLAMA), cache(30)),
                (*decoders.decoder(decoders.LLAMA), cache(30)),
                PROMPTS, LENGTHS, KEYS[:2], num_tokens=4),
            "one key a row",
        ),
        (
            lambda: continuous_batching.serve(
                *paged(2, 9, 9), [continuous_batching.Request(np.array([1, 11]), 2, KEYS[0])],
                max_prompt=3),
            r"request 0: 11 is outside \[0, 11\)",
        ),
        (
            lambda: continuous_batching.serve(
                *paged(2, 9, 9), [continuous_batching.Request(np.array([1, 2]), 32, KEYS[0])],
                max_prompt=3),
            "request 0 needs 33 positions: the model has 32",
        ),
        (
            lambda: continuous_batching.serve(
                *paged(2, 9, 9), [continuous_batching.Request(np.array([1, 2]), 2, KEYS[0])],
                max_prompt=3, stop_token=12),
            "stop_token: 12",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_traced_is_let_alone():
    """Shapes are still held against the cache: 7 tokens and 5 more into 10 slots."""
    step, params = decoders.decoder(decoders.LLAMA)

    def run(slots, prompts, lengths):
        arguments = (params, cache(slots), prompts, lengths, KEYS)
        return generation.generate(step, *arguments, num_tokens=6).tokens

    assert jax.eval_shape(functools.partial(run, 12), PROMPTS, LENGTHS).shape == (3, 6)
    with pytest.raises(ValueError, match="holds 11 positions: 12"):
        jax.eval_shape(functools.partial(run, 11), PROMPTS, LENGTHS)
    table = jax.eval_shape(lambda: paged(2, 2, 3)[2]).table
    pages = dataclasses.replace(paged(2, 2, 3)[2], table=jnp.zeros(table.shape, int))
    checks.room(tiny.step, pages, np.array([8, 8]))
    jax.eval_shape(lambda c: (checks.room(tiny.step, c, np.array([8, 8])), c)[1], paged(2, 2, 3)[2])
