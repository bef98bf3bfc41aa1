"""Host checks: what is outside its range is named, padding and traced numbers are let alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import cache as attention_cache
from research.language_models import caches
from research.transformers import checks, models, published
from tests.research.transformers import cases

PADDED = jnp.array([[-1, 0, 1]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: checks.in_range("x", [[0, 4, -2]], 4), r"x: 4 is outside \[0, 4\)"),
        (lambda: checks.in_range("x", jnp.array([0, -2]), 4), "x: -2"),
        (lambda: checks.tokens("words", jnp.zeros(3, int), 4), r"words int32\[3\]: expected int"),
        (lambda: checks.tokens("words", jnp.zeros((1, 3)), 4), "words float32"),
        (lambda: checks.tokens("words", jnp.zeros((1, 3), int), 4, 2), "3 tokens: .* 2 positions"),
        (lambda: checks.tokens("words", PADDED + 2, 3), "words: 3 is outside"),
        (lambda: checks.tokens("words", PADDED, 3), "words: -1 is outside"),
        (lambda: checks.tokens("words", PADDED + 1, 3, 8, PADDED + 8), "positions: 8 is outside"),
        (lambda: checks.cache_slots(attention_cache.contiguous(1, 1, 4, 1, 1), None), "positions"),
        (
            lambda: checks.cache_slots(attention_cache.contiguous(1, 1, 4, 1, 1), PADDED + 3),
            r"slots: 4 is outside \[0, 4\)",
        ),
    ],
)
def test_what_is_out_of_range_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_padding_unknown_numbers_and_what_forgets_are_let_alone():
    checks.tokens("words", PADDED, 2, 8, PADDED)
    checks.in_range("x", [5, 1], 4, [False, True])
    jax.eval_shape(lambda x: (checks.in_range("x", x, 1), x)[1], jnp.array([7]))
    checks.cache_slots(None, None)
    checks.cache_slots(attention_cache.contiguous(1, 1, 4, 1, 1), PADDED)
    checks.cache_slots(caches.ring(1, 1, 4, 1, 1), PADDED + 9)


def test_models_read_no_token_beyond_their_vocabulary():
    """In an eager call; also segments, positions beyond a table, slots beyond a cache."""
    tokens = np.array([[4, 11, 6]])
    decoder, encoder = (models.Decoder(cases.TINY["gpt2"]), models.Encoder(cases.TINY["bert"]))
    pair, key = models.EncoderDecoder(cases.TINY["t5"]), jax.random.key(0)
    cache = models.empty_cache(published.llama(11, 2, 12, 20, 4, 2, 6), 1, 8)
    rotary = models.Decoder(published.llama(11, 2, 12, 20, 4, 2, 6))
    good = np.zeros((1, 3), int)
    for call, message in (
        (lambda: decoder.init(key, tokens), r"tokens: 11 is outside \[0, 11\)"),
        (lambda: decoder.init(key, -tokens), "tokens: -4"),
        (lambda: decoder.init(key, good, positions=good + 8), r"positions: 8 is outside \[0, 8\)"),
        (lambda: encoder.init(key, tokens), "tokens: 11"),
        (lambda: encoder.init(key, good, good + 2), r"segments: 2 is outside \[0, 2\)"),
        (lambda: pair.init(key, tokens, good), "source: 11"),
        (lambda: pair.init(key, good, tokens), "target: 11"),
        (
            lambda: rotary.init(key, good, np.array([[7, 8, 9]]), cache=cache),
            r"slots: 8 is outside \[0, 8\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call)
