"""Folders that `transformers` writes, and its reading of ours."""

import jax
import numpy as np
import pytest

from research.self_supervised import weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RNG = np.random.default_rng(0)
COMMON = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
MAE = {
    "intermediate_size": 20, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16,
}  # fmt: skip


def shaken(model):
    """The model in float64, away from where it starts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(0.1 + 0.1 * torch.rand(buffer.shape))
    return model.double().eval()


def theirs(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def close(got, expected, tolerance=1e-8):
    expected = expected.detach().numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, atol=tolerance)


def changed(params):
    return jax.tree.map(lambda leaf: 1.25 * leaf, params)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2(gated, tmp_path, x64):
    config = transformers.Dinov2Config(**COMMON, use_swiglu_ffn=gated)
    other = shaken(transformers.Dinov2Model(config))
    other.save_pretrained(tmp_path)
    model, params = weights.load(tmp_path)
    features = jax.jit(model.features)
    images = RNG.normal(size=(2, 16, 16, 3))
    close(features(params, images), other(theirs(images)).last_hidden_state)
    wide = RNG.normal(size=(2, 8, 24, 3))  # theirs interpolates in float32
    close(features(params, wide), other(theirs(wide)).last_hidden_state, 1e-5)
    params = changed(params)
    weights.save(tmp_path, model, params)
    other = transformers.Dinov2Model.from_pretrained(tmp_path, dtype=torch.float64).eval()
    close(features(params, images), other(theirs(images)).last_hidden_state)


@pytest.mark.parametrize("normalise, old_names", [(False, True), (True, False)])
def test_vit_mae(normalise, old_names, tmp_path, x64):
    config = transformers.ViTMAEConfig(**COMMON, **MAE, norm_pix_loss=normalise)
    other = shaken(transformers.ViTMAEForPreTraining(config))
    other.save_pretrained(tmp_path)
    model, params = weights.load(tmp_path)
    reconstruct = jax.jit(model.reconstruct)

    def check(other, params, shape, interpolate=False):
        images = RNG.normal(size=(2, *shape, 3))
        noise = RNG.uniform(size=(2, shape[0] * shape[1] // 16))
        found = reconstruct(params, images, noise)
        expected = other(
            theirs(images), noise=torch.from_numpy(noise), interpolate_pos_encoding=interpolate
        )
        close(found.prediction, expected.logits)
        np.testing.assert_array_equal(found.mask, expected.mask.numpy())
        close(found.loss, expected.loss)

    check(other, params, (16, 16))
    check(other, params, (24, 8), interpolate=True)
    params = changed(params)
    weights.save(tmp_path, model, params, old_names)
    other = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path, dtype=torch.float64)
    check(other.eval(), params, (16, 16))


@pytest.mark.parametrize("layer", ["basic", "bottleneck"])
def test_residual_networks(layer, tmp_path, x64):
    factor = 4 if layer == "bottleneck" else 1
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4 * factor, 8 * factor], depths=[2, 1], layer_type=layer
    )
    other = shaken(transformers.ResNetForImageClassification(config))
    other.save_pretrained(tmp_path)
    model, params = weights.load(tmp_path)
    images = RNG.normal(size=(2, 32, 48, 3))

    def check(other, params):
        last = other.resnet(theirs(images)).last_hidden_state
        tokens = torch.cat([last.mean((2, 3))[:, None], last.flatten(2).transpose(1, 2)], 1)
        close(jax.jit(model.features)(params, images), tokens)
        close(jax.jit(model.logits)(params, images), other(theirs(images)).logits)

    check(other, params)
    params = changed(params)
    weights.save(tmp_path, model, params)
    again = transformers.ResNetForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    check(again.eval(), params)
    other.resnet.save_pretrained(tmp_path)
    encoder, params = weights.load(tmp_path)
    assert encoder.net.num_classes is None
    expected = other.resnet(theirs(images)).pooler_output.flatten(1)
    close(jax.jit(encoder.features)(params, images)[:, 0], expected)
