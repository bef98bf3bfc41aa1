"""Vision transformers of Hugging Face in and out, every shape checked: `ViTForImageClassification`.

    model, image_shape = weights.read_config(folder)
    params = weights.from_huggingface(model, image_shape, folder)
    logits = model.apply(params, images)                        # [B, H, W, C], normalised as theirs

Names are those of the files; `transformers` 5 renames them as it reads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Params
from research.transformers import names
from research.transformers import weights as tensors
from research.transformers.huggingface import config as configs
from research.vision import vit

ImageShape = tuple[int, int, int]  # H, W, C


def read_config(path: str | os.PathLike) -> tuple[vit.ViT, ImageShape]:
    """The model and the shape of its images that a checkpoint's config.json describes.

    Args:
        path: the folder, or its config.json.
    Raises:
        ValueError: as `from_config`, for an address, which no file on this machine has, or a file
            that is no JSON object.
        FileNotFoundError: if there is none.
    """
    return from_config(configs.fields(path))


def from_config(config: Mapping[str, Any]) -> tuple[vit.ViT, ImageShape]:
    """The same from the content of a config.json.

    Raises:
        ValueError: for a model type, activation or projection that is not this ViT's, or a field
            that is missing, by its name.
    """
    try:
        return _from_config(config)
    except KeyError as error:
        raise ValueError(f"config.json of a vit lacks {error.args[0]!r}") from None


def _from_config(config: Mapping[str, Any]) -> tuple[vit.ViT, ImageShape]:
    for name, wanted in (("model_type", "vit"), ("hidden_act", "gelu"), ("qkv_bias", True)):
        if config.get(name, wanted) != wanted:
            raise ValueError(f"{name}={config[name]!r}: expected {wanted!r}")
    size, patch = config.get("image_size", 224), config.get("patch_size", 16)
    if isinstance(size, list | tuple) and len(size) != 2:
        raise ValueError(f"image_size={size}: expected a number, or height and width")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if isinstance(patch, list | tuple):
        if patch[0] != patch[1]:
            raise ValueError(f"patch_size={patch}: expected square patches")
        patch = patch[0]
    model = vit.ViT(
        num_classes=len(config["id2label"]) if "id2label" in config else config["num_labels"],
        patch=patch,
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        epsilon=config.get("layer_norm_eps", 1e-12),
        grid=None if height == width else (height // patch, width // patch),
    )
    return model, (height, width, config.get("num_channels", 3))


def from_huggingface(
    model: vit.ViT, image_shape: ImageShape, source: tensors.Source, dtype: Any = None
) -> Params:
    """Parameters of a ViT from a checkpoint.

    Args:
        model: with class token and learned positions, without registers.
        image_shape: (H, W, C), in pixels, of the images it reads.
        source: a folder with *.safetensors, one such file, or the tensors by name.
        dtype: of the result; None keeps the checkpoint's.
    Returns:
        {"params": ...} as `model.init` makes it, host arrays.
    Raises:
        ValueError: naming the tensor and both shapes if one does not fit, tensors that are missing
            or unknown, what of the model no checkpoint has, and a source that is an address.
        FileNotFoundError: if there is no checkpoint.
    """
    return tensors.read(_names(model), _shapes(model, image_shape), source, dtype)


def to_huggingface(
    model: vit.ViT, image_shape: ImageShape, params: Params
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, the inverse of `from_huggingface`.

    Raises:
        ValueError: naming the parameter and both shapes if one does not fit the model.
    """
    return tensors.write(_names(model), _shapes(model, image_shape), params)


def save(file: str | os.PathLike, model: vit.ViT, image_shape: ImageShape, params: Params) -> None:
    """Writes `to_huggingface(model, image_shape, params)` as one safetensors file."""
    tensors.save_tensors(file, to_huggingface(model, image_shape, params))


def tensor_shapes(model: vit.ViT, image_shape: ImageShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint of this model, without making one."""
    return tensors.shapes_of(_names(model), _shapes(model, image_shape))


def _shapes(model: vit.ViT, image_shape: ImageShape) -> tensors.Shapes:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return tensors.parameter_shapes(model.init, images)


def _names(model: vit.ViT) -> names.Names:
    if model.pooling != "class" or model.positions != "learned" or model.num_registers:
        raise ValueError(
            f"pooling={model.pooling!r}, positions={model.positions!r}, num_registers="
            f"{model.num_registers}: a checkpoint has a class token, learned positions, no register"
        )
    return _table(model.patch)


@functools.cache
def _table(patch: int) -> names.Names:
    embeddings, layer, ours = "vit.embeddings", "vit.encoder.layer.{}", "encoder/layers"
    projection = f"{embeddings}.patch_embeddings.projection"
    entries = [
        names.Entry(f"{embeddings}.cls_token", ("class_token",), "table"),
        names.Entry(f"{embeddings}.position_embeddings", ("positions",), "table"),
        names.Entry(f"{projection}.weight", ("embed/linear/kernel",), "patches", patch=patch),
        names.Entry(f"{projection}.bias", ("embed/linear/bias",), "vector"),
        *names.norm(f"{layer}.layernorm_before", f"{ours}/attention_norm"),
        *names.affine(f"{layer}.attention.attention.query", f"{ours}/attention/query", "linear"),
        *names.affine(f"{layer}.attention.attention.key", f"{ours}/attention/key", "linear"),
        *names.affine(f"{layer}.attention.attention.value", f"{ours}/attention/value", "linear"),
        *names.affine(f"{layer}.attention.output.dense", f"{ours}/attention/out", "linear", 2),
        *names.norm(f"{layer}.layernorm_after", f"{ours}/mlp_norm"),
        *names.affine(f"{layer}.intermediate.dense", f"{ours}/mlp/up", "linear"),
        *names.affine(f"{layer}.output.dense", f"{ours}/mlp/down", "linear"),
        *names.norm("vit.layernorm", "encoder/final_norm"),
        *names.affine("classifier", "head", "linear"),
    ]
    # What stands beside a classifier in some checkpoints: a pooler, a token for hidden patches.
    ignored = r"^vit\.pooler\.|^vit\.embeddings\.mask_token$"
    return names.Names("ViT", "vit.", tuple(entries), ignored)
