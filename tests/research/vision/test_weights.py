"""ViT checkpoints: the round trip is the identity, misfits are named, logits are theirs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.testing import assert_trees_equal
from research.vision import vit, weights

SHAPE = (8, 12, 3)
MODEL = vit.ViT(num_classes=5, patch=4, width=12, depth=2, num_heads=3, mlp_dim=20, grid=(2, 3))


def random_params(model, shape, dtype=np.float32):
    noise = np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: noise.standard_normal(leaf.shape).astype(dtype), shapes)


def test_out_and_in_again_is_the_identity(tmp_path):
    params = random_params(MODEL, SHAPE)
    weights.save(tmp_path / "model.safetensors", MODEL, SHAPE, params)
    assert_trees_equal(weights.from_huggingface(MODEL, SHAPE, tmp_path), params)
    tensors = weights.to_huggingface(MODEL, SHAPE, params)
    assert {key: t.shape for key, t in tensors.items()} == weights.tensor_shapes(MODEL, SHAPE)
    assert sum(t.size for t in tensors.values()) == sum(x.size for x in jax.tree.leaves(params))
    half = weights.from_huggingface(MODEL, SHAPE, tensors, dtype=np.float16)
    assert_trees_equal(half, jax.tree.map(lambda leaf: leaf.astype(np.float16), params))
    assert tensors["vit.embeddings.patch_embeddings.projection.weight"].shape == (12, 3, 4, 4)


def test_a_patch_is_their_convolution(x64):
    """Cross-correlation with stride p, channels and rows in PyTorch's order, by loops."""
    params = random_params(MODEL, SHAPE, np.float64)
    tensors = weights.to_huggingface(MODEL, SHAPE, params)
    kernel = tensors["vit.embeddings.patch_embeddings.projection.weight"]  # [D, C, p, p]
    image = np.random.default_rng(1).normal(size=SHAPE)
    _, kept = jax.jit(functools.partial(MODEL.apply, mutable=["intermediates"]))(
        params, image[None]
    )
    tokens = kept["intermediates"]["tokens"][0][0, 1:] - params["params"]["positions"][0, 1:]
    for row, column in np.ndindex(2, 3):
        cut = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]  # [p, p, C]
        expected = (
            np.einsum("dcij,ijc->d", kernel, cut)
            + tensors["vit.embeddings.patch_embeddings.projection.bias"]
        )
        np.testing.assert_allclose(tokens[3 * row + column], expected, rtol=1e-10, atol=1e-12)


def test_the_tensor_list_of_the_published_base_model():
    """google/vit-base-patch16-224: 200 tensors, 86,567,656 numbers."""
    shapes = weights.tensor_shapes(vit.base(num_classes=1000, patch=16), (224, 224, 3))
    assert len(shapes) == 200 and sum(map(np.prod, shapes.values())) == 86_567_656
    some = {
        "vit.embeddings.cls_token": (1, 1, 768),
        "vit.embeddings.position_embeddings": (1, 197, 768),
        "vit.embeddings.patch_embeddings.projection.weight": (768, 3, 16, 16),
        "vit.encoder.layer.11.attention.attention.query.weight": (768, 768),
        "vit.encoder.layer.0.intermediate.dense.weight": (3072, 768),
        "vit.layernorm.bias": (768,),
        "classifier.weight": (1000, 768),
    }
    assert {name: shapes[name] for name in some} == some


