"""The parts of the first stage's study: patches, PCA, tiles of a mosaic, cached moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.latent_diffusion import _first_stage, _images, first_stage
from library import report
from research.text_to_image import first_stage as stages

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (12, 16, 16, 1)).astype(np.float32)


def test_patches_and_back():
    patches = np.asarray(_images.to_patches(jnp.asarray(IMAGES)))
    assert patches.shape == (12, 4, 4, 16)
    cut = IMAGES[3, 4:8, 8:12, 0]
    np.testing.assert_array_equal(patches[3, 1, 2], cut.reshape(-1))
    np.testing.assert_array_equal(_images.to_images(jnp.asarray(patches)), IMAGES)


def test_pca_by_eigenvectors():
    train, test = IMAGES[:8].reshape(8, -1), IMAGES[8:].reshape(4, -1)
    mean = train.mean(0)
    _, _, basis = np.linalg.svd(train - mean, full_matrices=False)
    inside = (test - mean) @ basis[:3].T @ basis[:3] + mean
    found = _images.pca_error(IMAGES[:8], IMAGES[8:], 3)
    np.testing.assert_allclose(found, np.square(inside - test).mean(), rtol=1e-5)
    np.testing.assert_allclose(_images.decibels(0.04), 20.0, rtol=1e-12)


def linear_objective():
    """Means and log variances of patches, linear in them; decoded by another matrix."""
    return stages.Objective(
        lambda own, x: tuple(jnp.split(_images.to_patches(x) @ own["in"], 2, axis=-1)),
        lambda own, z: _images.to_images(z @ own["out"]),
    )


PARAMS = {
    "autoencoder": {
        "in": RNG.normal(size=(16, 4)).astype(np.float32) / 4,
        "out": RNG.normal(size=(2, 16)).astype(np.float32),
    }
}


def test_cached_moments_have_the_scale_of_the_whole_set(tmp_path):
    encode = lambda params, x: linear_objective().encode(params["autoencoder"], x)
    scaling, moments = _first_stage.scaled(encode, PARAMS, IMAGES, tmp_path, block=5)
    patches = np.asarray(_images.to_patches(jnp.asarray(IMAGES)))
    mean, log_var = np.split(patches @ PARAMS["autoencoder"]["in"], 2, -1)
    np.testing.assert_allclose(moments, np.concatenate([mean, log_var], -1), rtol=1e-4, atol=1e-6)
    variance = mean.var() + np.exp(log_var).mean()
    np.testing.assert_allclose(scaling.scale, 1 / np.sqrt(variance), rtol=1e-5)
    np.testing.assert_allclose(scaling.shift, mean.mean(), rtol=1e-3, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    stage = _first_stage.of_moments(scaling.scale, scaling.shift)
    expected = (mean - scaling.shift) * scaling.scale
    np.testing.assert_allclose(stage.to_latent(moments), expected, rtol=1e-3, atol=1e-5)


def test_tiles_of_a_decoder_that_looks_at_the_whole():
    """What tiles miss is their mean's distance to the whole's: less where two are blended."""
    plain = linear_objective()
    decode = lambda own, z: plain.decode(own, z) + z.mean((1, 2, 3))[:, None, None, None]
    objective = stages.Objective(plain.encode, decode)
    seams, power = _first_stage.tiles(objective, PARAMS, IMAGES)
    assert 0.3 < seams < 1 and abs(power) < 0.05


def test_networks_are_of_images_in_fours():
    networks = _images.Networks(width=4, latent_dim=3)
    objective = networks.objective(kl_weight=0.3)
    params = jax.eval_shape(networks.init, jax.random.key(0))
    x = jnp.zeros((2, 16, 16, 1))
    mean, log_var = jax.eval_shape(objective.encode, params["autoencoder"], x)
    assert mean.shape == log_var.shape == (2, 4, 4, 3) and objective.kl_weight == 0.3
    big = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    assert jax.eval_shape(objective.decode, params["autoencoder"], big).shape == (1, 32, 32, 1)


BAD = {
    "one weight": ({"kl_weights": (0.1,)}, r"kl_weights=\(0.1,\): expected two or more, ascending"),
    "falling": ({"kl_weights": (0.1, 0.01)}, r"kl_weights=\(0.1, 0.01\): expected two or more"),
    "num_rounds": ({"num_rounds": 1}, "num_rounds=1: expected 2 or more, half with a critic"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path):
    options, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        first_stage.run(first_stage.Config(**options), report.RunDir(tmp_path))
