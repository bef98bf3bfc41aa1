"""Published encoders of images in and out: Hugging Face folders, every shape checked.

    model, params = weights.load("dinov2-small")                # or ViT-MAE, or a residual network
    tokens = jax.jit(model.features)(params, images)            # [B, H, W, C] -> [B, 1 + N, D]
    weights.save("mine", model, params)

A folder holds config.json and *.safetensors. Images are normalised as the checkpoint's own were,
mostly by ImageNet's means and deviations. For images of another size than the config's, positions
are interpolated as `transformers` does. Names of tensors are those of the files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from library.storage import files
from library.types import Array, Params
from research.self_supervised import dinov2, mae, names
from research.transformers import configs
from research.transformers import names as tensor_names
from research.transformers import weights as tensors
from research.vision import patches, resnet


@dataclasses.dataclass(frozen=True)
class ResNetEncoder:
    """A residual network of a checkpoint, as an encoder.

    Attributes:
        net: with its classifier, or without (`num_classes` None).
        channels: C of the images.
    """

    net: resnet.ResNet
    channels: int = 3

    def features(self, params: Params, images: Array) -> Array:
        """The last map of an image, its mean first.

        Args:
            params: {"params": ..., "batch_stats": ...}.
            images: [B, H, W, C], of any size that the strides leave something of.
        Returns:
            [B, 1 + N, D]: the mean over pixels, which is what is classified, then N pixels of the
            map from the top left.
        Raises:
            ValueError: for images of integers or of other channels.
        """
        self._check(images)
        last = f"stage{len(self.net.num_blocks) - 1}_block{self.net.num_blocks[-1] - 1}"
        _, seen = self.net.apply(
            params,
            images,
            capture_intermediates=lambda module, _: module.name == last,
            mutable=["intermediates"],
        )
        (x,) = seen["intermediates"][last]["__call__"]
        x = x.reshape(len(x), -1, x.shape[-1])  # [B, N, D]
        return jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)

    def logits(self, params: Params, images: Array) -> Array:
        """Logits [B, num_classes]; without a classifier the mean over pixels [B, D]."""
        self._check(images)
        return self.net.apply(params, images)

    def _check(self, images: Array) -> None:
        patches.check_floats(images)
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(f"images of shape {images.shape}: expected [B, H, W, {self.channels}]")


Model = dinov2.DINOv2 | mae.MAE | ResNetEncoder


def load(folder: str | os.PathLike, dtype: Any = None) -> tuple[Model, Params]:
    """The model of a folder and its variables.

    Args:
        folder: with config.json and *.safetensors of `Dinov2Model`, `ViTMAEForPreTraining`,
            `ResNetModel` or `ResNetForImageClassification`.
        dtype: of the result; None keeps the file's.
    Returns:
        A model with `features(params, images)`, a masked autoencoder also with `reconstruct`; and
        its variables, host arrays.
    Raises:
        ValueError: for another type of model or a field that is missing or not supported, by its
            name; tensors that are missing, unknown or of another shape than the config says, as of
            another size of patches, by name and both shapes; an address.
        FileNotFoundError: for a folder without its config or tensors.
    """
    folder = files.local(folder, "folder")
    config = configs.fields(folder)
    found = _tensor_names(folder)
    model = from_config(config, classifier=any(name.startswith("classifier.") for name in found))
    old = any(name.startswith("decoder.decoder_layers.") for name in found)
    return model, tensors.read(_table(model, old), _shapes(model), folder, dtype)["params"]


def save(folder: str | os.PathLike, model: Model, params: Params, old_names: bool = False) -> None:
    """Writes config.json and model.safetensors as `transformers` reads them.

    Args:
        folder: made if it is not there; files of these names are replaced.
        model, params: as `load` gives them.
        old_names: whether a masked autoencoder's tensors have the names of the published files,
            which `transformers` 5 reads too, in place of those that it writes.
    Raises:
        ValueError: for variables that are not the model's, by name and shape, a network that no
            checkpoint describes, or an address.
    """
    folder = files.local(folder, "folder")
    config, written = to_config(model), to_tensors(model, params, old_names)
    folder.mkdir(parents=True, exist_ok=True)
    tensors.save_tensors(folder / "model.safetensors", written)
    files.write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")


def to_tensors(model: Model, params: Params, old_names: bool = False) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name; arguments as `save`.

    Raises:
        ValueError: naming variables that are missing, unknown or misshapen.
    """
    table = _table(model, old_names)
    written = tensors.write(table, _shapes(model), {"params": params})
    if isinstance(model, ResNetEncoder):
        norms = [name for name in written if name.endswith("running_var")]
        for name in norms:
            written[name.replace("running_var", names.COUNTER)] = np.zeros((), np.int64)
    if isinstance(model, dinov2.DINOv2) or _bare(model):
        written = {name.removeprefix(table.prefix): tensor for name, tensor in written.items()}
    return written


