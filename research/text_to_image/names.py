"""Which tensor of a diffusers folder is which of our parameters, and in what layout."""

from __future__ import annotations

import re

import flax.linen as nn

from research.text_to_image import text_encoder, unet
from research.transformers import names
from research.vae.networks import autoencoder

affine, norm = names.affine, names.norm


def of(net: nn.Module) -> names.Names:
    """The tensors of a network's folder.

    Raises:
        ValueError: for a network that no such folder holds.
    """
    makers = {
        unet.UNet: of_unet,
        autoencoder.Autoencoder: of_vae,
        text_encoder.TextEncoder: of_text_encoder,
    }
    if type(net) not in makers:
        raise ValueError(f"a network of type {type(net).__name__}: folders hold none")
    return makers[type(net)](net)


def of_unet(net: unet.UNet) -> names.Names:
    """The tensors of `unet/`; an entry whose parameter the network lacks does not apply."""
    entries = [
        *_conv("conv_in", "stem"),
        *_conv("conv_out", "head"),
        *norm("conv_norm_out", "norm"),
        *_residual("mid_block.resnets.0", "middle_block0"),
        *_residual("mid_block.resnets.1", "middle_block1"),
        *_transformer("mid_block.attentions.0", "middle_attention", net.middle_depth, net.linear),
    ]
    for theirs, ours in (("time_embedding", "time"), ("add_embedding", "added")):
        entries += affine(f"{theirs}.linear_1", f"{ours}/dense0", "linear")
        entries += affine(f"{theirs}.linear_2", f"{ours}/dense1", "linear")
    last = len(net.channels) - 1
    for level, depth in enumerate(net.depths):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        entries += _conv(f"{down}.downsamplers.0.conv", f"down{level}")
        entries += _conv(f"{up}.upsamplers.0.conv", f"up{level}")
        for theirs, ours, count in ((down, "down", 0), (up, "up", 1)):
            for index in range(net.num_blocks + count):
                entries += _residual(f"{theirs}.resnets.{index}", f"{ours}{level}_block{index}")
                entries += _transformer(
                    f"{theirs}.attentions.{index}",
                    f"{ours}{level}_attention{index}",
                    depth,
                    net.linear,
                )
    return names.Names("Stable Diffusion U-Net", "", tuple(entries))


def of_vae(vae: autoencoder.Autoencoder) -> names.Names:
    """The tensors of `vae/`."""
    entries = [
        *_conv("quant_conv", "after_encoder"),
        *_conv("post_quant_conv", "before_decoder"),
    ]
    last = len(vae.channels) - 1
    for half in ("encoder", "decoder"):
        entries += _conv(f"{half}.conv_in", f"{half}/stem")
        entries += _conv(f"{half}.conv_out", f"{half}/head")
        entries += norm(f"{half}.conv_norm_out", f"{half}/norm")
        middle = f"{half}/middle"
        entries += _residual(f"{half}.mid_block.resnets.0", f"{middle}/block0", point=False)
        entries += _residual(f"{half}.mid_block.resnets.1", f"{middle}/block1", point=False)
        theirs, ours = f"{half}.mid_block.attentions.0", f"{middle}/attention"
        entries += norm(f"{theirs}.group_norm", f"{ours}/norm")
        for their, our in zip(_PROJECTIONS, ("query", "key", "value", "out")):
            entries += affine(f"{theirs}.{their}", f"{ours}/{our}", "linear")
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        entries += _conv(f"{down}.downsamplers.0.conv", f"encoder/down{level}")
        entries += _conv(f"{up}.upsamplers.0.conv", f"decoder/up{level}")
        for index in range(vae.num_blocks + 1):
            ours = f"{level}_block{index}"
            entries += _residual(f"{down}.resnets.{index}", f"encoder/down{ours}", point=False)
            entries += _residual(f"{up}.resnets.{index}", f"decoder/up{ours}", point=False)
    return names.Names("Stable Diffusion autoencoder", "", tuple(entries))


