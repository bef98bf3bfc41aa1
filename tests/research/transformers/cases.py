"""Configs of every family, small; how their models start; random parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from research.transformers import models, published

TOKEN = jnp.zeros((1, 1), jnp.int32)
HEADS = {"pooler": True, "masked_lm": True, "next_sentence": True}
TINY = {
    "gpt2": dataclasses.replace(published.gpt2(2, 12, 3), vocab_size=11, max_length=8),
    "nano": published.nano_gpt(11, 2, 12, 3, 8),
    "llama": published.llama(11, 2, 12, 20, 4, 2, 6),
    "gemma": published.gemma(11, 2, 12, 20, 4, 1, 6),
    "bert": published.bert(2, 12, 3, 11, max_length=8, **HEADS),
    "t5": published.t5(2, 12, 20, 3, 5, 11),
}


def init_of(config):
    """The init function of the model of a config, and its arguments after the key."""
    if isinstance(config, models.DecoderConfig):
        return models.Decoder(config).init, (TOKEN,)
    if isinstance(config, models.EncoderConfig):
        return models.Encoder(config).init, (TOKEN,)
    return models.EncoderDecoder(config).init, (TOKEN, TOKEN)


def random_params(config, seed=0, dtype=np.float64, scale=0.3):
    init, args = init_of(config)
    noise = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0), *args)
    return jax.tree.map(
        lambda leaf: (scale * noise.standard_normal(leaf.shape)).astype(dtype), shapes
    )