def test_what_does_not_fit_is_named():
    tensors = weights.to_huggingface(MODEL, SHAPE, random_params(MODEL, SHAPE))
    with pytest.raises(
        ValueError, match=r"position_embeddings has shape \(1, 7, 12\), .* \(1, 10, 12\)"
    ):
        weights.from_huggingface(MODEL.clone(grid=None), (12, 12, 3), tensors)
    with pytest.raises(
        ValueError, match=r"projection.weight has shape \(12, 3, 4, 4\), .* \(12, 1, 4, 4\)"
    ):
        weights.from_huggingface(MODEL, (8, 12, 1), tensors)
    lacking = {name: t for name, t in tensors.items() if "classifier" not in name}
    with pytest.raises(ValueError, match="not a ViT .* missing classifier.weight"):
        weights.from_huggingface(MODEL, SHAPE, lacking)
    with pytest.raises(ValueError, match=r"head/bias has shape \(5,\), the config expects \(6,\)"):
        weights.to_huggingface(MODEL.clone(num_classes=6), SHAPE, random_params(MODEL, SHAPE))
    for options in ({"pooling": "average"}, {"positions": "fixed"}, {"num_registers": 2}):
        with pytest.raises(ValueError, match="a checkpoint has a class token"):
            weights.tensor_shapes(MODEL.clone(**options), SHAPE)
    good = {
        "model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 20, "patch_size": 4, "image_size": [8, 12], "num_labels": 5,
    }  # fmt: skip
    assert weights.from_config(good) == (MODEL.clone(epsilon=1e-12), SHAPE)
    for name, value in (("model_type", "deit"), ("hidden_act", "relu"), ("qkv_bias", False)):
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            weights.from_config({**good, name: value})
    square = weights.from_config({**good, "image_size": 8})
    assert square == (MODEL.clone(epsilon=1e-12, grid=None), (8, 8, 3))
    with pytest.raises(ValueError, match="3 x 3 patches: the model has grid"):
        weights.from_huggingface(MODEL, (12, 12, 3), tensors)
    with pytest.raises(ValueError, match="square patches"):
        weights.from_config({**good, "patch_size": [4, 2]})
    with pytest.raises(ValueError, match=r"image_size=\[8\]: expected a number, or height"):
        weights.from_config({**good, "image_size": [8]})
    for name in ("num_labels", "hidden_size"):
        with pytest.raises(ValueError, match=f"config.json of a vit lacks '{name}'"):
            weights.from_config({key: value for key, value in good.items() if key != name})


def test_paths_are_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = {
        "model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 20, "patch_size": 4, "image_size": [8, 12], "num_labels": 5,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    params = random_params(MODEL, SHAPE)
    weights.save("~/model.safetensors", MODEL, SHAPE, params)
    assert_trees_equal(weights.from_huggingface(MODEL, SHAPE, "~"), params)
    for path in ("~", "~/config.json"):
        assert weights.read_config(path) == (MODEL.clone(epsilon=1e-12), SHAPE)
    monkeypatch.chdir(tmp_path)
    for name, call in (
        ("path", lambda address: weights.read_config(address)),
        ("source", lambda address: weights.from_huggingface(MODEL, SHAPE, address)),
        ("file", lambda address: weights.save(address, MODEL, SHAPE, params)),
    ):
        with pytest.raises(ValueError, match=f"{name}=gs://bucket/vit is an address"):
            call("gs://bucket/vit")


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)])
def test_logits_are_those_of_the_transformers_library(dtype, tolerance, tmp_path, x64):
    """Their model's files in ours, then our parameters, changed, in their model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    options = {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "num_labels": 5,
        "intermediate_size": 20, "image_size": (8, 12), "patch_size": 4,
    }  # fmt: skip
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**options)).eval()
    kind = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    theirs.to(kind).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vit"
    model, shape = weights.read_config(tmp_path)
    params = weights.from_huggingface(model, shape, tmp_path)
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(dtype)

    def check(theirs, params):
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
        logits, scale = jax.jit(model.apply)(params, images), np.abs(expected).max()
        np.testing.assert_allclose(logits / scale, expected / scale, atol=tolerance)

    check(theirs, params)
    params = jax.tree.map(lambda leaf: leaf * leaf.dtype.type(1.25), params)
    weights.save(tmp_path / "model.safetensors", model, shape, params)
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=kind).eval()
    check(again, params)
