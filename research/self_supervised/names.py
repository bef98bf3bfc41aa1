"""Which tensor of a checkpoint is which of our variables: DINOv2, ViT-MAE and residual networks."""

from __future__ import annotations

from research.self_supervised import dinov2, mae
from research.transformers import names
from research.vision import resnet


def of_dinov2(model: dinov2.DINOv2) -> names.Names:
    """The tensors of a `Dinov2Model`, which in its own file are without "dinov2."."""
    embeddings, layer, ours = "dinov2.embeddings", "dinov2.encoder.layer.{}", "params/blocks"
    entries = [
        names.Entry(f"{embeddings}.cls_token", ("params/class_token",), "table"),
        names.Entry(f"{embeddings}.mask_token", ("params/mask_token",), "table"),
        names.Entry(f"{embeddings}.position_embeddings", ("params/positions",), "table"),
        *_patches(embeddings, "params/embed", model.patch),
        *names.norm(f"{layer}.norm1", f"{ours}/attention_norm"),
        *names.norm(f"{layer}.norm2", f"{ours}/mlp_norm"),
        *_attention(layer, ours),
        names.Entry(f"{layer}.layer_scale1.lambda1", (f"{ours}/attention_scale",), "vector"),
        names.Entry(f"{layer}.layer_scale2.lambda1", (f"{ours}/mlp_scale",), "vector"),
        *names.norm("dinov2.layernorm", "params/final_norm"),
    ]
    if model.gated:
        paths = [f"{ours}/mlp/gate", f"{ours}/mlp/up"]
        for theirs, leaf, kind in (("weight", "kernel", "linear"), ("bias", "bias", "vector")):
            both = tuple(f"{path}/{leaf}" for path in paths)
            entries.append(names.Entry(f"{layer}.mlp.weights_in.{theirs}", both, kind))
        entries += names.affine(f"{layer}.mlp.weights_out", f"{ours}/mlp/down", "linear")
    else:
        entries += names.affine(f"{layer}.mlp.fc1", f"{ours}/mlp/up", "linear")
        entries += names.affine(f"{layer}.mlp.fc2", f"{ours}/mlp/down", "linear")
    # A classifier on top is another model's.
    return names.Names("DINOv2", "dinov2.", tuple(entries), r"^(dinov2\.)?classifier\.")


OLD_LAYER, NEW_LAYER = "decoder.decoder_layers.{}", "decoder.decoder_encoder.layer.{}"


def of_mae(model: mae.MAE, decoder_layer: str = NEW_LAYER) -> names.Names:
    """The tensors of a `ViTMAEForPreTraining`, whose decoder's layers have had two names."""
    entries = [
        names.Entry("vit.embeddings.cls_token", ("params/encoder/class_token",), "table"),
        names.Entry("vit.embeddings.position_embeddings", ("tables/encoder/positions",), "table"),
        *_patches("vit.embeddings", "params/encoder/embed", model.patch),
        *names.norm("vit.layernorm", "params/encoder/stack/final_norm"),
        *names.affine("decoder.decoder_embed", "params/decoder/embed", "linear"),
        names.Entry("decoder.mask_token", ("params/decoder/mask_token",), "table"),
        names.Entry("decoder.decoder_pos_embed", ("tables/decoder/positions",), "table"),
        *names.norm("decoder.decoder_norm", "params/decoder/stack/final_norm"),
        *names.affine("decoder.decoder_pred", "params/decoder/head", "linear"),
    ]
    for layer, half in (("vit.encoder.layer.{}", "encoder"), (decoder_layer, "decoder")):
        ours = f"params/{half}/stack/layers"
        entries += [
            *names.norm(f"{layer}.layernorm_before", f"{ours}/attention_norm"),
            *names.norm(f"{layer}.layernorm_after", f"{ours}/mlp_norm"),
            *_attention(layer, ours),
            *names.affine(f"{layer}.intermediate.dense", f"{ours}/mlp/up", "linear"),
            *names.affine(f"{layer}.output.dense", f"{ours}/mlp/down", "linear"),
        ]
    return names.Names("ViT-MAE", "", tuple(entries))


COUNTER = "num_batches_tracked"  # of PyTorch's batch norm, which ours has no need of


def of_resnet(net: resnet.ResNet) -> names.Names:
    """The tensors of a `ResNetForImageClassification`, or without "resnet." of a `ResNetModel`."""
    entries = [
        *_convolution("resnet.embedder.embedder", "stem", "stem_norm"),
        *names.affine("classifier.1", "params/head", "linear"),
    ]
    for stage, count in enumerate(net.num_blocks):
        for block in range(count):
            theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
            ours = f"stage{stage}_block{block}"
            for index in range(3 if net.bottleneck else 2):
                entries += _convolution(
                    f"{theirs}.layer.{index}", f"{ours}/conv{index}", f"{ours}/norm{index}"
                )
            entries += _convolution(f"{theirs}.shortcut", f"{ours}/short", f"{ours}/short_norm")
    return names.Names("ResNet", "resnet.", tuple(entries), rf"\.{COUNTER}$")


def _patches(theirs: str, ours: str, patch: int) -> list[names.Entry]:
    projection = f"{theirs}.patch_embeddings.projection"
    kernel = (f"{ours}/linear/kernel",)
    return [
        names.Entry(f"{projection}.weight", kernel, "patches", patch=patch),
        names.Entry(f"{projection}.bias", (f"{ours}/linear/bias",), "vector"),
    ]


def _attention(layer: str, ours: str) -> list[names.Entry]:
    entries = names.affine(f"{layer}.attention.output.dense", f"{ours}/attention/out", "linear", 2)
    for name in ("query", "key", "value"):
        theirs = f"{layer}.attention.attention.{name}"
        entries += names.affine(theirs, f"{ours}/attention/{name}", "linear")
    return entries


def _convolution(theirs: str, ours: str, norm: str) -> list[names.Entry | names.Kernel]:
    """A convolution without a vector, and the batch norm behind it."""
    normalisation = f"{theirs}.normalization"
    return [
        names.Kernel(f"{theirs}.convolution.weight", (f"params/{ours}/kernel",)),
        *names.norm(normalisation, f"params/{norm}"),
        names.Entry(f"{normalisation}.running_mean", (f"batch_stats/{norm}/mean",), "vector"),
        names.Entry(f"{normalisation}.running_var", (f"batch_stats/{norm}/var",), "vector"),
    ]
