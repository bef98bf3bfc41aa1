"""A Hugging Face config.json as one of our configs: GPT-2, LLaMA and kin, BERT, RoBERTa, T5.

What a field says is followed, or refused by the field's name; rates of dropout, which belong to a
training, are left at 0.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from library.storage import files
from research.attention.positions import Rope
from research.transformers import layers, published
from research.transformers.huggingface import names

_ACTIVATIONS = {
    "gelu_new": layers.gelu_tanh,
    "gelu_pytorch_tanh": layers.gelu_tanh,
    "gelu": layers.gelu_exact,
    "silu": nn.silu,
    "relu": nn.relu,
}

# Fields of which only one value is what these models do; None, like a missing field, is that value.
_ONLY = {
    "gpt2": {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    "llama": {"attention_bias": False, "mlp_bias": False, "sliding_window": None},
    "mistral": {"attention_bias": False, "mlp_bias": False},
    "gemma": {
        "attention_bias": False,
        "tie_word_embeddings": True,
        "sliding_window": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "use_bidirectional_attention": False,
    },
    "bert": {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "t5": {
        "feed_forward_proj": "relu",
        "dense_act_fn": "relu",
        "is_gated_act": False,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "tie_word_embeddings": True,
    },
}
_ONLY["roberta"] = _ONLY["bert"]
# Fields of relatives under other names, met in files that call themselves one of the above.
_NOWHERE = {
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "query_pre_attn_scalar": None,
    "partial_rotary_factor": 1.0,
    "rotary_pct": 1.0,
    "use_qk_norm": False,
    "qk_norm": False,
    "clip_qkv": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "attention_multiplier": None,
    "residual_multiplier": 1.0,
    "embedding_multiplier": None,
    "num_experts": None,
    "num_local_experts": None,
    "attention_chunk_size": None,
    "no_rope_layers": None,
    "alibi": False,
}


def read(path: str | os.PathLike, **heads: bool) -> names.Config:
    """The config in a checkpoint's folder.

    Args:
        path: the folder, or its config.json.
        heads: `pooler`, `masked_lm`, `next_sentence` for BERT and RoBERTa.
    Raises:
        ValueError: as `from_dict`, for an address, which no file on this machine has, or a file
            that is no JSON object.
        FileNotFoundError: if there is none.
    """
    return from_dict(fields(path), **heads)


def fields(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a config.json, given by its folder or itself; raises as `read`."""
    path = files.local(path, "path")
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is not there: expected a config.json") from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}: expected an object of fields")
    return content


def from_dict(config: Mapping[str, Any], **heads: bool) -> names.Config:
    """The same from the content of a config.json.

    Raises:
        ValueError: for a model type, activation, scaling or any value of a field that is not
            supported, or a field that is missing, by its name.
    """
    makers = {
        "gpt2": _gpt2,
        "llama": _llama,
        "mistral": _mistral,
        "gemma": _gemma,
        "bert": _bert,
        "roberta": _bert,
        "t5": _t5,
    }
    kind = config.get("model_type")
    if kind not in makers:
        raise ValueError(f"model_type {kind!r}: expected one of {', '.join(makers)}")
    for name, only in {**_NOWHERE, **_ONLY[kind]}.items():
        value = config.get(name)
        if value is not None and value != only:
            raise ValueError(f"{name}={value!r} is not supported: expected {only!r} ({kind})")
    if heads and makers[kind] is not _bert:
        raise ValueError(f"heads {', '.join(heads)}: a {kind} has none")
    try:
        return makers[kind](config, **heads)
    except KeyError as error:
        raise ValueError(f"config.json of a {kind} lacks {error.args[0]!r}") from None


def _gpt2(config: Mapping[str, Any]) -> names.Config:
    base = published.gpt2(config["n_layer"], config["n_embd"], config["n_head"])
    stack = dataclasses.replace(
        base.stack,
        hidden_dim=config.get("n_inner") or 4 * config["n_embd"],
        activation=_activation(config.get("activation_function", "gelu_new")),
        norm=layers.Norm(epsilon=config.get("layer_norm_epsilon", 1e-5)),
    )
    return dataclasses.replace(
        base,
        vocab_size=config["vocab_size"],
        max_length=config["n_positions"],
        stack=stack,
        tied=config.get("tie_word_embeddings", True),
    )