def from_config(config: Mapping[str, Any], classifier: bool = True) -> Model:
    """The model that the content of a config.json describes.

    Args:
        config: its fields.
        classifier: whether a residual network has its last layer.
    Raises:
        ValueError: as `load`.
    """
    makers = {"dinov2": _dinov2, "vit_mae": _mae, "resnet": _resnet}
    kind = config.get("model_type")
    if kind not in makers:
        raise ValueError(f"model_type={kind!r}: expected one of {', '.join(makers)}")
    for name, only in _ONLY[kind].items():
        if config.get(name, only) != only:
            raise ValueError(f"{name}={config[name]!r}: expected {only!r} ({kind})")
    try:
        model = makers[kind](config)
    except KeyError as error:
        raise ValueError(f"config.json of a {kind} lacks {error.args[0]!r}") from None
    if kind == "resnet" and not classifier:
        return dataclasses.replace(model, net=model.net.clone(num_classes=None))
    return model


def to_config(model: Model) -> dict[str, Any]:
    """The content of a config.json, the inverse of `from_config`.

    Raises:
        ValueError: for a network that no checkpoint describes.
    """
    if isinstance(model, ResNetEncoder):
        return _of_resnet(model)
    common = {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": model.epsilon,
        "image_size": _one_or_both(model.image_size),
        "patch_size": model.patch,
        "num_channels": model.channels,
    }
    if isinstance(model, mae.MAE):
        return {
            "model_type": "vit_mae",
            "architectures": ["ViTMAEForPreTraining"],
            **common,
            "intermediate_size": model.mlp_dim,
            "decoder_hidden_size": model.decoder_width,
            "decoder_num_hidden_layers": model.decoder_depth,
            "decoder_num_attention_heads": model.decoder_heads,
            "decoder_intermediate_size": model.decoder_mlp_dim,
            "mask_ratio": model.ratio,
            "norm_pix_loss": model.normalise,
        }
    hidden = model.mlp_dim or 4 * model.width
    if hidden % model.width or (model.gated and model.mlp_dim):
        raise ValueError(f"mlp_dim={model.mlp_dim}: a DINOv2 checkpoint has a multiple of width")
    return {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        **common,
        "mlp_ratio": hidden // model.width,
        "use_swiglu_ffn": model.gated,
        "use_mask_token": model.mask_token,
        "layerscale_value": model.scale,
    }


# Fields of which only one value is what these models do.
_ONLY = {
    "dinov2": {"hidden_act": "gelu", "qkv_bias": True},
    "vit_mae": {"hidden_act": "gelu", "qkv_bias": True},
    "resnet": {
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    },
}


def _dinov2(config: Mapping[str, Any]) -> dinov2.DINOv2:
    width, ratio = config["hidden_size"], config.get("mlp_ratio", 4)
    gated = config.get("use_swiglu_ffn", False)
    hidden = int(width * ratio)
    if gated:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    default = dinov2.DINOv2(width=width, num_heads=1, gated=gated).stack.hidden_dim
    return dinov2.DINOv2(
        width=width,
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=None if hidden == default else hidden,
        gated=gated,
        mask_token=config.get("use_mask_token", True),
        scale=config.get("layerscale_value", 1.0),
        epsilon=config.get("layer_norm_eps", 1e-6),
        **_sizes(config, patch=14),
    )


