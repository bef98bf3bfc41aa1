"""What layers, losses and published models are where a keyword is left out."""

import functools

import jax.numpy as jnp
import pytest

from research.attention.positions import Rope
from research.transformers import layers, losses, models, published
from research.transformers.huggingface import names
from tests import defaults

SMALL = (2, 8, 2, 16)  # depth, width, heads, hidden
STACK = layers.Stack(*SMALL)
SEES_ALL = layers.Stack(*SMALL, causal=False)
CROSS = layers.Stack(*SMALL, cross=True)
CASES = {  # configs are compared: what each field does is tested beside the models
    "Norm": (
        layers.Norm,
        {
            "kind": ("layer", "rms"),
            "epsilon": (1e-5, 1e-6),
            "use_bias": (True, False),
            "scale_offset": (0.0, 1.0),
        },
    ),
    "Stack": (
        functools.partial(layers.Stack, *SMALL),
        {
            "num_kv_heads": (None, 1),
            "head_dim": (None, 3),
            "norm": (layers.Norm("layer", 1e-5), layers.Norm("rms", 1e-5)),
            "pre_norm": (True, False),
            "activation": (layers.gelu_tanh, layers.gelu_exact),
            "gated": (False, True),
            "use_bias": (True, False),
            "scale": (None, 1.0),
            "rope": (None, Rope()),
            "num_buckets": (None, 32),
            "alibi": (False, True),
            "causal": (True, False),
            "window": (None, 2),
            "cross": (False, True),
            "dropout": (0.0, 0.1),
            "init_std": (0.02, 0.03),
            "remat": (False, True),
            "unroll": (1, 2),
            "scanned": (True, False),
            "implementation": ("auto", "plain"),
        },
    ),
    "DecoderConfig": (
        functools.partial(models.DecoderConfig, 5, STACK),
        {
            "max_length": (None, 4),
            "tied": (True, False),
            "embed_scale": (1.0, 2.0),
            "logit_scale": (1.0, 2.0),
        },
    ),
    "EncoderConfig": (
        functools.partial(models.EncoderConfig, 5, SEES_ALL),
        {
            "max_length": (512, 511),
            "num_segments": (2, 3),
            "first_position": (0, 1),
            "pooler": (False, True),
            "masked_lm": (False, True),
            "next_sentence": (False,),
        },
    ),
    "EncoderDecoderConfig": (
        functools.partial(models.EncoderDecoderConfig, 5, SEES_ALL, CROSS),
        {
            "sinusoidal": (False, True),
            "max_length": (None, 4),
            "embed_scale": (1.0, 2.0),
            "tied": (True, False),
            "logit_scale": (1.0, 2.0),
        },
    ),
    "empty_cache": (
        functools.partial(models.empty_cache, models.DecoderConfig(5, STACK), 2, 3),
        {"dtype": (jnp.float32, jnp.bfloat16)},
    ),
    "Masking": (
        functools.partial(losses.Masking, 4, 5),
        {"rate": (0.15, 0.16), "first_token": (0, 1)},
    ),
    "Entry": (
        lambda **options: names.Entry("a", ("b",), "patches", **options).shape([(8, 3)]),
        {"patch": (1, 2)},
    ),
    "nano_gpt": (
        functools.partial(published.nano_gpt, 5, 2, 8, 2, 4),
        {"dropout": (0.0, 0.1)},
    ),
    "llama": (
        functools.partial(published.llama, 5, *SMALL[:2], 16, 2),
        {
            "num_kv_heads": (None, 1),
            "head_dim": (None, 3),
            "rope": (Rope(10_000.0), Rope(500_000.0)),
            "epsilon": (1e-5, 1e-6),
            "tied": (False, True),
            "window": (None, 2),
        },
    ),
    "bert": (
        functools.partial(published.bert, 2, 8, 2),
        {"vocab_size": (30_522, 30_523), "epsilon": (1e-12, 1e-5)},
    ),
    "t5": (
        functools.partial(published.t5, 2, 8, 16, 2),
        {"head_dim": (64, 32), "vocab_size": (32_128, 32_129)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
