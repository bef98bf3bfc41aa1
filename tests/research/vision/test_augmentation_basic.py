"""Windows, mirrors and mixtures: exact pixels, laws of the draws, independence of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import augmentation

IMAGE = np.random.default_rng(0).uniform(size=(6, 6, 3)).astype(np.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_crops_are_windows_equally_likely():
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    out = np.asarray(jax.jit(jax.vmap(augmentation.crop(1), (0, None)))(keys(900), IMAGE))
    matches = np.array([[(image == window).all() for window in windows] for image in out])
    assert (matches.sum(1) == 1).all()
    # 100 expected each: 60 to 140 is 4 standard deviations, false alarms below 1e-3.
    assert ((matches.sum(0) > 60) & (matches.sum(0) < 140)).all()
    np.testing.assert_array_equal(augmentation.crop(0)(jax.random.key(0), IMAGE), IMAGE)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_crops_of_other_borders(mode):
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), mode=mode)
    windows = {padded[i : i + 6, j : j + 6].tobytes() for i in range(5) for j in range(5)}
    out = jax.jit(jax.vmap(augmentation.crop(2, mode), (0, None)))(keys(200), IMAGE)
    assert {np.asarray(image).tobytes() for image in out} == windows  # one is missed: 25 e^-8


def test_flips_have_their_probability():
    out = np.asarray(jax.jit(jax.vmap(augmentation.flip(0.3), (0, None)))(keys(3000), IMAGE))
    flipped = np.array([(image == IMAGE[:, ::-1]).all() for image in out])
    same = np.array([(image == IMAGE).all() for image in out])
    assert (flipped ^ same).all()
    assert abs(flipped.mean() - 0.3) < 4 * (0.21 / 3000) ** 0.5  # false alarms below 1e-4


def test_a_flip_without_a_probability_is_a_coin():
    image = jnp.arange(2.0)[None, :, None]
    rngs = jax.random.split(jax.random.key(3), 400)
    share = float(jax.vmap(lambda rng: augmentation.flip()(rng, image))(rngs)[:, 0, 0, 0].mean())
    assert abs(share - 0.5) < 4 * 0.5 / 400**0.5


def test_what_happens_to_an_image_does_not_depend_on_its_batch():
    augment = augmentation.chain(
        augmentation.crop(1), augmentation.flip(), augmentation.rand_augment(2, 0.7)
    )
    images = np.stack([IMAGE, 1 - IMAGE, IMAGE / 2])
    run = jax.jit(lambda rngs, images: augmentation.each(augment, rngs, images))
    whole = run(keys(3), images)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(keys(3)[order], images[order]), whole[order], atol=1e-6)
    assert np.isfinite(whole).all() and whole.min() >= 0 and whole.max() <= 1 + 1e-6
    assert np.abs(whole - images).max() > 0.1


def test_mixup_is_convex_and_symmetric():
    images = np.random.default_rng(1).uniform(size=(64, 2, 2, 1)).astype(np.float32)
    labels = np.eye(64, dtype=np.float32)
    mixed, targets = jax.jit(augmentation.mixup, static_argnums=3)(
        jax.random.key(0), images, labels, 1.0
    )
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    # The labels name the two images and their weights.
    np.testing.assert_allclose(mixed, np.einsum("bn,nijc->bijc", targets, images), rtol=1e-5)
    assert ((np.asarray(targets) > 0).sum(1) == 2).all()
    # Every image is the partner of exactly one other: columns hold two weights each.
    assert ((np.asarray(targets) > 0).sum(0) == 2).all()
    weights = np.diag(np.asarray(targets))
    assert abs(weights.mean() - 0.5) < 4 * (1 / 12 / 64) ** 0.5


def test_a_change_that_happens_sometimes_has_its_probability():
    augment = augmentation.sometimes(lambda rng, image: 1 - image, 0.3)
    out = np.asarray(jax.jit(jax.vmap(augment, (0, None)))(keys(2000), IMAGE))
    changed = np.array([(image == 1 - IMAGE).all() for image in out])
    assert (changed ^ np.array([(image == IMAGE).all() for image in out])).all()
    assert abs(changed.mean() - 0.3) < 4 * (0.21 / 2000) ** 0.5  # false alarms below 1e-4


def test_bad_input():
    rngs, codes = keys(2), (255 * IMAGE).astype(np.uint8)
    for broken, message in [
        (lambda: augmentation.crop(-1), "padding=-1"),
        (lambda: augmentation.crop(2.0), "padding=2.0: expected a whole number"),
        (lambda: augmentation.mixup(rngs[0], IMAGE[None], jnp.ones((1, 2)), np.inf), "alpha=inf"),
        (lambda: augmentation.crop(1, "wrap"), "mode='wrap'"),
        (lambda: augmentation.flip(1.5), "probability=1.5"),
        (lambda: augmentation.sometimes(augmentation.flip(), -0.1), "probability=-0.1"),
        (lambda: augmentation.each(augmentation.flip(), rngs, IMAGE[None]), "expected \\[B\\] k"),
        (
            lambda: augmentation.each(augmentation.flip(), keys(6), IMAGE),
            "for images \\(6, 6, 3\\)",
        ),
        (
            lambda: augmentation.mixup(rngs[0], codes[None], jnp.ones((1, 2))),
            "images of type uint8",
        ),
        (
            lambda: augmentation.mixup(rngs[0], IMAGE[None], jnp.ones((1, 2), int)),
            "labels of type int32",
        ),
        (lambda: augmentation.mixup(rngs[0], IMAGE[None], jnp.ones((1, 2)), 0.0), "alpha=0.0"),
        (lambda: augmentation.mixup(rngs[0], IMAGE[None], jnp.ones(1)), "expected \\[B, ...\\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
    for augment in (augmentation.crop(1), augmentation.flip()):
        with pytest.raises(AssertionError, match="rank"):
            augment(rngs[0], IMAGE[None])