def _mae(config: Mapping[str, Any]) -> mae.MAE:
    return mae.MAE(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        decoder_width=config["decoder_hidden_size"],
        decoder_depth=config["decoder_num_hidden_layers"],
        decoder_heads=config["decoder_num_attention_heads"],
        decoder_mlp_dim=config["decoder_intermediate_size"],
        ratio=config.get("mask_ratio", 0.75),
        normalise=config.get("norm_pix_loss", False),
        epsilon=config.get("layer_norm_eps", 1e-12),
        **_sizes(config, patch=16),
    )


def _resnet(config: Mapping[str, Any]) -> ResNetEncoder:
    kind, width = config["layer_type"], config["embedding_size"]
    if kind not in ("basic", "bottleneck"):
        raise ValueError(f"layer_type={kind!r}: expected 'basic' or 'bottleneck'")
    depths, sizes = tuple(config["depths"]), tuple(config["hidden_sizes"])
    factor = 4 if kind == "bottleneck" else 1
    expected = tuple(width * factor * 2**stage for stage in range(len(depths)))
    if sizes != expected:
        raise ValueError(f"hidden_sizes={sizes}: expected {expected} after {width}, as torchvision")
    labels = config["id2label"] if "id2label" in config else range(config.get("num_labels", 2))
    net = resnet.ResNet(len(labels), depths, kind == "bottleneck", width)
    return ResNetEncoder(net, config.get("num_channels", 3))


def _of_resnet(model: ResNetEncoder) -> dict[str, Any]:
    net = model.net
    if net.small_images or net.num_groups is not None:
        raise ValueError(
            f"small_images={net.small_images}, num_groups={net.num_groups}: a checkpoint has a 7x7 "
            "stem and batch norm"
        )
    factor = 4 if net.bottleneck else 1
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetModel" if _bare(model) else "ResNetForImageClassification"],
        "num_channels": model.channels,
        "embedding_size": net.width,
        "hidden_sizes": [net.width * factor * 2**stage for stage in range(len(net.num_blocks))],
        "depths": list(net.num_blocks),
        "layer_type": "bottleneck" if net.bottleneck else "basic",
        "hidden_act": "relu",
    }
    if not _bare(model):
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(net.num_classes)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(net.num_classes)}
    return config


def _bare(model: Model) -> bool:
    """Whether it is a residual network without a classifier, whose tensors have no prefix."""
    return isinstance(model, ResNetEncoder) and model.net.num_classes is None


def _sizes(config: Mapping[str, Any], patch: int) -> dict[str, Any]:
    size, patch = config.get("image_size", 224), config.get("patch_size", patch)
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    both = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    if len(sides) != 2 or len(set(both)) != 1:
        raise ValueError(
            f"image_size={size}, patch_size={patch}: expected two sides, square patches"
        )
    return {"image_size": sides, "patch": both[0], "channels": config.get("num_channels", 3)}


def _one_or_both(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)


def _table(model: Model, old: bool) -> tensor_names.Names:
    if isinstance(model, ResNetEncoder):
        return names.of_resnet(model.net)
    if isinstance(model, mae.MAE):
        return names.of_mae(model, names.OLD_LAYER if old else names.NEW_LAYER)
    return names.of_dinov2(model)


@functools.lru_cache(maxsize=8)
def _shapes(model: Model) -> tensors.Shapes:
    """Of all variables by path, their collection first."""
    rng = jax.random.key(0)
    if isinstance(model, ResNetEncoder):
        images = jax.ShapeDtypeStruct((1, 64, 64, model.channels), jnp.float32)
        tree = jax.eval_shape(model.net.init, rng, images)
    else:
        images = jax.ShapeDtypeStruct((1, *model.image_size, model.channels), jnp.float32)
        keys = (jax.random.split(rng, 1),) if isinstance(model, mae.MAE) else ()
        tree = jax.eval_shape(model.init, rng, images, *keys)
    flat = flax.traverse_util.flatten_dict(dict(tree), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _tensor_names(folder: pathlib.Path) -> set[str]:
    import safetensors  # late: everything else works without it

    found: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "numpy") as file:
            found.update(file.keys())
    return found
