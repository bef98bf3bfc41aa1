"""Transformers: one stack of layers, architectures as frozen configs, weights in and out.

>>> import jax, jax.numpy as jnp
>>> from research import transformers
>>> config = transformers.published.gpt2(depth=2, width=64, num_heads=4)
>>> model, tokens = transformers.Decoder(config), jnp.zeros((1, 5), int)
>>> params = jax.jit(model.init)(jax.random.key(0), tokens)
>>> apply = jax.jit(model.apply)
>>> apply(params, tokens).shape  # [B, T] -> [B, T, V]
(1, 5, 50257)
>>> cache = transformers.empty_cache(config, batch=1, length=8)
>>> logits, cache = apply(params, tokens, positions=jnp.arange(5)[None], cache=cache)

    layers.py     Stack (the config of a stack of layers) and Layers (its Flax module)
    models.py     Decoder (GPT-2, LLaMA, Mistral, Gemma), Encoder (BERT), EncoderDecoder (T5, 2017)
    published.py  the published configs: `published.GPT2_SMALL`, `published.LLAMA_7B`, ...
    losses.py     next-token, masked and sequence-to-sequence losses for the shared training step
    checks.py     tokens, positions and slots in their range, where the host knows them
    placement.py  rules for `library.sharding`: tensor parallelism by path
    mup.py        muP: one learning rate for every width
    huggingface/  weights: checkpoints in and out, checked by shape; names: which tensor is which;
                  config: a config.json as one of our configs

`huggingface.weights` needs the package safetensors where a file is read or written, nothing else.
"""

from research.transformers import checks, layers, losses, models, mup, placement, published
from research.transformers import published as sizes  # its earlier name
from research.transformers.huggingface import config as configs
from research.transformers.huggingface import names, weights
from research.transformers.models import Decoder, Encoder, EncoderDecoder, empty_cache

PARENTS = ("attention",)

__all__ = [
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "checks",
    "configs",
    "empty_cache",
    "layers",
    "losses",
    "models",
    "mup",
    "names",
    "placement",
    "published",
    "sizes",
    "weights",
]
