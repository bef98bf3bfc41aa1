"""A Hugging Face config.json as one of our configs: GPT-2, LLaMA and kin, BERT, T5."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

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


def read(path: str | os.PathLike, **heads: bool) -> names.Config:
    """The config in a checkpoint's folder.

    Args:
        path: the folder, or its config.json.
        heads: `pooler`, `masked_lm`, `next_sentence` for BERT.
    """
    path = pathlib.Path(path)
    file = path / "config.json" if path.is_dir() else path
    return from_dict(json.loads(file.read_text(encoding="utf-8")), **heads)


def from_dict(config: Mapping[str, Any], **heads: bool) -> names.Config:
    """The same from the content of a config.json.

    Raises:
        ValueError: for a model type, activation or scaling that is not supported.
    """
    makers = {
        "gpt2": _gpt2,
        "llama": _llama,
        "mistral": _llama,
        "gemma": _gemma,
        "bert": _bert,
        "t5": _t5,
    }
    kind = config.get("model_type")
    if kind not in makers:
        raise ValueError(f"model_type {kind!r}: expected one of {', '.join(makers)}")
    return makers[kind](config, **heads)


def _gpt2(config: Mapping[str, Any]) -> names.Config:
    base = published.gpt2(config["n_layer"], config["n_embd"], config["n_head"])
    stack = dataclasses.replace(
        base.stack,
        hidden_dim=config.get("n_inner") or 4 * config["n_embd"],
        activation=_activation(config.get("activation_function", "gelu_new")),
        norm=layers.Norm(epsilon=config.get("layer_norm_epsilon", 1e-5)),
    )
    return dataclasses.replace(
        base, vocab_size=config["vocab_size"], max_length=config["n_positions"], stack=stack
    )


def _llama(config: Mapping[str, Any]) -> names.Config:
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError("attention_bias and mlp_bias: only LLaMA without biases is supported")
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
        config.get("sliding_window"),
    )
    activation = _activation(config.get("hidden_act", "silu"))
    return dataclasses.replace(base, stack=dataclasses.replace(base.stack, activation=activation))


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
    base = published.bert(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["vocab_size"],
        max_length=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        **heads,
    )
    stack = dataclasses.replace(
        base.stack,
        hidden_dim=config["intermediate_size"],
        activation=_activation(config.get("hidden_act", "gelu")),
        norm=layers.Norm(epsilon=config.get("layer_norm_eps", 1e-12)),
    )
    return dataclasses.replace(base, stack=stack)


def _t5(config: Mapping[str, Any]) -> names.Config:
    if config.get("feed_forward_proj", "relu") != "relu":
        raise ValueError(f"feed_forward_proj={config['feed_forward_proj']!r}: expected relu (v1.0)")
    if config.get("relative_attention_num_buckets", 32) != 32:
        raise ValueError("relative_attention_num_buckets: expected 32")
    base = published.t5(
        config["num_layers"],
        config["d_model"],
        config["d_ff"],
        config["num_heads"],
        config["d_kv"],
        config["vocab_size"],
    )
    depth = config.get("num_decoder_layers") or config["num_layers"]
    return dataclasses.replace(base, decoder=dataclasses.replace(base.decoder, depth=depth))


def _rope(config: Mapping[str, Any]) -> Rope:
    """Frequencies; `rope_parameters` holds base and scaling in newer files."""
    newer = config.get("rope_parameters") or {}
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
