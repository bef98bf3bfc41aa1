"""Folders of DINOv2, ViT-MAE and residual networks: values by NumPy, round trips, misfits named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from library.testing import assert_trees_equal
from research.self_supervised import dinov2, mae, names, weights
from research.transformers import weights as tensor_files
from research.vision import resnet
from tests.research.self_supervised import published_encoders as published

RNG = np.random.default_rng(0)
DINOV2 = {
    "model_type": "dinov2", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
    "mlp_ratio": 4, "image_size": 12, "patch_size": 4, "num_channels": 3, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu", "use_swiglu_ffn": False, "layerscale_value": 1.0,
}  # fmt: skip
MAE = {
    "model_type": "vit_mae", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 20, "image_size": 16, "patch_size": 4, "num_channels": 3,
    "decoder_hidden_size": 8, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip
RESNET = {
    "model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [2, 1],
    "layer_type": "basic", "hidden_act": "relu", "num_channels": 3,
    "id2label": {str(i): str(i) for i in range(5)},
}  # fmt: skip


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensor_files.save_tensors(folder / "model.safetensors", tensors)
    return folder


def close(got, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, atol=1e-10)


def test_tokens_of_dinov2(tmp_path, x64):
    tensors = published.tensors_of(published.dinov2_shapes())
    model, params = weights.load(write(tmp_path, DINOV2, tensors))
    images = RNG.normal(size=(2, 12, 12, 3))
    tokens, maps = published.dinov2(tensors, images)
    close(jax.jit(model.features)(params, images), tokens)
    close(jax.jit(model.attention_maps)(params, images), maps)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}
    prefixed = {f"dinov2.{name}": tensor for name, tensor in tensors.items()}
    prefixed["classifier.weight"] = np.zeros((2, 24))  # of a `Dinov2ForImageClassification`
    again = weights.load(write(tmp_path, DINOV2, prefixed), dtype=np.float32)
    assert again[0] == model
    assert_trees_equal(again[1], jax.tree.map(np.float32, params))


@pytest.mark.parametrize(
    "layer, normalise",
    [("decoder.decoder_layers.{}", False), ("decoder.decoder_encoder.layer.{}", True)],
)
def test_reconstructions_of_vit_mae(layer, normalise, tmp_path, x64):
    """Both names that the decoder's layers have had; tables need not be sines."""
    tensors = published.tensors_of(published.mae_shapes(layer))
    options = {"ratio": 0.5, "normalise": True, "epsilon": 1e-3} if normalise else {}
    names_of = {"ratio": "mask_ratio", "normalise": "norm_pix_loss", "epsilon": "layer_norm_eps"}
    config = {**MAE, **{names_of[name]: value for name, value in options.items()}}
    model, params = weights.load(write(tmp_path, config, tensors))
    images, noise = RNG.normal(size=(2, 16, 16, 3)), RNG.uniform(size=(2, 16))
    everything = np.tile(np.arange(16), (2, 1))
    tokens, found = jax.jit(
        lambda p, x, noise: (model.features(p, x), model.reconstruct(p, x, noise))
    )(params, images, noise)
    epsilon = options.get("epsilon", 1e-12)
    close(tokens, published.mae_tokens(tensors, images, everything, epsilon=epsilon))
    prediction, mask, loss = published.mae(tensors, images, noise, layer, **options)
    close(found.prediction, prediction)
    np.testing.assert_array_equal(found.mask, mask)
    close(found.loss, loss)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_maps_and_logits_of_a_residual_network(bottleneck, tmp_path, x64):
    config = {**RESNET, "layer_type": "bottleneck", "hidden_sizes": [16, 32]}
    config = config if bottleneck else RESNET
    tensors = published.tensors_of(published.resnet_shapes(bottleneck=bottleneck))
    model, params = weights.load(write(tmp_path, config, tensors))
    images = RNG.normal(size=(2, 16, 24, 3))
    last, logits = published.resnet(tensors, images, bottleneck=bottleneck)
    last = last.reshape(2, -1, last.shape[-1])
    got = jax.jit(lambda p, x: (model.features(p, x), model.logits(p, x)))(params, images)
    close(got[0], np.concatenate([last.mean(1, keepdims=True), last], 1))
    close(got[1], logits)
    bare = {name.removeprefix("resnet."): t for name, t in tensors.items() if name[0] == "r"}
    bare["embedder.embedder.normalization.num_batches_tracked"] = np.zeros((), np.int64)
    encoder, variables = weights.load(write(tmp_path, config, bare))  # a `ResNetModel`
    assert encoder == weights.ResNetEncoder(model.net.clone(num_classes=None))
    assert "head" not in variables["params"]
    assert_trees_equal(variables["batch_stats"], params["batch_stats"])


def random_variables(model):
    rng = np.random.default_rng(1)
    tree = {}
    for path, shape in weights._shapes(model).items():
        *parents, leaf = path.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = rng.normal(size=shape).astype(np.float32)
    return tree


