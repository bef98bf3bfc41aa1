"""Perplexity per character of every way to store a model's weights and its cache."""

from __future__ import annotations

import functools

import jax
import numpy as np

from experiments.language_models.inference import decoding
from library import claims
from library.types import Params, PyTree
from research.language_models import caches, perplexity, quantization
from research.transformers import models

PLAIN = claims.baseline("float32 weights and cache, same model and text")
BOUNDS = {"int8 weights": 1.01, "int8 cache": 1.01, "int4 weights, groups": 1.05}


def measured(
    model: models.Decoder,
    params: Params,
    test: np.ndarray,
    *,
    window: int,
    group: int,
    int8_cache: bool,
) -> claims.Result:
    """Perplexities, and bits a weight.

    Args:
        model, params: what is stored.
        test: held-out characters.
        window: characters that are seen at a time; half of them are judged.
        group: weights that share a scale, in groups of four bits.
        int8_cache: whether the cache of bytes is measured too.
    """
    stored, restored = _quantized(params, group)
    options = {"window": window, "stride": window // 2}
    plain = perplexity.perplexity(perplexity.token_log_probs(model.apply, params, test, **options))
    values = {"float32": plain}
    for name, weights in restored.items():
        values[name] = perplexity.perplexity(
            perplexity.token_log_probs(model.apply, weights, test, **options)
        )
    if int8_cache:
        through_cache = decoding.apply_through_cache(model, window, caches.int8)
        values["int8 cache"] = perplexity.perplexity(
            perplexity.token_log_probs(through_cache, params, test, **options)
        )
    bits = {name: quantization.tree_bits(tree) for name, tree in stored.items()}
    metrics = {f"perplexity {name}": value for name, value in values.items()}
    metrics |= {f"bits a weight, {name}": value for name, value in bits.items()}
    stated = [
        claims.at_most(f"perplexity, {name} / float32", values[name] / plain, bound, PLAIN)
        for name, bound in BOUNDS.items()
        if name in values
    ]
    return claims.Result(metrics, stated)


@functools.partial(jax.jit, static_argnums=1)
def _quantized(params: PyTree, group: int) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """By name of the format: the stored trees, and the weights that they stand for."""
    formats = {
        "int8 weights": (8, None),
        "int4 weights, groups": (4, group),
        "int4 weights, channels": (4, None),
    }
    stored = {
        name: quantization.quantize_tree(params, *chosen, quantization.decoder_kernels)
        for name, chosen in formats.items()
    }
    return stored, {name: quantization.dequantize_tree(tree) for name, tree in stored.items()}