def of_text_encoder(encoder: text_encoder.TextEncoder) -> names.Names:
    """The tensors of `text_encoder/`, in the spelling with `text_model.`."""
    layer, ours = "text_model.encoder.layers.{}", "layers/layer"
    attention = f"{ours}/attention"
    entries = [
        names.Entry("text_model.embeddings.token_embedding.weight", ("embedding",), "table"),
        names.Entry("text_model.embeddings.position_embedding.weight", ("positions",), "table"),
        *norm("text_model.final_layer_norm", "final_norm"),
        *norm(f"{layer}.layer_norm1", f"{ours}/attention_norm"),
        *norm(f"{layer}.layer_norm2", f"{ours}/mlp_norm"),
        *affine(f"{layer}.self_attn.q_proj", f"{attention}/query", "linear"),
        *affine(f"{layer}.self_attn.k_proj", f"{attention}/key", "linear"),
        *affine(f"{layer}.self_attn.v_proj", f"{attention}/value", "linear"),
        *affine(f"{layer}.self_attn.out_proj", f"{attention}/out", "linear", 2),
        *affine(f"{layer}.mlp.fc1", f"{ours}/mlp/up", "linear"),
        *affine(f"{layer}.mlp.fc2", f"{ours}/mlp/down", "linear"),
        names.Entry("text_projection.weight", ("projection/kernel",), "linear"),
    ]
    return names.Names("CLIP text encoder", "", tuple(entries), r"position_ids$")


def spelled(name: str, net: nn.Module) -> str:
    """A tensor's name as the tables above have it, from any spelling that files have.

    transformers 5 leaves out `text_model.`; autoencoders from before diffusers 0.17 have `query`,
    `key`, `value` and `proj_attn`.
    """
    if isinstance(net, autoencoder.Autoencoder):
        old = re.fullmatch(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(.*)", name)
        new = dict(zip(("query", "key", "value", "proj_attn"), _PROJECTIONS))
        return f"{old[1]}.{new[old[2]]}.{old[3]}" if old else name
    bare = not name.startswith(("text_model.", "text_projection."))
    return f"text_model.{name}" if bare and isinstance(net, text_encoder.TextEncoder) else name


_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def _conv(theirs: str, ours: str, point: bool = False) -> list:
    """A convolution; one of 1x1 that is a matrix of ours if `point`."""
    kernel = names.Kernel(f"{theirs}.weight", (f"{ours}/kernel",))
    if point:
        kernel = names.Entry(kernel.name, kernel.paths, "patches")
    return [kernel, names.Entry(f"{theirs}.bias", (f"{ours}/bias",), "vector")]


def _residual(theirs: str, ours: str, point: bool = True) -> list:
    return [
        *norm(f"{theirs}.norm1", f"{ours}/norm0"),
        *_conv(f"{theirs}.conv1", f"{ours}/conv0"),
        *affine(f"{theirs}.time_emb_proj", f"{ours}/time", "linear"),
        *norm(f"{theirs}.norm2", f"{ours}/norm1"),
        *_conv(f"{theirs}.conv2", f"{ours}/conv1"),
        *_conv(f"{theirs}.conv_shortcut", f"{ours}/short", point=point),
    ]


def _transformer(theirs: str, ours: str, depth: int, linear: bool) -> list:
    entries = norm(f"{theirs}.norm", f"{ours}/norm")
    for their, our in (("proj_in", "into"), ("proj_out", "out")):
        if linear:
            entries += affine(f"{theirs}.{their}", f"{ours}/{our}", "linear")
        else:
            entries += _conv(f"{theirs}.{their}", f"{ours}/{our}", point=True)
    for index in range(depth):
        block, layer = f"{theirs}.transformer_blocks.{index}", f"{ours}/layer{index}"
        for number, part in enumerate(("attention", "cross", "mlp"), 1):
            entries += norm(f"{block}.norm{number}", f"{layer}/{part}_norm")
        for number, part in enumerate(("attention", "cross"), 1):
            for their, our in zip(_PROJECTIONS, ("query", "key", "value", "out")):
                entries += affine(
                    f"{block}.attn{number}.{their}", f"{layer}/{part}/{our}", "linear"
                )
        entries += affine(f"{block}.ff.net.0.proj", f"{layer}/mlp/up", "linear")
        entries += affine(f"{block}.ff.net.2", f"{layer}/mlp/down", "linear")
    return entries
