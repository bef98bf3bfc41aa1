"""Beam search: the optimum by enumeration, width one is greedy, ends and their order."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import beam, generation
from research.transformers import models
from tests.research.language_models import decoders, tiny

PARAMS = tiny.init(layers=1)


def search(prompt, width, **options):
    cache = tiny.empty(int(width), 8, layers=1)
    return beam.beam_search(tiny.step, PARAMS, cache, prompt, width=width, **options)


def score(prompt, continuation):
    tokens = np.zeros((1, 8), np.int32)
    tokens[0, : len(prompt) + len(continuation)] = [*prompt, *continuation]
    log_probs = np.asarray(tiny.full(PARAMS, tokens)[0], np.float64)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    places = np.arange(len(prompt) - 1, len(prompt) + len(continuation) - 1)
    return log_probs[places, continuation].sum()


def test_a_wide_beam_finds_the_optimum_and_width_one_is_greedy():
    prompt = np.array([1, 2, 3])
    wide = search(prompt, 49, num_tokens=3)
    ways = np.array(list(itertools.product(range(7), repeat=3)))
    whole = jnp.asarray(np.concatenate([np.tile(prompt, (343, 1)), ways], axis=1))
    log_probs = np.asarray(jax.nn.log_softmax(tiny.full(PARAMS, whole)[:, 2:5]))
    scores = np.take_along_axis(log_probs, ways[:, :, None], axis=2).sum((1, 2))
    best = np.argsort(-scores)[:49]
    np.testing.assert_allclose(wide.log_probs, scores[best], rtol=1e-5)
    np.testing.assert_array_equal(wide.tokens[0], ways[best[0]])
    narrow = search(prompt, 1, num_tokens=3)
    text = np.array([[*prompt, 0, 0, 0]])
    for place in range(3, 6):
        text[0, place] = tiny.full(PARAMS, text)[0, place - 1].argmax()
    np.testing.assert_array_equal(narrow.tokens, text[:, 3:])
    assert narrow.log_probs[0] <= wide.log_probs[0] + 1e-6


def test_layers_apart_are_reordered_by_a_function_of_their_own():
    """The same hypotheses as by one stack of layers, whose rows are the second axis."""
    step, params = decoders.decoder(decoders.LLAMA)
    cache = models.empty_cache(decoders.LLAMA, 5, 8)
    config, apart, rows = models.unstack(decoders.LLAMA, params, cache)
    apart_step = generation.DecoderStep(models.Decoder(config))
    prompt, options = np.array([1, 2, 3]), {"width": 5, "num_tokens": 4}

    def reorder(cache, parents):
        return jax.tree.map(lambda leaf: leaf[parents], cache)

    expected = beam.beam_search(step, params, cache, prompt, **options)
    found = beam.beam_search(apart_step, apart, rows, prompt, **options, reorder=reorder)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-4)
    with pytest.raises(ValueError, match=r"begin with .*: expected \[L, 5, ...\], or a reorder="):
        beam.beam_search(apart_step, apart, rows, prompt, **options)
    with pytest.raises(ValueError, match="a cache of pages"):
        pages = models.empty_cache(decoders.LLAMA, 5, 8, make=decoders.pages)
        beam.beam_search(step, params, pages, prompt, **options)


def test_a_stop_token_ends_a_hypothesis():
    prompt = np.array([1, 2])
    find = functools.partial(search, prompt, 60, num_tokens=3, stop_token=4)
    out = find(length_penalty=1.0)
    ends = np.asarray(out.lengths)
    assert len(set(ends.tolist())) > 1
    for row in range(0, 60, 7):
        tokens = np.asarray(out.tokens[row])
        assert (tokens[ends[row] :] == 4).all() and 4 not in tokens[: ends[row] - 1]
        np.testing.assert_allclose(
            out.log_probs[row], score(prompt, tokens[: ends[row]]), rtol=1e-5
        )
    assert (np.diff(np.asarray(out.log_probs) / ends) <= 1e-6).all()
    # A strong penalty puts long hypotheses first, which then are not in the order of their scores.
    far = find(length_penalty=5.0)
    assert (np.diff(np.asarray(far.log_probs) / np.asarray(far.lengths) ** 5.0) <= 1e-6).all()
    assert (np.diff(np.asarray(far.log_probs)) > 0).any()


def test_rows_follow_their_parents():
    cache = {"key": jnp.arange(12.0).reshape(2, 3, 2)}
    taken = beam.take_rows(cache, jnp.array([2, 2, 0]))["key"]
    np.testing.assert_array_equal(taken, cache["key"][:, [2, 2, 0]])


def test_bad_input():
    prompt = jnp.array([1, 2])
    for broken, message in [
        (lambda: search(prompt, 0, num_tokens=2), "width=0"),
        (lambda: search(prompt, 2.0, num_tokens=2), "width=2.0: expected a positive whole number"),
        (lambda: search(prompt, 1, num_tokens=2.0), "num_tokens=2.0: expected a positive whole"),
        (lambda: search(prompt, 1, num_tokens=2, length_penalty=np.nan), "length_penalty=nan"),
        (lambda: search(prompt + 0.5, 1, num_tokens=2), "prompt of type float32"),
        (lambda: search(prompt, 1, num_tokens=2, stop_token=[1, 2]), "expected one integer"),
        (lambda: search(prompt[None], 1, num_tokens=2), "shape"),
        (lambda: search(prompt, 1, num_tokens=2, capacity=2), "holds 2 positions: 3 are needed"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