SMALL = weights.from_config(MAE)
MODELS = {
    "dinov2": (weights.from_config(DINOV2), published.dinov2_shapes()),
    "dinov2, gated": (
        dinov2.DINOv2((8, 12), 1, 4, 12, 2, 3, gated=True, mask_token=False, scale=0.5),
        None,
    ),
    "mae": (SMALL, published.mae_shapes("decoder.decoder_encoder.layer.{}")),
    "mae, normalised": (SMALL.clone(normalise=True, ratio=0.5, epsilon=1e-6, channels=1), None),
    "resnet": (weights.from_config(RESNET), None),
    "resnet, bare": (
        weights.ResNetEncoder(resnet.ResNet(None, (1, 2), bottleneck=True, width=4), channels=1),
        None,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_out_and_in_again_is_the_identity(name, tmp_path):
    model, shapes = MODELS[name]
    params = random_variables(model)
    weights.save(tmp_path / "new", model, params)
    again, read = weights.load(tmp_path / "new")
    assert again == model
    assert_trees_equal(read, params)
    tensors = weights.to_tensors(model, params)
    if shapes is not None:
        assert {key: tensor.shape for key, tensor in tensors.items()} == shapes
    if name.startswith("mae"):
        old = weights.to_tensors(model, params, old_names=True)
        assert old.keys() != tensors.keys() and sum("decoder_layers.1." in key for key in old) == 16
        weights.save(tmp_path / "old", model, params, old_names=True)
        assert_trees_equal(weights.load(tmp_path / "old")[1], params)
    if name.startswith("resnet"):
        counters = [key for key in tensors if key.endswith(names.COUNTER)]
        written = safetensors.numpy.load_file(tmp_path / "new" / "model.safetensors")
        assert {written[key].shape for key in counters} == {()}  # as PyTorch counts
        assert len(counters) == sum(key.endswith("running_var") for key in tensors) > 0
        assert all(key.startswith(("resnet.", "classifier.")) for key in tensors) == (
            "bare" not in name
        )


def test_what_does_not_fit_is_named(tmp_path):
    tensors = published.tensors_of(published.dinov2_shapes())
    patch = "embeddings.patch_embeddings.projection.weight"
    for changed, message in [
        ({**DINOV2, "patch_size": 2}, r"embeddings has shape \(1, 10, 12\), .* \(1, 37, 12\)"),
        ({**DINOV2, "patch_size": 2, "image_size": 6},
         rf"{patch} has shape \(12, 3, 4, 4\), the config expects \(12, 3, 2, 2\)"),
        ({**DINOV2, "num_hidden_layers": 3}, "not a DINOv2 .* missing dinov2.encoder.layer.2"),
        ({**DINOV2, "num_hidden_layers": 1}, "unknown dinov2.encoder.layer.1"),
        ({**DINOV2, "use_mask_token": False}, "unknown dinov2.embeddings.mask_token"),
        ({**DINOV2, "model_type": "vit"}, "model_type='vit': expected one of dinov2, vit_mae, res"),
        ({**DINOV2, "hidden_act": "relu"}, r"hidden_act='relu': expected 'gelu' \(dinov2\)"),
        ({**DINOV2, "qkv_bias": False}, "qkv_bias=False: expected True"),
        ({**DINOV2, "patch_size": [4, 2]}, r"patch_size=\[4, 2\]: expected two sides, square"),
        ({**DINOV2, "image_size": [12]}, r"image_size=\[12\]"),
        ({k: v for k, v in DINOV2.items() if k != "hidden_size"}, "dinov2 lacks 'hidden_size'"),
        ({**RESNET, "downsample_in_bottleneck": True}, "downsample_in_bottleneck=True: expected F"),
        ({**RESNET, "layer_type": "wide"}, "layer_type='wide': expected 'basic' or 'bottleneck'"),
        ({**RESNET, "hidden_sizes": [4, 9]}, r"hidden_sizes=\(4, 9\): expected \(4, 8\) after 4"),
    ]:  # fmt: skip
        write(tmp_path, changed, tensors)
        with pytest.raises(ValueError, match=message):
            weights.load(tmp_path)
    with pytest.raises(ValueError, match="folder=s3://hub/dinov2 is an address"):
        weights.load("s3://hub/dinov2")
    with pytest.raises(ValueError, match="folder=s3://hub/dinov2 is an address"):
        weights.save("s3://hub/dinov2", SMALL, {})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(json.dumps(DINOV2))
    with pytest.raises(FileNotFoundError, match="no safetensors file"):
        weights.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        weights.load(tmp_path)


def test_what_no_checkpoint_holds_is_not_written(tmp_path):
    params = random_variables(SMALL)
    encoder = weights.from_config(RESNET)
    for model, message in [
        (SMALL.clone(width=24), r"has shape \(12\D.* the config expects \(24"),
        (SMALL.clone(depth=3), r"has shape \(2\D.* the config expects \(3"),
        (dinov2.DINOv2(width=12, num_heads=3, mlp_dim=20), "mlp_dim=20: a DINOv2 checkpoint has"),
        (weights.ResNetEncoder(encoder.net.clone(small_images=True)), "small_images=True"),
        (weights.ResNetEncoder(encoder.net.clone(num_groups=2)), "num_groups=2: a checkpoint has"),
    ]:
        with pytest.raises(ValueError, match=message):
            weights.save(tmp_path / "none", model, params)
    assert not (tmp_path / "none").exists()
    images = jnp.zeros((2, 16, 16, 1))
    for call in (encoder.features, encoder.logits):
        with pytest.raises(ValueError, match=r"images of shape .*: expected \[B, H, W, 3\]"):
            call({}, images)
        with pytest.raises(ValueError, match="images of type int32"):
            call({}, images.astype(int))
    assert isinstance(SMALL, mae.MAE)
