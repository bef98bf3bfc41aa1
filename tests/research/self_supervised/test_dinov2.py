"""DINOv2's transformers: counts, layer scale, hidden patches, other sizes, bad input.

Their values are held against NumPy in test_weights.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import dinov2, positions

MODEL = dinov2.DINOv2(image_size=(12, 12), patch=4, width=12, depth=2, num_heads=3)
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "make, count",
    [
        (dinov2.small, 22_056_576),
        (dinov2.base, 86_580_480),
        (dinov2.large, 304_368_640),
        (dinov2.giant, 1_136_480_768),
    ],
)
def test_published_counts(make, count):
    shapes = jax.eval_shape(make().init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def random_params(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_size, 3)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def normed(x, weights):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * weights["scale"] + weights["bias"]


def test_branches_of_scale_zero_and_hidden_patches():
    """Then tokens are the normalised sums of patch, or mask token, and position."""
    params = random_params(MODEL)
    inner = params["params"]
    for name in ("attention_scale", "mlp_scale"):
        inner["blocks"][name] = np.zeros_like(inner["blocks"][name])
    hidden = np.zeros((2, 9), bool)
    hidden[0, 3] = hidden[1, 8] = True
    plain, some = jax.jit(lambda p, x: (MODEL.apply(p, x), MODEL.apply(p, x, hidden)))(
        params, IMAGES
    )
    kernel, bias = inner["embed"]["linear"]["kernel"], inner["embed"]["linear"]["bias"]
    cut = IMAGES.reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 48)
    table = inner["positions"]
    x = cut @ kernel + bias + table[:, 1:]
    np.testing.assert_allclose(plain[:, 1:], normed(x, inner["final_norm"]), atol=1e-4)
    first = normed(inner["class_token"] + table[:, :1], inner["final_norm"])
    np.testing.assert_allclose(plain[:, :1], np.repeat(first, 2, 0), atol=1e-5)
    x[hidden] = inner["mask_token"] + table[0, 1:][np.where(hidden)[1]]
    np.testing.assert_allclose(some[:, 1:], normed(x, inner["final_norm"]), atol=1e-4)


def test_layer_scale_starts_where_it_says():
    params = jax.jit(MODEL.clone(scale=0.1).init)(jax.random.key(0), IMAGES)["params"]
    for name in ("attention_scale", "mlp_scale"):
        np.testing.assert_array_equal(params["blocks"][name], np.full((2, 12), 0.1, np.float32))
    bare = MODEL.clone(mask_token=False)
    assert "mask_token" not in jax.eval_shape(bare.init, jax.random.key(0), IMAGES)["params"]


def test_another_size_reads_interpolated_positions():
    params = random_params(MODEL)
    images = np.random.default_rng(2).normal(size=(2, 8, 20, 3)).astype(np.float32)
    table = positions.interpolate(params["params"]["positions"], (3, 3), (2, 5))
    there = {"params": {**params["params"], "positions": np.asarray(table)}}
    expected = jax.jit(MODEL.clone(image_size=(8, 20)).features)(there, images)
    np.testing.assert_allclose(jax.jit(MODEL.features)(params, images), expected, atol=1e-4)


def test_bad_input():
    params, rng = random_params(MODEL), jax.random.key(0)
    init = lambda model: model.init(rng, IMAGES)
    for broken, message in [
        (lambda: init(MODEL.clone(image_size=(10, 12))), r"image_size=\(10, 12\): expected mult"),
        (lambda: init(MODEL.clone(num_heads=5)), "width=12 is not a multiple of num_heads=5"),
        (lambda: MODEL.features(params, IMAGES[..., :1]), r"expected \[B, H, W, 3\]"),
        (lambda: MODEL.features(params, IMAGES[:, :9]), "images of 9 x 12 pixels in patches of 4"),
        (lambda: MODEL.features(params, IMAGES.astype(int)), "images of type int"),
        (
            lambda: MODEL.clone(mask_token=False).apply(params, IMAGES, np.ones((2, 9), bool)),
            "hidden patches: the model has no mask token",
        ),
        (lambda: MODEL.apply(params, IMAGES, np.ones((2, 8), bool)), r"hidden \(2, 8\): expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
