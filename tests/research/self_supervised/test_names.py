"""Which tensor is which: lists of the published models, layouts of convolutions."""

import numpy as np
import pytest

from research.self_supervised import dinov2, mae, weights
from research.vision import resnet


def shapes_of(model, old=False):
    table = weights._table(model, old)
    return weights.tensors.shapes_of(table, weights._shapes(model))


@pytest.mark.parametrize(
    "model, count, size, some",
    [
        (
            dinov2.base(),
            # 5 in front, 18 in each of 12 layers, the final norm
            5 + 18 * 12 + 2,
            86_580_480,
            {
                "dinov2.embeddings.position_embeddings": (1, 1370, 768),
                "dinov2.embeddings.mask_token": (1, 768),
                "dinov2.encoder.layer.11.layer_scale2.lambda1": (768,),
                "dinov2.encoder.layer.0.mlp.fc1.weight": (3072, 768),
            },
        ),
        (
            mae.base(),
            4 + 16 * 12 + 2 + 4 + 16 * 8 + 4,
            111_907_840,
            {
                "vit.embeddings.position_embeddings": (1, 197, 768),
                "decoder.decoder_pos_embed": (1, 197, 512),
                "decoder.mask_token": (1, 1, 512),
                "decoder.decoder_encoder.layer.7.output.dense.weight": (512, 2048),
                "decoder.decoder_pred.weight": (768, 512),
            },
        ),
        (
            weights.ResNetEncoder(resnet.resnet50(num_classes=1000)),
            # 53 convolutions, each with a norm of 4, and the classifier
            53 * 5 + 2,
            25_557_032 + 53_120,  # torchvision's count, and running means and variances
            {
                "resnet.embedder.embedder.convolution.weight": (64, 3, 7, 7),
                "resnet.encoder.stages.3.layers.2.layer.1.convolution.weight": (512, 512, 3, 3),
                "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var": (512,),
                "classifier.1.weight": (1000, 2048),
            },
        ),
    ],
)
def test_tensors_of_published_models(model, count, size, some):
    shapes = shapes_of(model)
    assert len(shapes) == count and sum(int(np.prod(s)) for s in shapes.values()) == size
    assert {name: shapes[name] for name in some} == some


def test_the_giant_has_gate_and_value_in_one():
    shapes = shapes_of(dinov2.giant())
    assert shapes["dinov2.encoder.layer.39.mlp.weights_in.weight"] == (8192, 1536)
    assert shapes["dinov2.encoder.layer.0.mlp.weights_out.weight"] == (1536, 4096)


def test_old_and_new_names_of_a_decoder():
    model = mae.base()
    old, new = shapes_of(model, old=True), shapes_of(model)
    assert [name.replace("decoder_layers", "decoder_encoder.layer") for name in old] == list(new)
