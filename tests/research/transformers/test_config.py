"""A config.json as ours: families in the words of their files, what differs, what is refused."""

import dataclasses
import json

import flax.linen as nn
import pytest

from research.attention.positions import Rope
from research.transformers import configs, layers, published

GPT2 = {
    "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024,
    "vocab_size": 50_257, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
}  # fmt: skip
LLAMA = {  # config.json of meta-llama/Meta-Llama-3-8B
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128_256,
    "intermediate_size": 14_336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "rope_scaling": None, "attention_bias": False,
}  # fmt: skip
LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
MISTRAL = {
    **LLAMA, "model_type": "mistral", "vocab_size": 32_000, "rope_theta": 10_000.0,
    "sliding_window": 4096,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18, "head_dim": 256,
    "intermediate_size": 16_384, "num_attention_heads": 8, "num_key_value_heads": 1,
    "vocab_size": 256_000, "hidden_act": "gelu", "rope_theta": 10_000.0,
}  # fmt: skip
BERT = {
    "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "vocab_size": 30_522, "max_position_embeddings": 512,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip
T5 = {
    "model_type": "t5", "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 6, "num_heads": 8,
    "vocab_size": 32_128, "relative_attention_num_buckets": 32, "feed_forward_proj": "relu",
}  # fmt: skip


@pytest.mark.parametrize(
    "given, ours",
    [
        (GPT2, published.GPT2_SMALL),
        (LLAMA, published.LLAMA3_8B),
        (MISTRAL, published.MISTRAL_7B),
        (GEMMA, published.GEMMA_2B),
        (BERT, published.BERT_BASE),
        (T5, published.T5_SMALL),
    ],
    ids=lambda value: value.get("model_type", "") if isinstance(value, dict) else "",
)
def test_published_files_are_the_published_configs(given, ours, tmp_path):
    assert configs.from_dict(given) == ours
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert configs.read(tmp_path) == configs.read(tmp_path / "config.json") == ours


def test_what_a_file_may_change():
    """Each field away from its published value, one by one."""

    def stack(given, **changes):
        return configs.from_dict({**given, **changes}).stack

    assert stack(GPT2, n_inner=100).hidden_dim == 100
    assert stack(GPT2, activation_function="relu").activation is nn.relu
    assert stack(GPT2, layer_norm_epsilon=1e-3).norm == layers.Norm(epsilon=1e-3)
    assert stack(LLAMA, head_dim=64).kv_shape == (8, 64)
    assert stack(LLAMA, hidden_act="gelu").activation is layers.gelu_exact
    assert stack(LLAMA, rms_norm_eps=1e-3).norm.epsilon == 1e-3
    assert stack({k: v for k, v in LLAMA.items() if k != "rms_norm_eps"}).norm.epsilon == 1e-6
    assert configs.from_dict({**LLAMA, "tie_word_embeddings": True}).tied
    assert stack(GEMMA, rms_norm_eps=1e-3).norm == layers.Norm("rms", 1e-3, scale_offset=1.0)
    assert stack(BERT, intermediate_size=99).hidden_dim == 99
    assert stack(BERT, layer_norm_eps=1e-3).norm.epsilon == 1e-3
    longer = configs.from_dict({**BERT, "max_position_embeddings": 64, "type_vocab_size": 5})
    assert (longer.max_length, longer.num_segments) == (64, 5)
    heads = {"pooler": True, "masked_lm": True, "next_sentence": True}
    assert configs.from_dict(BERT, **heads) == dataclasses.replace(published.BERT_BASE, **heads)
    assert configs.from_dict({**T5, "num_decoder_layers": 2}).decoder.depth == 2


def test_both_spellings_of_a_scaling():
    expected = Rope(500_000.0, llama3_factor=32.0, original_length=512, low=2.0, high=8.0)
    older = configs.from_dict({**LLAMA, "rope_scaling": LLAMA3_SCALING})
    bare = {name: value for name, value in LLAMA.items() if name != "rope_theta"}
    parameters = {**LLAMA3_SCALING, "rope_theta": 500_000.0}
    newer = configs.from_dict({**bare, "rope_parameters": parameters})
    assert older.stack.rope == newer.stack.rope == expected
    linear = configs.from_dict({**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert linear.stack.rope == Rope(500_000.0, linear_factor=4.0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({**GPT2, "model_type": "opt"}, "model_type 'opt'"),
        ({**GPT2, "activation_function": "swish"}, "activation 'swish'"),
        ({**LLAMA, "attention_bias": True}, "only LLaMA without biases"),
        ({**LLAMA, "mlp_bias": True}, "only LLaMA without biases"),
        ({**LLAMA, "rope_scaling": {"rope_type": "yarn"}}, "rope scaling 'yarn'"),
        ({**GEMMA, "hidden_act": "relu"}, "hidden_act='relu'"),
        ({**T5, "feed_forward_proj": "gated-gelu"}, "feed_forward_proj='gated-gelu'"),
        ({**T5, "relative_attention_num_buckets": 64}, "expected 32"),
    ],
)
def test_what_is_not_supported_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(given)
