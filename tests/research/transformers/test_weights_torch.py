"""Logits and features against the transformers library, tiny random models, both directions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.attention import masks
from research.transformers import configs as configs
from research.transformers import models, published, weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 37, "attn_implementation": "eager"}
LLAMA = {
    **SMALL, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
SCALING = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
DECODERS = {
    "GPT2LMHeadModel": dict(SMALL, n_embd=24, n_layer=2, n_head=3, n_positions=32),
    "LlamaForCausalLM": LLAMA,
    "LlamaForCausalLM, scaled, tied": dict(
        LLAMA, rope_parameters=SCALING, tie_word_embeddings=True
    ),
    "MistralForCausalLM": dict(LLAMA, sliding_window=5),
    "GemmaForCausalLM": dict(LLAMA, head_dim=8, num_key_value_heads=1),
}
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
DTYPES = [np.float32, np.float64]
# Whatever the model's dtype, theirs computes RMS norms (LLaMA and kin, T5), rotations and, in T5,
# the softmax in float32: 1e-10 in float64 is possible for GPT-2 and BERT only.


def theirs(name, options, dtype):
    """A model of theirs with random weights, in evaluation mode."""
    name = name.split(",")[0]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.to({np.float32: torch.float32, np.float64: torch.float64}[dtype])


def tensors_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def check(actual, expected, dtype):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual) / scale, expected / scale, atol=TOLERANCE[dtype])


def check_back(model, config, params):
    """Our weights, changed, in their model: its output must be ours again."""
    params = jax.tree.map(lambda leaf: leaf * leaf.dtype.type(1.25), params)
    tensors = weights.to_huggingface(config, params)
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    model.tie_weights()
    tied = ("lm_head.weight", "embed_tokens.weight", "decoder.weight", "decoder.bias")
    assert all(name.endswith(tied) for name in missing), missing
    return params


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "name, dtype",
    [(name, np.float32) for name in DECODERS] + [("GPT2LMHeadModel", np.float64)],
)
def test_decoders(name, dtype):
    model = theirs(name, DECODERS[name], dtype)
    config = configs.from_dict(model.config.to_dict())
    params = weights.from_huggingface(config, tensors_of(model))
    tokens = np.random.default_rng(0).integers(0, 37, (2, 21))
    apply = jax.jit(models.Decoder(config).apply)
    with torch.no_grad():
        check(apply(params, tokens), model(torch.from_numpy(tokens)).logits.numpy(), dtype)
        params = check_back(model, config, params)
        check(apply(params, tokens), model(torch.from_numpy(tokens)).logits.numpy(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bert_with_all_heads(dtype):
    options = dict(SMALL, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                   intermediate_size=40, max_position_embeddings=32)  # fmt: skip
    model = theirs("BertForPreTraining", options, dtype)
    heads = {"pooler": True, "masked_lm": True, "next_sentence": True}
    config = configs.from_dict(model.config.to_dict(), **heads)
    params = weights.from_huggingface(config, tensors_of(model))
    rng = np.random.default_rng(0)
    tokens, segments = rng.integers(0, 37, (2, 9)), rng.integers(0, 2, (2, 9))
    lengths = np.array([9, 6])
    seen = (np.arange(9) < lengths[:, None]).astype(int)

    def compare(params):
        out = jax.jit(models.Encoder(config).apply)(
            params, tokens, segments, masks.Padding(jnp.asarray(lengths))
        )
        given = [torch.from_numpy(x) for x in (tokens, seen, segments)]
        with torch.no_grad():
            expected = model(given[0], attention_mask=given[1], token_type_ids=given[2])
        check(out["logits"], expected.prediction_logits.numpy(), dtype)
        check(out["next_sentence"], expected.seq_relationship_logits.numpy(), dtype)

    compare(params)
    compare(check_back(model, config, params))
    base = dataclasses.replace(config, masked_lm=False, next_sentence=False)
    weights.from_huggingface(base, tensors_of(model))  # heads that a config lacks are left


def test_t5(dtype=np.float32):
    options = dict(SMALL, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=3)
    model = theirs("T5ForConditionalGeneration", options, dtype)
    config = configs.from_dict(model.config.to_dict())
    params = weights.from_huggingface(config, tensors_of(model))
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 37, (2, 60)), rng.integers(0, 37, (2, 7))
    lengths = np.array([60, 41])
    seen = (np.arange(60) < lengths[:, None]).astype(int)

    def compare(params):
        ours = jax.jit(models.EncoderDecoder(config).apply)(
            params, source, target, masks.Padding(jnp.asarray(lengths))
        )
        with torch.no_grad():
            expected = model(
                torch.from_numpy(source),
                attention_mask=torch.from_numpy(seen),
                decoder_input_ids=torch.from_numpy(target),
            ).logits.numpy()
        check(ours, expected, dtype)

    compare(params)
    compare(check_back(model, config, params))


GEMMA_2B = {
    "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16_384, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 256_000,
}  # fmt: skip
LLAMA32_1B = {  # config.json of meta-llama/Llama-3.2-1B
    "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 128_256,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name, options, ours",
    [
        ("GPT2Config", {}, published.GPT2_SMALL),
        ("BertConfig", {}, published.BERT_BASE),
        ("T5Config", {"d_ff": 2048}, published.T5_SMALL),
        ("LlamaConfig", {}, published.LLAMA_7B),
        ("LlamaConfig", LLAMA32_1B, published.LLAMA32_1B),
        ("MistralConfig", {"num_key_value_heads": 8, "rms_norm_eps": 1e-5}, published.MISTRAL_7B),
        ("GemmaConfig", GEMMA_2B, published.GEMMA_2B),
    ],
)
def test_our_sizes_are_their_defaults_or_published_configs(name, options, ours):
    def spelled_out(config):
        """With the head counts and sizes that None stands for."""
        if isinstance(config, models.EncoderDecoderConfig):
            return config
        groups, size = config.stack.kv_shape
        stack = dataclasses.replace(config.stack, num_kv_heads=groups, head_dim=size)
        return dataclasses.replace(config, stack=stack)

    config = configs.from_dict(getattr(transformers, name)(**options).to_dict())
    assert spelled_out(config) == spelled_out(ours)


def test_frequencies_of_llama_3_2_are_theirs():
    """All three ranges of the scaling occur among the 32 waves: kept, between, slowed."""
    modeling = transformers.models.llama.modeling_llama
    config = transformers.LlamaConfig(**LLAMA32_1B)
    theirs = modeling.LlamaRotaryEmbedding(config).inv_freq.numpy()
    rope = published.LLAMA32_1B.stack.rope
    np.testing.assert_allclose(rope.frequencies(64), theirs, rtol=1e-6)
    ratio = rope.frequencies(64) / dataclasses.replace(rope, llama3_factor=1.0).frequencies(64)
    assert (
        (ratio == 1).any() and np.isclose(ratio, 1 / 32).any() and (np.abs(ratio - 0.5) < 0.4).any()
    )
