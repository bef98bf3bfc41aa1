"""The config.json of each network of a diffusers folder as our module, and back.

What a field says is followed, or refused by the field's name; so are fields that nobody knows.
Rates of dropout and other matters of training are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.text_to_image import text_encoder, unet
from research.transformers import layers
from research.vae.networks import autoencoder

VERSION = "0.42.1"  # of diffusers, whose fields these are
_ACTIVATIONS = {"quick_gelu": text_encoder.quick_gelu, "gelu": layers.gelu_exact}
_CROSS = {True: "CrossAttn{}Block2D", False: "{}Block2D"}

# Fields of which only one value is what our modules do; None, like a missing field, is that value.
_ONLY_UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": False,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_FREE_UNET = {
    "addition_embed_type", "addition_embed_type_num_heads", "addition_time_embed_dim",
    "attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types",
    "dropout", "in_channels", "layers_per_block", "norm_num_groups", "out_channels",
    "projection_class_embeddings_input_dim", "sample_size", "transformer_layers_per_block",
    "up_block_types", "upcast_attention", "use_linear_projection",
}  # fmt: skip
_ONLY_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
}
_FREE_VAE = {
    "block_out_channels", "down_block_types", "force_upcast", "in_channels", "latent_channels",
    "layers_per_block", "norm_num_groups", "out_channels", "sample_size", "scaling_factor",
    "shift_factor", "up_block_types", "use_post_quant_conv", "use_quant_conv",
}  # fmt: skip
_ONLY_TEXT = {"model_type": "clip_text_model"}
_FREE_TEXT = {
    "architectures", "attention_dropout", "bos_token_id", "dropout", "dtype", "eos_token_id",
    "hidden_act", "hidden_size", "initializer_factor", "initializer_range", "intermediate_size",
    "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "output_attentions", "output_hidden_states", "pad_token_id", "projection_dim", "return_dict",
    "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache", "vocab_size",
}  # fmt: skip


def read_unet(fields: Mapping[str, Any]) -> tuple[unet.UNet, tuple[int, int]]:
    """The U-Net of a config.json, and the height and width of latents that it names.

    Raises:
        ValueError: naming a field that is missing, unknown, or has a value that is not supported.
    """
    _check("unet", fields, _ONLY_UNET, _FREE_UNET)
    given = _Fields("unet", fields)
    channels = tuple(given["block_out_channels"])
    levels = len(channels)
    attends = _attends(given, levels)
    depths = _each(fields.get("transformer_layers_per_block"), levels, 1)
    # The name is theirs: without `num_attention_heads` it is the number of heads.
    heads = _each(fields.get("attention_head_dim"), levels, 8)
    pooled_dim, size_dim = _added(given)
    size = _each(fields.get("sample_size"), 2, 64)
    net = unet.UNet(
        in_channels=given["in_channels"],
        out_channels=given["out_channels"],
        channels=channels,
        num_blocks=_same("layers_per_block", fields.get("layers_per_block"), levels, 2),
        depths=tuple(depth if here else 0 for depth, here in zip(depths, attends)),
        middle_depth=depths[-1],
        num_heads=heads[0] if len(set(heads)) == 1 else heads,
        context_dim=_same("cross_attention_dim", given["cross_attention_dim"], levels),
        pooled_dim=pooled_dim,
        size_dim=size_dim,
        num_groups=fields.get("norm_num_groups", 32),
        linear=bool(fields.get("use_linear_projection")),
    )
    return net, size


def write_unet(net: unet.UNet, sample_size: tuple[int, int]) -> dict[str, Any]:
    """The config.json of a U-Net, the inverse of `read_unet`.

    Raises:
        ValueError: for a middle of another depth than the level above it, which no file can say.
    """
    depths = [*(depth or 1 for depth in net.depths[:-1]), net.middle_depth]
    if net.depths[-1] not in (0, net.middle_depth):
        raise ValueError(
            f"middle_depth={net.middle_depth} below depths={net.depths}: diffusers files hold one "
            "number for the last level and the middle"
        )
    xl = net.pooled_dim is not None
    types = [_CROSS[depth > 0] for depth in net.depths]
    square = sample_size[0] == sample_size[1]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "addition_embed_type": "text_time" if xl else None,
        "addition_time_embed_dim": net.size_dim if xl else None,
        "attention_head_dim": _shortest(net.heads),
        "block_out_channels": list(net.channels),
        "cross_attention_dim": net.context_dim,
        "down_block_types": [kind.format("Down") for kind in types],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": net.in_channels,
        "layers_per_block": net.num_blocks,
        "norm_eps": 1e-5,
        "norm_num_groups": net.num_groups,
        "out_channels": net.out_channels,
        "projection_class_embeddings_input_dim": (
            net.pooled_dim + unet.NUM_SIZES * net.size_dim if xl else None
        ),
        "sample_size": sample_size[0] if square else list(sample_size),
        "transformer_layers_per_block": _shortest(depths),
        "up_block_types": [kind.format("Up") for kind in reversed(types)],
        "use_linear_projection": net.linear,
    }


def read_vae(fields: Mapping[str, Any]) -> tuple[autoencoder.Autoencoder, float, float]:
    """The autoencoder of a config.json, the scale of its latents and what is taken off before.

    Raises:
        ValueError: as `read_unet`.
    """
    _check("vae", fields, _ONLY_VAE, _FREE_VAE)
    given = _Fields("vae", fields)
    channels = tuple(given["block_out_channels"])
    for name, kind in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
        types = given[f"{name}_block_types"]
        if list(types) != [kind] * len(channels):
            raise ValueError(f"vae: {name}_block_types={types}: expected {len(channels)} {kind}")
    points = {fields.get(f"use_{name}", True) for name in ("quant_conv", "post_quant_conv")}
    colours = {given["in_channels"], given["out_channels"]}
    if len(points) > 1 or len(colours) > 1:
        raise ValueError(
            f"vae: in_channels, out_channels {sorted(colours)}, use_quant_conv and "
            f"use_post_quant_conv {sorted(points)}: expected the same before and after"
        )
    vae = autoencoder.Autoencoder(
        channels=channels,
        num_blocks=fields.get("layers_per_block", 1),
        latent_dim=given["latent_channels"],
        image_channels=colours.pop(),
        point_maps=points.pop(),
        num_groups=fields.get("norm_num_groups", 32),
    )
    numbers = (
        default if fields.get(name) is None else fields[name]
        for name, default in (("scaling_factor", 0.18215), ("shift_factor", 0.0))
    )  # fmt: skip
    return vae, *numbers


def write_vae(vae: autoencoder.Autoencoder, scale: float, shift: float) -> dict[str, Any]:
    """The config.json of an autoencoder, the inverse of `read_vae`.

    Raises:
        ValueError: for one without a Gaussian posterior.
    """
    if not vae.gaussian:
        raise ValueError("a first stage with gaussian=False: expected a Gaussian posterior")
    levels = len(vae.channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": list(vae.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": vae.image_channels,
        "latent_channels": vae.latent_dim,
        "layers_per_block": vae.num_blocks,
        "norm_num_groups": vae.num_groups,
        "out_channels": vae.image_channels,
        "scaling_factor": scale,
        "shift_factor": shift or None,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": vae.point_maps,
        "use_quant_conv": vae.point_maps,
    }


def read_text_encoder(
    fields: Mapping[str, Any], *, projects: bool = False, skip_last: bool = False
) -> text_encoder.TextEncoder:
    """The text encoder of a config.json.

    Args:
        fields: its content.
        projects: whether it is a `CLIPTextModelWithProjection`.
        skip_last: see `TextEncoder`; the kind of pipeline says so, not the file.
    Raises:
        ValueError: as `read_unet`.
    """
    _check("text_encoder", fields, _ONLY_TEXT, _FREE_TEXT)
    given = _Fields("text_encoder", fields)
    activation = fields.get("hidden_act", "quick_gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"text_encoder: hidden_act={activation!r}: expected one of {', '.join(_ACTIVATIONS)}"
        )
    end = fields.get("eos_token_id", 49_407)
    return text_encoder.clip(
        given["num_hidden_layers"],
        given["hidden_size"],
        given["num_attention_heads"],
        hidden_dim=given["intermediate_size"],
        activation=_ACTIVATIONS[activation],
        epsilon=fields.get("layer_norm_eps", 1e-5),
        vocab_size=given["vocab_size"],
        max_length=fields.get("max_position_embeddings", 77),
        skip_last=skip_last,
        projection_dim=given["projection_dim"] if projects else None,
        end_token=None if end == 2 else end,
    )


def write_text_encoder(encoder: text_encoder.TextEncoder) -> dict[str, Any]:
    """The config.json of a text encoder, the inverse of `read_text_encoder`.

    Raises:
        ValueError: for a stack that is not CLIP's.
    """
    stack = encoder.stack
    name = next((n for n, f in _ACTIVATIONS.items() if f is stack.activation), None)
    again = text_encoder.clip(
        stack.depth, stack.width, stack.num_heads, hidden_dim=stack.hidden_dim,
        activation=stack.activation, epsilon=stack.norm.epsilon,
    )  # fmt: skip
    if name is None or again.stack != stack:
        raise ValueError(f"text encoder of {stack}: expected the stack of text_encoder.clip(...)")
    projects = encoder.projection_dim is not None
    return {
        "architectures": ["CLIPTextModelWithProjection" if projects else "CLIPTextModel"],
        "eos_token_id": 2 if encoder.end_token is None else encoder.end_token,
        "hidden_act": name,
        "hidden_size": stack.width,
        "intermediate_size": stack.hidden_dim,
        "layer_norm_eps": stack.norm.epsilon,
        "max_position_embeddings": encoder.max_length,
        "model_type": "clip_text_model",
        "num_attention_heads": stack.num_heads,
        "num_hidden_layers": stack.depth,
        "projection_dim": encoder.projection_dim or stack.width,
        "vocab_size": encoder.vocab_size,
    }


class _Fields(dict):
    """Fields whose absence is a ValueError that names the file and the field."""

    def __init__(self, where: str, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.where}: config.json lacks {name!r}")


def _check(where: str, fields: Mapping[str, Any], only: Mapping[str, Any], free: set[str]) -> None:
    for name, value in fields.items():
        if name in only:
            if value is not None and value != only[name]:
                raise ValueError(
                    f"{where}: {name}={value!r} is not supported: expected {only[name]!r}"
                )
        elif name not in free and not name.startswith("_"):
            raise ValueError(f"{where}: unknown field {name}={value!r} in config.json")


def _attends(given: _Fields, levels: int) -> list[bool]:
    """Whether each level has attention, by the names of its blocks."""
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    down, up = given["down_block_types"], given["up_block_types"]
    mirrored = [str(kind).replace("Up", "Down") for kind in reversed(up)]
    if len(down) != levels or list(down) != mirrored or not set(down) <= set(kinds):
        raise ValueError(
            f"unet: down_block_types={down}, up_block_types={up}: expected {levels} of "
            "CrossAttnDownBlock2D and DownBlock2D, and the same upwards in reverse"
        )
    return [kinds[kind] for kind in down]


def _added(given: _Fields) -> tuple[int | None, int]:
    """Widths of the pooled text and of a size's features, None without them."""
    kind = given.get("addition_embed_type")
    if kind is None:
        return None, unet.UNet.size_dim
    if kind != "text_time":
        raise ValueError(f"unet: addition_embed_type={kind!r}: expected 'text_time' or none")
    size_dim, width = (
        given["addition_time_embed_dim"],
        given["projection_class_embeddings_input_dim"],
    )
    if width <= unet.NUM_SIZES * size_dim:
        raise ValueError(
            f"unet: projection_class_embeddings_input_dim={width}: expected more than "
            f"{unet.NUM_SIZES} addition_time_embed_dim={size_dim}"
        )
    return width - unet.NUM_SIZES * size_dim, size_dim


def _each(value: Any, count: int, default: int) -> tuple[int, ...]:
    """One number for each level."""
    value = default if value is None else value
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * count


def _same(name: str, value: Any, count: int, default: int = 0) -> int:
    numbers = set(_each(value, count, default))
    if len(numbers) > 1:
        raise ValueError(f"unet: {name}={value}: expected the same at every level")
    return numbers.pop()


def _shortest(numbers: Any) -> Any:
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)
