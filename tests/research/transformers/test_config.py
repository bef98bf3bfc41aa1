"""A config.json as ours: families in the words of their files, what differs, what is refused."""

import dataclasses
import json

import flax.linen as nn
import pytest

from research.attention.positions import Rope
from research.transformers import configs, layers, models, published

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


ROBERTA = {  # roberta-base
    **BERT, "model_type": "roberta", "vocab_size": 50_265, "max_position_embeddings": 514,
    "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
}  # fmt: skip
LLAMA1 = {  # huggyllama/llama-7b
    **LLAMA, "vocab_size": 32_000, "intermediate_size": 11_008, "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
}  # fmt: skip


def llama3_scaling(factor):
    return {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip


FILES = {  # every published size but those without a file: nanoGPT's and the transformer of 2017
    "GPT2_SMALL": GPT2,
    "GPT2_MEDIUM": {**GPT2, "n_layer": 24, "n_embd": 1024, "n_head": 16},
    "GPT2_LARGE": {**GPT2, "n_layer": 36, "n_embd": 1280, "n_head": 20},
    "GPT2_XL": {**GPT2, "n_layer": 48, "n_embd": 1600, "n_head": 25},
    "LLAMA_7B": LLAMA1,
    "LLAMA2_13B": {
        **LLAMA1, "hidden_size": 5120, "intermediate_size": 13_824, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 40, "rms_norm_eps": 1e-5,
    },
    "LLAMA3_8B": LLAMA,
    "LLAMA32_1B": {
        **LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "head_dim": 64, "tie_word_embeddings": True, "rope_scaling": llama3_scaling(32.0),
    },
    "TINY_LLAMA": {
        **LLAMA1, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
    },
    "MISTRAL_7B": MISTRAL,
    "GEMMA_2B": {**GEMMA, "rms_norm_eps": 1e-6},
    "BERT_BASE": BERT,
    "BERT_LARGE": {
        **BERT, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "ROBERTA_BASE": ROBERTA,
    "T5_SMALL": T5,
    "T5_BASE": {**T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}  # fmt: skip


def spelled_out(config):
    """A stack that says how many heads of what size, or the halves of a pair of them."""
    names = ("encoder", "decoder") if hasattr(config, "encoder") else ("stack",)
    stacks = {name: getattr(config, name) for name in names}
    full = {
        name: dataclasses.replace(stack, num_kv_heads=stack.kv_shape[0], head_dim=stack.kv_shape[1])
        for name, stack in stacks.items()
    }
    return dataclasses.replace(config, **full)


@pytest.mark.parametrize("name", FILES)
def test_published_files_are_the_published_configs(name, tmp_path):
    """In every field, also those that no count of parameters sees: epsilons, bases, windows."""
    given = FILES[name]
    heads = {"pooler": True} if name == "ROBERTA_BASE" else {}
    ours = spelled_out(getattr(published, name))
    assert spelled_out(configs.from_dict(given, **heads)) == ours
    (tmp_path / "config.json").write_text(json.dumps(given))
    for path in (tmp_path, tmp_path / "config.json"):
        assert spelled_out(configs.read(path, **heads)) == ours


def test_a_path_is_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    for path in ("~", "~/config.json"):
        assert configs.read(path) == configs.from_dict(GPT2)
    with pytest.raises(ValueError, match="path=hf://gpt2 is an address"):
        configs.read("hf://gpt2")


def test_every_published_size_has_its_file():
    kinds = models.DecoderConfig | models.EncoderConfig | models.EncoderDecoderConfig
    sizes = {name for name, value in vars(published).items() if isinstance(value, kinds)}
    assert sizes - set(FILES) == {"NANO_CPU", "NANO_GPU", "VASWANI_BASE", "VASWANI_BIG"}
    # Without a file: nanoGPT's and PyTorch's norms, and base 10,000 of the sines.
    for name in ("NANO_CPU", "VASWANI_BASE"):
        config = getattr(published, name)
        stack = getattr(config, "stack", None) or config.encoder
        assert stack.norm.epsilon == 1e-5 and stack.norm.kind == "layer"
    assert published.VASWANI_BASE.embed_scale == 512**0.5 and published.VASWANI_BASE.sinusoidal
    assert not published.VASWANI_BASE.encoder.pre_norm
    assert (published.NANO_GPU.stack.dropout, published.VASWANI_BIG.decoder.dropout) == (0.2, 0.3)


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
    other = configs.from_dict({**T5, "layer_norm_epsilon": 1e-3})
    assert other.encoder.norm.epsilon == other.decoder.norm.epsilon == 1e-3
    assert not configs.from_dict({**GPT2, "tie_word_embeddings": False}).tied
    assert stack(MISTRAL, use_sliding_window=False).window is None
    assert stack(MISTRAL, layer_types=["sliding_attention"] * 32).window == 4096
    assert stack(LLAMA, layer_types=["full_attention"] * 32).window is None
    for padding, first in ((1, 2), (0, 1), (None, 2)):
        assert configs.from_dict({**ROBERTA, "pad_token_id": padding}).first_position == first


ABSENT = {  # what transformers takes where a file says nothing
    "gpt2": (GPT2, {
        "n_inner": 3072, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }),
    "llama": (LLAMA, {
        "num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0, "tie_word_embeddings": False, "sliding_window": None,
    }),
    "mistral": (MISTRAL, {
        "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0, "tie_word_embeddings": False, "sliding_window": 4096,
    }),
    "gemma": (GEMMA, {
        "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    }),
    "bert": (BERT, {"hidden_act": "gelu", "layer_norm_eps": 1e-12}),
    "roberta": (ROBERTA, {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 1}),
    "t5": (T5, {"layer_norm_epsilon": 1e-6, "num_decoder_layers": 6}),
}  # fmt: skip


@pytest.mark.parametrize("given, absent", ABSENT.values(), ids=ABSENT)
def test_fields_that_a_file_leaves_out_are_those_of_its_family(given, absent):
    bare = {name: value for name, value in given.items() if name not in absent}
    found = spelled_out(configs.from_dict(bare))
    assert found == spelled_out(configs.from_dict({**bare, **absent}))


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
        ({**GPT2, "scale_attn_weights": False}, "scale_attn_weights=False"),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({**GPT2, "add_cross_attention": True}, "add_cross_attention=True"),
        ({**LLAMA, "attention_bias": True}, "attention_bias=True is not supported"),
        ({**LLAMA, "mlp_bias": True}, "mlp_bias=True"),
        ({**LLAMA, "sliding_window": 512}, "sliding_window=512"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({**LLAMA, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({**LLAMA, "layer_types": ["full_attention", "linear"]}, "layer_types"),
        ({**MISTRAL, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({**LLAMA, "rope_scaling": {"rope_type": "yarn"}}, "rope scaling 'yarn'"),
        ({**LLAMA, "rope_scaling": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({**LLAMA, "rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "by kind of layer"),
        ({**GEMMA, "hidden_act": "relu"}, "hidden_act='relu'"),
        ({**GEMMA, "hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({**GEMMA, "tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({**GEMMA, "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({**BERT, "position_embedding_type": "relative_key"}, "position_embedding_type='rel"),
        ({**BERT, "is_decoder": True}, "is_decoder=True"),
        ({**ROBERTA, "tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({**T5, "feed_forward_proj": "gated-gelu"}, "feed_forward_proj='gated-gelu'"),
        ({**T5, "is_gated_act": True}, "is_gated_act=True"),
        ({**T5, "dense_act_fn": "gelu_new"}, "dense_act_fn='gelu_new'"),
        ({**T5, "relative_attention_num_buckets": 64}, "num_buckets=64 .* expected 32"),
        ({**T5, "relative_attention_max_distance": 64}, "max_distance=64 .* expected 128"),
        ({**T5, "tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({k: v for k, v in BERT.items() if k != "vocab_size"}, "of a bert lacks 'vocab_size'"),
    ],
)
def test_what_is_not_supported_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(given)


def test_fields_that_say_what_is_done_anyway_are_no_reason():
    neutral = {
        "partial_rotary_factor": 1.0, "rotary_pct": 1.0, "use_qk_norm": False, "qk_norm": False,
        "logit_scale": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "alibi": False,
        "attn_logit_softcapping": None, "num_experts": None, "mlp_bias": False,
    }  # fmt: skip
    assert configs.from_dict({**LLAMA, **neutral}) == configs.from_dict(LLAMA)


def test_heads_are_of_encoders_only():
    with pytest.raises(ValueError, match="heads pooler: a gpt2 has none"):
        configs.from_dict(GPT2, pooler=True)


def test_files_that_are_no_config_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is not there: expected a config"):
        configs.read(tmp_path)
    for text, message in [("{oops", "config.json is no JSON"), ("[1]", "holds a list: expected")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            configs.read(tmp_path)
