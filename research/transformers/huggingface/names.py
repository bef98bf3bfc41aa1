"""Which tensor of a Hugging Face checkpoint is which of our parameters, and in what layout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from research.transformers import models

Config = models.DecoderConfig | models.EncoderConfig | models.EncoderDecoderConfig
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of theirs and what it holds of ours.

    Attributes:
        name: theirs; `{}` stands for the layer, and then ours has the layers first.
        paths: ours below `params`; several lie side by side in theirs, along its outputs.
        kind: "linear" [out, in], "conv" [in, out], "vector" [out], "patches" [out, C, p, p] of our
            [p p C, out], or "table", as it is.
        inputs: how many of our axes a matrix reads from.
        patch: p of "patches".
    """

    name: str
    paths: tuple[str, ...]
    kind: Literal["linear", "conv", "vector", "patches", "table"]
    inputs: int = 1
    patch: int = 1

    @property
    def layered(self) -> bool:
        """Whether there is one tensor per layer."""
        return "{}" in self.name

    def shape(self, ours: list[Shape]) -> Shape:
        """Their shape, from ours of each path (without the layers)."""
        if self.kind == "table":
            return ours[0]
        if self.kind == "patches":
            pixels, outputs = ours[0]
            return (outputs, pixels // self.patch**2, self.patch, self.patch)
        outputs = sum(math.prod(shape[self._cut :]) for shape in ours)
        if self.kind == "vector":
            return (outputs,)
        inputs = math.prod(ours[0][: self._cut])
        return (outputs, inputs) if self.kind == "linear" else (inputs, outputs)

    def read(self, theirs: np.ndarray, ours: list[Shape]) -> list[np.ndarray]:
        """Our arrays, in the order of the paths."""
        if self.kind == "table":
            return [theirs]
        if self.kind == "patches":
            return [theirs.transpose(2, 3, 1, 0).reshape(ours[0])]
        theirs = theirs.T if self.kind == "linear" else theirs
        sizes = [math.prod(shape[self._cut :]) for shape in ours]
        parts = np.split(theirs, np.cumsum(sizes)[:-1], axis=-1)
        return [part.reshape(shape) for part, shape in zip(parts, ours)]

    def write(self, ours: list[np.ndarray]) -> np.ndarray:
        """Their tensor, the inverse of `read`."""
        if self.kind == "table":
            return ours[0]
        if self.kind == "patches":
            grid = ours[0].reshape(self.patch, self.patch, -1, ours[0].shape[-1])
            return grid.transpose(3, 2, 0, 1)
        rows = [] if self.kind == "vector" else [-1]
        shapes = [(*rows, math.prod(array.shape[self._cut :])) for array in ours]
        joined = np.concatenate([a.reshape(s) for a, s in zip(ours, shapes)], axis=-1)
        return np.ascontiguousarray(joined.T) if self.kind == "linear" else joined

    @property
    def _cut(self) -> int:
        return 0 if self.kind == "vector" else self.inputs


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A convolution's weight, [out, in, h, w] of our [h, w, in, out]; used like `Entry`."""

    name: str
    paths: tuple[str, ...]
    layered = False

    def shape(self, ours: list[Shape]) -> Shape:
        """Their shape, from ours."""
        height, width, inputs, outputs = ours[0]
        return outputs, inputs, height, width

    def read(self, theirs: np.ndarray, ours: list[Shape]) -> list[np.ndarray]:
        """Our array, alone in a list."""
        return [theirs.transpose(2, 3, 1, 0)]

    def write(self, ours: list[np.ndarray]) -> np.ndarray:
        """Their tensor, the inverse of `read`."""
        return ours[0].transpose(3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Names:
    """All tensors of a family.

    Attributes:
        family: its name in messages.
        prefix: may be missing from all names of a checkpoint.
        entries: those whose paths a config lacks do not apply.
        ignored: regular expression of tensors that hold nothing of ours: buffers, tied copies.
        tied: of those, the copies of the embedding, by name: the tensor that each must equal.
    """

    family: str
    prefix: str
    entries: tuple[Entry, ...]
    ignored: str = r"$^"
    tied: tuple[tuple[str, str], ...] = ()


def of(config: Config) -> Names:
    """The names for a config: GPT-2, LLaMA and its kin, BERT, or T5.

    Raises:
        ValueError: for an architecture that no family of checkpoints has.
    """
    if isinstance(config, models.EncoderConfig):
        return _BERT
    if isinstance(config, models.EncoderDecoderConfig):
        absolute = config.sinusoidal or config.max_length is not None
        if config.encoder.num_buckets and config.encoder.pre_norm and not absolute:
            return _T5
    elif config.stack.gated and config.stack.rope is not None:
        return _LLAMA
    elif config.max_length is not None and config.stack.pre_norm:
        return _GPT2
    raise ValueError(f"no Hugging Face family has the architecture {config}")


def affine(theirs: str, ours: str, kind: Any, inputs: int = 1) -> list[Entry]:
    """The two entries of a linear map with its vector, `{theirs}.weight` and `.bias`."""
    return [
        Entry(f"{theirs}.weight", (f"{ours}/kernel",), kind, inputs),
        Entry(f"{theirs}.bias", (f"{ours}/bias",), "vector"),
    ]


def norm(theirs: str, ours: str) -> list[Entry]:
    """The two entries of a norm; one without a vector has the first only."""
    return [
        Entry(f"{theirs}.weight", (f"{ours}/scale",), "vector"),
        Entry(f"{theirs}.bias", (f"{ours}/bias",), "vector"),
    ]


def _gpt2() -> Names:
    layer, ours = "transformer.h.{}", "stack/layers"
    fused = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
    entries = [
        Entry("transformer.wte.weight", ("embedding",), "table"),
        Entry("transformer.wpe.weight", ("positions",), "table"),
        *norm("transformer.ln_f", "stack/final_norm"),
        *norm(f"{layer}.ln_1", f"{ours}/attention_norm"),
        *norm(f"{layer}.ln_2", f"{ours}/mlp_norm"),
        Entry(f"{layer}.attn.c_attn.weight", tuple(f"{path}/kernel" for path in fused), "conv"),
        Entry(f"{layer}.attn.c_attn.bias", tuple(f"{path}/bias" for path in fused), "vector"),
        *affine(f"{layer}.attn.c_proj", f"{ours}/attention/out", "conv", 2),
        *affine(f"{layer}.mlp.c_fc", f"{ours}/mlp/up", "conv"),
        *affine(f"{layer}.mlp.c_proj", f"{ours}/mlp/down", "conv"),
        Entry("lm_head.weight", ("output/kernel",), "linear"),
    ]
    return Names(
        "GPT-2",
        "transformer.",
        tuple(entries),
        r"\.attn\.(masked_)?bias$|^lm_head\.weight$",
        (("lm_head.weight", "transformer.wte.weight"),),
    )


def _llama() -> Names:
    layer, ours = "model.layers.{}", "stack/layers"
    entries = [
        Entry("model.embed_tokens.weight", ("embedding",), "table"),
        *norm("model.norm", "stack/final_norm"),
        *norm(f"{layer}.input_layernorm", f"{ours}/attention_norm"),
        *norm(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm"),
        *affine(f"{layer}.self_attn.q_proj", f"{ours}/attention/query", "linear"),
        *affine(f"{layer}.self_attn.k_proj", f"{ours}/attention/key", "linear"),
        *affine(f"{layer}.self_attn.v_proj", f"{ours}/attention/value", "linear"),
        *affine(f"{layer}.self_attn.o_proj", f"{ours}/attention/out", "linear", 2),
        *affine(f"{layer}.mlp.gate_proj", f"{ours}/mlp/gate", "linear"),
        *affine(f"{layer}.mlp.up_proj", f"{ours}/mlp/up", "linear"),
        *affine(f"{layer}.mlp.down_proj", f"{ours}/mlp/down", "linear"),
        Entry("lm_head.weight", ("output/kernel",), "linear"),
    ]
    ignored = r"rotary_emb\.inv_freq$|^lm_head\.weight$"
    tied = (("lm_head.weight", "model.embed_tokens.weight"),)
    return Names("LLaMA", "model.", tuple(entries), ignored, tied)


def _bert() -> Names:
    layer, ours = "bert.encoder.layer.{}", "stack/layers"
    entries = [
        Entry("bert.embeddings.word_embeddings.weight", ("embedding",), "table"),
        Entry("bert.embeddings.position_embeddings.weight", ("positions",), "table"),
        Entry("bert.embeddings.token_type_embeddings.weight", ("segments",), "table"),
        *norm("bert.embeddings.LayerNorm", "embedding_norm"),
        *affine(f"{layer}.attention.self.query", f"{ours}/attention/query", "linear"),
        *affine(f"{layer}.attention.self.key", f"{ours}/attention/key", "linear"),
        *affine(f"{layer}.attention.self.value", f"{ours}/attention/value", "linear"),
        *affine(f"{layer}.attention.output.dense", f"{ours}/attention/out", "linear", 2),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        *affine(f"{layer}.intermediate.dense", f"{ours}/mlp/up", "linear"),
        *affine(f"{layer}.output.dense", f"{ours}/mlp/down", "linear"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/mlp_norm"),
        *affine("bert.pooler.dense", "pooler", "linear"),
        *affine("cls.predictions.transform.dense", "head", "linear"),
        *norm("cls.predictions.transform.LayerNorm", "head_norm"),
        Entry("cls.predictions.bias", ("head_bias",), "vector"),
        *affine("cls.seq_relationship", "next_sentence", "linear"),
    ]
    # A config without heads reads a checkpoint with them.
    ignored = r"position_ids$|^cls\.|^(bert\.)?pooler\."
    return Names("BERT", "bert.", tuple(entries), ignored)


def _t5() -> Names:
    entries = [Entry("shared.weight", ("embedding",), "table")]
    for half, parts in (("encoder", "sm"), ("decoder", "scm")):
        ours = f"{half}/layers"
        bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        entries.append(Entry(bias, (f"{half}/buckets",), "table"))
        entries += norm(f"{half}.final_layer_norm", f"{half}/final_norm")
        for index, part in enumerate(parts):
            layer = f"{half}.block.{{}}.layer.{index}"
            name = {"s": "attention", "c": "cross", "m": "mlp"}[part]
            entries += norm(f"{layer}.layer_norm", f"{ours}/{name}_norm")
            if part == "m":
                entries += affine(f"{layer}.DenseReluDense.wi", f"{ours}/mlp/up", "linear")
                entries += affine(f"{layer}.DenseReluDense.wo", f"{ours}/mlp/down", "linear")
                continue
            theirs = f"{layer}.{'SelfAttention' if part == 's' else 'EncDecAttention'}"
            for letter, path in zip("qkv", ("query", "key", "value")):
                entries += affine(f"{theirs}.{letter}", f"{ours}/{name}/{path}", "linear")
            entries += affine(f"{theirs}.o", f"{ours}/{name}/out", "linear", 2)
    # The first checkpoints hold a table for the attention to the memory that nothing reads.
    ignored = r"embed_tokens\.weight$|^lm_head\.weight$|EncDecAttention\.relative_attention_bias"
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return Names("T5", "", tuple(entries), ignored, tuple((c, "shared.weight") for c in copies))


_GPT2, _LLAMA, _BERT, _T5 = _gpt2(), _llama(), _bert(), _t5()
