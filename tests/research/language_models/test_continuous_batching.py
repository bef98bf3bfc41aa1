"""Continuous batching: each request as if alone, in order, with pages short or plenty."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import caches, continuous_batching, generation, sampling
from research.transformers import models
from tests.research.language_models import decoders, tiny
from tests.research.language_models.decoders import TOKENS


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
        tiny.init(layers=1),
        tiny.paged(2, 5, num_pages, 3, layers=1),
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
    alone = tiny.generate(prompts, lengths, rngs, num_tokens=11, sampler=sampler, stop_token=3)
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

    continuous_batching.serve(
        watched, tiny.init(layers=1), tiny.paged(1, 2, 2, 3, layers=1), requests, max_prompt=1
    )
    jax.effects_barrier()
    assert seen == [3, 1, 4, 1, 5]


def test_real_decoders_serve_each_request_alone():
    step, params = decoders.decoder(decoders.LLAMA)
    sampler = sampling.Sampler(temperature=0.9, top_p=0.9)
    rngs = jax.random.split(jax.random.key(3), 5)
    counts = [3, 9, 1, 6, 9]
    requests = [
        continuous_batching.Request(TOKENS[0, : 2 + index], count, key)
        for index, (count, key) in enumerate(zip(counts, rngs))
    ]
    make = functools.partial(caches.paged, num_pages=6, page_size=4)
    cache = models.empty_cache(decoders.LLAMA, 2, 4, make=make)
    served = continuous_batching.serve(
        step, params, cache, requests, max_prompt=6, chunk=4, sampler=sampler
    )
    prompts = np.tile(TOKENS[0, :6], (5, 1))
    alone = generation.generate(
        step,
        params,
        models.empty_cache(decoders.LLAMA, 5, 16),
        jnp.asarray(prompts),
        jnp.arange(2, 7),
        rngs,
        num_tokens=9,
        sampler=sampler,
        capacity=16,
    )
    for row, count in enumerate(counts):
        np.testing.assert_array_equal(served[row], alone.tokens[row, :count])


def test_bad_input():
    request = continuous_batching.Request(np.arange(4), 9, jax.random.key(0))
    change = functools.partial(dataclasses.replace, request)
    serve = functools.partial(continuous_batching.serve, tiny.step, None, tiny.paged(2, 3, 9, 3))
    for broken, message in [
        (lambda: serve([request], max_prompt=3), r"0: a prompt of shape \(4,\): .* max_prompt=3"),
        (
            lambda: serve([change(prompt=[1, 2.5])], max_prompt=4),
            "request 0: a prompt of type float64: expected integers",
        ),
        (
            lambda: serve([change(prompt=np.ones((1, 2), int))], max_prompt=4),
            r"a prompt of shape \(1, 2\)",
        ),
        (
            lambda: serve([change(num_tokens=3.0)], max_prompt=4),
            "request 0: num_tokens=3.0: expected a positive whole number",
        ),
        (lambda: serve([request], max_prompt=4, chunk=2.0), "chunk=2.0: expected a positive"),
        (lambda: serve([request], max_prompt=4), "needs 4 pages of 3: a row can have 3"),
        (lambda: serve([request], max_prompt=4, chunk=0), "chunk=0"),
        (
            lambda: continuous_batching.serve(tiny.step, None, {}, [request], max_prompt=4),
            "tree of caches.Paged",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
