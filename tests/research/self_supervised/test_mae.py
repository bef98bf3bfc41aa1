"""Masked autoencoders: counts, what the encoder sees, the loss of the shared step, bad input.

Their values are held against NumPy in test_weights.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import train_step
from research.self_supervised import mae, positions
from research.vision import patches

MODEL = mae.MAE(
    image_size=(8, 8), patch=2, width=12, depth=2, num_heads=3, mlp_dim=20,
    decoder_width=8, decoder_depth=1, decoder_heads=2, decoder_mlp_dim=16,
)  # fmt: skip
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
RECONSTRUCT = jax.jit(MODEL.reconstruct)
RNGS = jax.random.split(jax.random.key(1), 4)
NOISE = np.random.default_rng(1).uniform(size=(4, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), IMAGES, NOISE)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_published_counts():
    images, noise = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 196))
    shapes = jax.eval_shape(mae.base().init, jax.random.key(0), images, noise)
    assert count(shapes["params"]) == 111_655_680 and count(shapes) == 111_907_840
    encoder = count(shapes["params"]["encoder"]) + count(shapes["tables"]["encoder"])
    assert encoder == 85_798_656
    large = jax.eval_shape(mae.large().init, jax.random.key(0), images, noise)
    encoder = count(large["params"]["encoder"]) + count(large["tables"]["encoder"])
    assert encoder == 303_301_632  # timm's vit_large_patch16_224.mae


def test_tables_are_the_fixed_sines(params):
    for half, width in (("encoder", 12), ("decoder", 8)):
        expected = positions.sincos(4, 4, width)
        np.testing.assert_allclose(params["tables"][half]["positions"], expected, rtol=1e-6)


def test_the_encoder_sees_kept_patches_only(params):
    """What is hidden changes neither prediction nor gradient of the prediction."""
    found = RECONSTRUCT(params, IMAGES, RNGS)
    assert found.prediction.shape == (4, 16, 12) and found.mask.shape == (4, 16)
    hidden = np.asarray(found.mask)[:, :, None]
    assert hidden.sum() == 4 * 12
    pixels = patches.to_patches(IMAGES, 2)
    other = patches.from_patches(np.where(hidden, 7.0, pixels), (8, 8, 3), 2)
    np.testing.assert_array_equal(RECONSTRUCT(params, other, RNGS).prediction, found.prediction)
    seen = patches.from_patches(np.where(hidden, pixels, 7.0), (8, 8, 3), 2)
    assert np.abs(RECONSTRUCT(params, seen, RNGS).prediction - found.prediction).max() > 1e-3


def test_keys_hide_of_each_image_by_itself(params):
    whole = RECONSTRUCT(params, IMAGES, RNGS)
    order = np.array([3, 1, 0, 2])
    again = RECONSTRUCT(params, IMAGES[order], RNGS[order])
    np.testing.assert_array_equal(again.mask, whole.mask[order])
    np.testing.assert_allclose(again.prediction, whole.prediction[order], atol=1e-5)


def test_another_size_reads_interpolated_tables(params):
    """The encoder's as an image of places, the decoder's along the sequence."""
    images = np.random.default_rng(2).normal(size=(2, 12, 4, 3)).astype(np.float32)
    encoder, decoder = (params["tables"][half]["positions"] for half in ("encoder", "decoder"))
    tables = {
        "encoder": {"positions": positions.interpolate(encoder, (4, 4), (6, 2))},
        "decoder": {"positions": positions.interpolate(decoder, (1, 16), (1, 12))},
    }
    there = MODEL.clone(image_size=(12, 4))
    own = {"params": params["params"], "tables": tables}
    run = lambda model, variables: jax.jit(
        lambda v, x, n: (model.features(v, x), model.reconstruct(v, x, n).prediction)
    )(variables, images, NOISE[:2, :12])
    for got, expected in zip(run(MODEL, params), run(there, own)):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_loss_of_the_shared_step(params):
    """Keys of examples; hidden patches are its weight; tables stand still while it falls."""
    loss_fn, batch = mae.loss(MODEL, params["tables"]), {"images": IMAGES}
    children = lambda rng: jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(4))
    expected = RECONSTRUCT(params, IMAGES, children(jax.random.fold_in(jax.random.key(3), 0))).loss
    optimizer = optax.adam(3e-3)
    state = train_step.init_state(params["params"], optimizer, jax.random.key(3), model_state={})
    step = jax.jit(train_step.make_train_step(loss_fn, optimizer, rng_per_example=True))
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert metrics["weight"] == 4 * 12
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_one_key_is_a_key_for_each_image(params):
    """The same program, to the last operation."""
    loss_fn = mae.loss(MODEL, params["tables"])
    children = lambda rng: jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(4))
    value = lambda rng: loss_fn(params["params"], {}, rng, {"images": IMAGES})
    one = jax.make_jaxpr(value)(RNGS[0])
    each = jax.make_jaxpr(lambda rng: value(children(rng)))(RNGS[0])
    assert str(one) == str(each)


def test_bad_input(params):
    rng, init = jax.random.key(0), lambda model: model.init(rng, IMAGES, NOISE)
    for broken, message in [
        (lambda: init(MODEL.clone(image_size=(9, 8))), r"image_size=\(9, 8\): expected multiples"),
        (lambda: init(MODEL.clone(num_heads=5)), "width=12 is not a multiple of num_heads=5"),
        (lambda: init(MODEL.clone(ratio=0.99)), "ratio=0.99 keeps nothing of 16 patches"),
        (lambda: init(MODEL.clone(ratio=0.01)), "ratio=0.01 hides nothing of 16 patches"),
        (lambda: MODEL.reconstruct(params, IMAGES, NOISE[:3]), r"shape \(3, 16\) for images"),
        (lambda: MODEL.reconstruct(params, IMAGES, rng), r"keys or noise of shape \(\)"),
        (lambda: MODEL.reconstruct(params, IMAGES, NOISE[:, :9]), "noise of shape"),
        (lambda: MODEL.reconstruct(params, IMAGES[..., :1], NOISE), r"expected \[B, H, W, 3\]"),
        (lambda: MODEL.features(params, IMAGES[0]), r"images of shape \(8, 8, 3\)"),
        (lambda: MODEL.features(params, IMAGES[:, :7]), "images of 7 x 8 pixels in patches of 2"),
        (lambda: MODEL.features(params, IMAGES.astype(int)), "images of type int"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