def _llama(config: Mapping[str, Any]) -> names.Config:
    base = published.llama(
        config["vocab_size"],
        config["num_hidden_layers"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
        config.get("num_key_value_heads"),
        config.get("head_dim"),
        _rope(config),
        config.get("rms_norm_eps", 1e-6),
        config.get("tie_word_embeddings", False),
        _window(config),
    )
    activation = _activation(config.get("hidden_act", "silu"))
    return dataclasses.replace(base, stack=dataclasses.replace(base.stack, activation=activation))


def _mistral(config: Mapping[str, Any]) -> names.Config:
    return _llama({"num_key_value_heads": 8, "sliding_window": 4096, **config})


def _gemma(config: Mapping[str, Any]) -> names.Config:
    # The first files say "gelu" and mean its tanh form.
    if config.get("hidden_act", "gelu") not in ("gelu", "gelu_pytorch_tanh"):
        raise ValueError(f"hidden_act={config['hidden_act']!r}: expected gelu_pytorch_tanh (Gemma)")
    base = published.gemma(
        config["vocab_size"],
        config["num_hidden_layers"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
    )
    norm = dataclasses.replace(base.stack.norm, epsilon=config.get("rms_norm_eps", 1e-6))
    stack = dataclasses.replace(base.stack, rope=_rope(config), norm=norm)
    return dataclasses.replace(base, stack=stack)


def _bert(config: Mapping[str, Any], **heads: bool) -> names.Config:
    roberta = config["model_type"] == "roberta"
    padding = config.get("pad_token_id")
    base = published.bert(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["vocab_size"],
        config.get("layer_norm_eps", 1e-12),
        max_length=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        # RoBERTa's first position is the one after that of padding.
        first_position=(1 if padding is None else padding) + 1 if roberta else 0,
        **heads,
    )
    stack = dataclasses.replace(
        base.stack,
        hidden_dim=config["intermediate_size"],
        activation=_activation(config.get("hidden_act", "gelu")),
    )
    return dataclasses.replace(base, stack=stack)


def _t5(config: Mapping[str, Any]) -> names.Config:
    base = published.t5(
        config["num_layers"],
        config["d_model"],
        config["d_ff"],
        config["num_heads"],
        config["d_kv"],
        config["vocab_size"],
    )
    norm = dataclasses.replace(base.encoder.norm, epsilon=config.get("layer_norm_epsilon", 1e-6))
    depth = config.get("num_decoder_layers") or config["num_layers"]
    return dataclasses.replace(
        base,
        encoder=dataclasses.replace(base.encoder, norm=norm),
        decoder=dataclasses.replace(base.decoder, norm=norm, depth=depth),
    )


def _window(config: Mapping[str, Any]) -> int | None:
    """Of all layers; a mixture of layers with and without is refused."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    kinds = set(config.get("layer_types") or ())
    if kinds - {"sliding_attention" if window else "full_attention"}:
        raise ValueError(f"layer_types {sorted(kinds)} with sliding_window={window}: expected one")
    return window


def _rope(config: Mapping[str, Any]) -> Rope:
    """Frequencies; `rope_parameters` holds base and scaling in newer files."""
    newer = config.get("rope_parameters") or {}
    if any(isinstance(value, Mapping) for value in newer.values()):
        raise ValueError(f"rope_parameters by kind of layer ({', '.join(newer)}): expected one")
    base = newer.get("rope_theta") or config.get("rope_theta") or 10_000.0
    scaling = config.get("rope_scaling") or newer
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rope(base)
    if kind == "linear":
        return Rope(base, linear_factor=scaling["factor"])
    if kind != "llama3":
        raise ValueError(f"rope scaling {kind!r}: expected default, linear or llama3")
    return Rope(
        base,
        llama3_factor=scaling["factor"],
        original_length=scaling["original_max_position_embeddings"],
        low=scaling["low_freq_factor"],
        high=scaling["high_freq_factor"],
    )


def _activation(name: str) -> Any:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
