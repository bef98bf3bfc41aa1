"""What decoding, quantisation and tokenisers compute where a keyword is left out."""

import functools
from collections import Counter
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import (
    beam,
    byte_pairs_training,
    caches,
    continuous_batching,
    generation,
    perplexity,
    quantization,
    sampling,
    speculative,
    unigram_training,
)
from tests import defaults
from tests.research.language_models import tiny

PARAMS = tiny.init(layers=1)
PROMPTS = np.array([[1, 2, 3]], np.int32)
LENGTHS = np.array([3], np.int32)
RNGS = jax.random.split(jax.random.key(0), 1)
WEIGHTS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
WORDS = Counter({"banana" * 4: 4, "bandana": 3, "ban": 2, "nab": 1})


class Seen(Exception):
    """What would have been run."""


def given(module, name, call):
    """The static arguments of the compiled function that `call` reaches, which is not run."""
    with mock.patch.object(module, name, side_effect=Seen) as compiled, pytest.raises(Seen):
        call()
    static = int | float | str | sampling.Sampler
    return [leaf for leaf in compiled.call_args.args if isinstance(leaf, static)]


def searched(**options):
    cache = tiny.empty(2, 8, layers=1)
    options = {"width": 2, "num_tokens": 3} | options
    call = lambda: beam.beam_search(tiny.step, PARAMS, cache, PROMPTS[0], **options)
    return given(beam, "_search", call)


def generated(**options):
    cache = tiny.empty(1, 8, layers=1)
    call = lambda: generation.generate(
        tiny.step, PARAMS, cache, PROMPTS, LENGTHS, RNGS, num_tokens=3, **options
    )
    return given(generation, "_generate", call)


def speculated(**options):
    models = [(tiny.step, PARAMS, tiny.empty(1, 16, layers=1)) for _ in range(2)]
    call = lambda: speculative.generate(*models, PROMPTS, LENGTHS, RNGS, num_tokens=3, **options)
    return given(speculative, "_generate", call)


def served(**options):
    request = continuous_batching.Request(PROMPTS[0], 4, RNGS[0])
    cache = tiny.paged(1, 3, 3, 3, layers=1)
    call = lambda: continuous_batching.serve(
        tiny.step, PARAMS, cache, [request], max_prompt=3, **options
    )
    first = lambda *args: (np.ones(1, np.int32), cache)
    with mock.patch.object(continuous_batching, "_start", first):
        return given(continuous_batching, "_decode", call)


def windows(**options):
    """Shapes of the batches of a long stream."""
    apply, seen = lambda params, tokens: jnp.zeros((*tokens.shape, 7)), []

    def log_probs(apply, params, tokens):
        seen.append(tokens.shape)
        return np.zeros((len(tokens), tokens.shape[1] - 1))

    with mock.patch.object(perplexity, "_log_probs", log_probs):
        perplexity.token_log_probs(apply, {}, np.zeros(40, int), window=3, **options)
    return seen


def quantized(function, **options):
    made = function({"a": {"kernel": WEIGHTS}}, **options)["a"]["kernel"]
    return jax.tree.leaves(made)


def trained(**options):
    """How many candidates of which length there were, how many steps, and what came out."""
    seed, em_step = unigram_training.seed, unigram_training.em_step
    with (
        mock.patch.object(unigram_training, "seed", wraps=seed) as seed,
        mock.patch.object(unigram_training, "em_step", wraps=em_step) as em_step,
    ):
        made = unigram_training.train(WORDS, 9, **options)
    return seed.call_args.args[1:], em_step.call_count, list(made.pieces), made.scores


SAMPLERS = (sampling.GREEDY, sampling.Sampler())
CASES = {
    "beam_search": (searched, {"length_penalty": (0.0, 0.5)}),
    "generate": (generated, {"sampler": SAMPLERS, "pad": (0, 1)}),
    "speculative": (speculated, {"num_drafts": (4, 3), "sampler": SAMPLERS}),
    "serve": (served, {"chunk": (8, 7), "sampler": SAMPLERS}),
    "Sampler": (
        lambda **options: sampling.Sampler(**options).log_probs(jnp.asarray(WEIGHTS)),
        {"temperature": (1.0, 1.1), "top_k": (None, 2), "top_p": (None, 0.5), "min_p": (None, 0.5)},
    ),
    "token_log_probs": (windows, {"stride": (3, 2), "batch_size": (8, 7)}),
    "quantize": (
        lambda **options: jax.tree.leaves(quantization.quantize(WEIGHTS, **options)),
        {"bits": (8, 4), "group": (None, 4)},
    ),
    "dequantize": (
        functools.partial(quantization.dequantize, quantization.quantize(WEIGHTS)),
        {"dtype": (jnp.float32, jnp.bfloat16)},
    ),
    "quantize_tree": (
        functools.partial(quantized, quantization.quantize_tree),
        {"bits": (8, 4), "group": (None, 4)},
    ),
    "ring": (
        functools.partial(caches.ring, 1, 2, 3, 1, 4),
        {"dtype": (jnp.float32, jnp.bfloat16)},
    ),
    "byte pairs": (
        lambda **options: byte_pairs_training.train({b"ab": 1}, 257, **options).merges,
        {"min_count": (1, 2)},
    ),
    "unigram": (
        trained,
        {
            "max_piece": (16, 2),
            "num_seeds": (100_000, 12),
            "shrink": (0.75,),
            "em_steps": (2, 3),
        },
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
