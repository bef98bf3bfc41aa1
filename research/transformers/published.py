"""Published architectures as configs; the tests hold their parameter counts exactly."""

from __future__ import annotations

import dataclasses

import flax.linen as nn

from research.attention.positions import Rope
from research.transformers import layers, models


def gpt2(depth: int, width: int, num_heads: int) -> models.DecoderConfig:
    """GPT-2 (Radford et al. 2019), table 2, with heads of 64."""
    stack = layers.Stack(depth, width, num_heads, 4 * width)
    return models.DecoderConfig(50_257, stack, max_length=1024)


def nano_gpt(
    vocab_size: int,
    depth: int,
    width: int,
    num_heads: int,
    max_length: int,
    dropout: float = 0.0,
    **options: object,
) -> models.DecoderConfig:
    """A GPT without biases and with the exact GELU, as github.com/karpathy/nanoGPT trains it."""
    stack = layers.Stack(
        depth,
        width,
        num_heads,
        4 * width,
        norm=layers.Norm(use_bias=False),
        activation=layers.gelu_exact,
        use_bias=False,
        dropout=dropout,
        **options,
    )
    return models.DecoderConfig(vocab_size, stack, max_length=max_length)


def llama(
    vocab_size: int,
    depth: int,
    width: int,
    hidden_dim: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    rope: Rope = Rope(),
    epsilon: float = 1e-5,
    tied: bool = False,
    window: int | None = None,
) -> models.DecoderConfig:
    """LLaMA (Touvron et al. 2023, arXiv:2302.13971): RMS norm, SwiGLU, rotary positions."""
    stack = layers.Stack(
        depth,
        width,
        num_heads,
        hidden_dim,
        num_kv_heads,
        head_dim,
        norm=layers.Norm("rms", epsilon),
        activation=nn.silu,
        gated=True,
        use_bias=False,
        rope=rope,
        window=window,
    )
    return models.DecoderConfig(vocab_size, stack, tied=tied)


def gemma(
    vocab_size: int,
    depth: int,
    width: int,
    hidden_dim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> models.DecoderConfig:
    """Gemma (arXiv:2403.08295): LLaMA with GeGLU, 1 + scale, a tied and scaled embedding."""
    config = llama(
        vocab_size, depth, width, hidden_dim, num_heads, num_kv_heads, head_dim, tied=True
    )
    stack = dataclasses.replace(
        config.stack,
        norm=layers.Norm("rms", 1e-6, scale_offset=1.0),
        activation=layers.gelu_tanh,
    )
    return dataclasses.replace(config, stack=stack, embed_scale=width**0.5)


def bert(
    depth: int,
    width: int,
    num_heads: int,
    vocab_size: int = 30_522,
    epsilon: float = 1e-12,
    **options: object,
) -> models.EncoderConfig:
    """BERT (Devlin et al. 2018, arXiv:1810.04805); options are the heads of `EncoderConfig`."""
    stack = layers.Stack(
        depth,
        width,
        num_heads,
        4 * width,
        norm=layers.Norm(epsilon=epsilon),
        pre_norm=False,
        activation=layers.gelu_exact,
        causal=False,
    )
    return models.EncoderConfig(vocab_size, stack, **options)


def t5(
    depth: int,
    width: int,
    hidden_dim: int,
    num_heads: int,
    head_dim: int = 64,
    vocab_size: int = 32_128,
) -> models.EncoderDecoderConfig:
    """T5 v1.0 (Raffel et al. 2019, arXiv:1910.10683): ReLU, no scale, bucketed positions, tied."""
    encoder = layers.Stack(
        depth,
        width,
        num_heads,
        hidden_dim,
        head_dim=head_dim,
        norm=layers.Norm("rms", 1e-6),
        activation=nn.relu,
        use_bias=False,
        scale=1.0,
        num_buckets=32,
        causal=False,
    )
    decoder = dataclasses.replace(encoder, causal=True, cross=True)
    return models.EncoderDecoderConfig(vocab_size, encoder, decoder, logit_scale=width**-0.5)


def vaswani(
    vocab_size: int, depth: int, width: int, num_heads: int, hidden_dim: int, **options: object
) -> models.EncoderDecoderConfig:
    """The transformer of 2017 (arXiv:1706.03762, table 3); options are those of `Stack`."""
    encoder = layers.Stack(
        depth,
        width,
        num_heads,
        hidden_dim,
        pre_norm=False,
        activation=nn.relu,
        causal=False,
        **options,
    )
    decoder = dataclasses.replace(encoder, causal=True, cross=True)
    return models.EncoderDecoderConfig(
        vocab_size, encoder, decoder, sinusoidal=True, embed_scale=width**0.5
    )


GPT2_SMALL = gpt2(12, 768, 12)
GPT2_MEDIUM = gpt2(24, 1024, 16)
GPT2_LARGE = gpt2(36, 1280, 20)
GPT2_XL = gpt2(48, 1600, 25)

NANO_CPU = nano_gpt(65, 4, 128, 4, 64)
NANO_GPU = nano_gpt(65, 6, 384, 6, 256, dropout=0.2)

LLAMA_7B = llama(32_000, 32, 4096, 11_008, 32, epsilon=1e-6)
LLAMA2_13B = llama(32_000, 40, 5120, 13_824, 40)
LLAMA3_8B = llama(128_256, 32, 4096, 14_336, 32, 8, rope=Rope(500_000.0))
LLAMA32_1B = llama(
    128_256, 16, 2048, 8192, 32, 8, rope=Rope(500_000.0, llama3_factor=32.0), tied=True
)
TINY_LLAMA = llama(32_000, 22, 2048, 5632, 32, 4)
MISTRAL_7B = llama(32_000, 32, 4096, 14_336, 32, 8, window=4096)
GEMMA_2B = gemma(256_000, 18, 2048, 16_384, 8, 1, 256)

BERT_BASE = bert(12, 768, 12)
BERT_LARGE = bert(24, 1024, 16)
ROBERTA_BASE = bert(
    12, 768, 12, 50_265, 1e-5, max_length=514, num_segments=1, first_position=2, pooler=True
)

T5_SMALL = t5(6, 512, 2048, 8)
T5_BASE = t5(12, 768, 3072, 12)
VASWANI_BASE = vaswani(37_000, 6, 512, 8, 2048, dropout=0.1)
VASWANI_BIG = vaswani(37_000, 6, 1024, 16, 4096, dropout=0.3)
