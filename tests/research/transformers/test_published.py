"""Parameter counts of published models, exactly, by tracing alone."""

import dataclasses

import jax
import pytest

from library.testing import count_parameters
from research.transformers import published
from tests.research.transformers import cases

BERT = published.BERT_BASE
COUNTS = {
    "GPT-2 small": (published.GPT2_SMALL, 124_439_808),
    "GPT-2 medium": (published.GPT2_MEDIUM, 354_823_168),
    "GPT-2 large": (published.GPT2_LARGE, 774_030_080),
    "GPT-2 XL": (published.GPT2_XL, 1_557_611_200),
    "nanoGPT CPU": (published.NANO_CPU, 804_096),
    "nanoGPT GPU": (published.NANO_GPU, 10_745_088),
    "BERT-base": (BERT, 108_891_648),
    "BERT-base, pooler": (dataclasses.replace(BERT, pooler=True), 109_482_240),
    "BERT-base, MLM": (dataclasses.replace(BERT, masked_lm=True), 109_514_298),
    "BERT-base, all heads": (
        dataclasses.replace(BERT, pooler=True, masked_lm=True, next_sentence=True), 110_106_428,
    ),
    "BERT-large, pooler": (dataclasses.replace(published.BERT_LARGE, pooler=True), 335_141_888),
    "RoBERTa-base, pooler": (published.ROBERTA_BASE, 124_645_632),
    "LLaMA-7B": (published.LLAMA_7B, 6_738_415_616),
    "LLaMA-2-13B": (published.LLAMA2_13B, 13_015_864_320),
    "Llama-3-8B": (published.LLAMA3_8B, 8_030_261_248),
    "Llama-3.2-1B": (published.LLAMA32_1B, 1_235_814_400),
    "TinyLlama": (published.TINY_LLAMA, 1_100_048_384),
    "Mistral-7B": (published.MISTRAL_7B, 7_241_732_096),
    "Gemma-2B": (published.GEMMA_2B, 2_506_172_416),
    "T5-small": (published.T5_SMALL, 60_506_624),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    config, expected = COUNTS[name]
    init, args = cases.init_of(config)
    assert count_parameters(init, jax.random.key(0), *args) == expected


def test_the_transformer_of_2017_by_its_formula():
    """Table 3 rounds to 65 million (base); per layer 4 d^2 of attention, 2 d f of perceptron.

    Here with biases in all linear maps: + 4 d and f + d; each norm 2 d.
    """
    d, f, vocab = 512, 2048, 37_000
    attention, perceptron, norm = 4 * d * d + 4 * d, 2 * d * f + f + d, 2 * d
    encoder = attention + perceptron + 2 * norm
    decoder = 2 * attention + perceptron + 3 * norm
    init, args = cases.init_of(published.VASWANI_BASE)
    count = count_parameters(init, jax.random.key(0), *args)
    assert count == vocab * d + 6 * (encoder + decoder)
    assert 62e6 < count < 66e6


def test_what_the_makers_are_told():
    """Rates, sizes of heads and vocabularies, where published sizes keep the defaults."""
    nano = published.nano_gpt(11, 2, 12, 3, 8, dropout=0.3, unroll=2)
    assert (nano.stack.dropout, nano.stack.unroll, nano.max_length) == (0.3, 2, 8)
    pair = published.t5(2, 12, 20, 3, head_dim=5, vocab_size=11)
    assert pair.encoder.kv_shape == pair.decoder.kv_shape == (3, 5) and pair.vocab_size == 11
    assert pair.encoder.activation is pair.decoder.activation is jax.nn.relu  # v1.1 is gated GELU
    assert pair.logit_scale == 12**-0.5 and pair.encoder.scale == pair.decoder.scale == 1.0
    assert published.bert(2, 12, 3, epsilon=1e-3).stack.norm.epsilon == 1e-3
