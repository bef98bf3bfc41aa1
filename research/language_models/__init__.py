"""Language models at work: tokenisers, decoding, caches, quantised weights, evaluation.

>>> import jax, jax.numpy as jnp
>>> from research import language_models, transformers
>>> text = "the cat sat on the mat; the cat sat"
>>> counts = language_models.byte_pairs_training.count_words([text])
>>> tokenizer = language_models.byte_pairs_training.train(counts, vocab_size=260)
>>> tokenizer.decode(tokenizer.encode(text)) == text
True
>>> sampler = language_models.sampling.Sampler(temperature=0.0)
>>> int(jnp.argmax(sampler.log_probs(jnp.array([[0.0, 2.0, 1.0]]))))
1

    tokenizers/      byte_pairs, unigram, their training, pretokens, sentencepiece_file;
                     to_libraries needs the package tokenizers and is imported by its name
    decoding/        generation, sampling, beam, speculative, continuous_batching, caches; checks
                     of prompts and of the room in a cache
    quantization.py  weights in 8 or 4 bits
    perplexity.py    each token of a stream predicted once
    ngrams.py        the baselines that a model must beat
"""

from research.language_models import ngrams, perplexity, quantization
from research.language_models.decoding import (
    beam,
    caches,
    continuous_batching,
    generation,
    sampling,
    speculative,
)
from research.language_models.decoding import continuous_batching as continuous  # its earlier name
from research.language_models.decoding.beam import beam_search
from research.language_models.decoding.generation import DecoderStep, generate
from research.language_models.tokenizers import (
    byte_pairs,
    byte_pairs_training,
    pretokens,
    sentencepiece_file,
    unigram,
    unigram_training,
)

PARENTS = ("attention", "transformers")

__all__ = [
    "DecoderStep",
    "beam",
    "beam_search",
    "byte_pairs",
    "byte_pairs_training",
    "caches",
    "continuous",
    "continuous_batching",
    "generate",
    "generation",
    "ngrams",
    "perplexity",
    "pretokens",
    "quantization",
    "sampling",
    "sentencepiece_file",
    "speculative",
    "unigram",
    "unigram_training",
]
