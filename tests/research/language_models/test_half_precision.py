"""Samplers, caches, quantised products and evaluation in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.language_models import caches, perplexity, quantization, sampling, speculative
from tests import half_precision

RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.uniform(0.5, 1, (4096, 3)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.5, 1, (2, 4096)), jnp.float32)
LOGITS = jnp.asarray(3 * RNG.normal(size=(2, 1000)), jnp.float32)
P, Q = (jax.nn.log_softmax(jnp.asarray(RNG.normal(size=(4, 50)), jnp.float32)) for _ in "pq")


def law(**options):
    return lambda: (sampling.Sampler(**options).log_probs, (LOGITS,))


def product(bits, group):
    """Sums of 4,096 products."""
    return lambda: (
        jax.jit(lambda x, w: quantization.dot(x, quantization.quantize(w, bits, group))),
        (X, WEIGHTS),
    )


def restored(weights):
    return quantization.dequantize(quantization.quantize(weights, 4, 64))


def cached(key, value):
    layer = jax.tree.map(lambda leaf: leaf[0], caches.int8(1, 1, 8, 2, 16))
    return layer.update(key, value, jnp.arange(8)[None])[1:3]


def keys_and_values():
    return tuple(jnp.asarray(RNG.normal(size=(1, 8, 2, 16)), jnp.float32) for _ in "kv")


def read(params, tokens):
    return params[tokens]


def scores(table):
    tokens = np.random.default_rng(0).integers(0, 50, 300)
    values = perplexity.token_log_probs(read, table, tokens, window=64, batch_size=2)
    return jnp.asarray(values, jnp.float32)


CASES = {
    "quantization.quantize": lambda: (jax.jit(restored), (WEIGHTS,)),
    "quantization.dequantize": lambda: (
        lambda w: quantization.dequantize(quantization.quantize(w), w.dtype), (WEIGHTS,),
    ),
    "quantization.dequantize_tree": lambda: (
        lambda w: quantization.dequantize_tree(quantization.quantize_tree({"kernel": w}), w.dtype),
        (WEIGHTS,),
    ),
    "quantization.dot, 8 bits": product(8, None),
    "quantization.dot, 4 bits in groups": product(4, 64),
    "caches.Int8": lambda: (jax.jit(cached), keys_and_values()),
    "sampling.top_k": lambda: (lambda x: sampling.top_k(x, 5), (LOGITS,)),
    "sampling.top_p": lambda: (lambda x: sampling.top_p(x, 0.6), (LOGITS,)),
    "sampling.top_p, equal": lambda: (lambda x: sampling.top_p(x, 0.6), (jnp.zeros(4096),)),
    "sampling.min_p": lambda: (lambda x: sampling.min_p(x, 0.05), (LOGITS,)),
    "sampling.Sampler": law(temperature=0.7),
    "sampling.Sampler, greedy": law(temperature=0.0),
    "sampling.Sampler, filtered": law(top_k=50, top_p=0.9, min_p=0.01),
    "speculative.acceptance": lambda: (
        lambda p, q: speculative.acceptance(p, q, jnp.arange(4)), (P, Q),
    ),
    "speculative.residual": lambda: (speculative.residual, (P, Q)),
    "speculative.verify": lambda: (
        lambda p, q: speculative.verify(jax.random.key(0), jnp.arange(3), q, p)[0] * 1.0,
        (P, Q[:3]),
    ),
    "perplexity.token_log_probs": lambda: (scores, (jnp.asarray(RNG.normal(size=(50, 50))),)),
    "perplexity.perplexity": lambda: (
        lambda x: jnp.float32(perplexity.perplexity(x)), (-jnp.asarray(RNG.uniform(2, 4, 8192)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
