"""RandAugment and the affine map: exact pixels, identities at strength 0."""

import jax
import numpy as np
import pytest

from research.vision import augmentation

IMAGE = np.random.default_rng(0).uniform(size=(6, 6, 3)).astype(np.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_no_operations_and_no_strength():
    """Without operations all stays; at strength 0 a pixel is itself or its negative."""
    run = jax.jit(
        lambda rngs: [
            jax.vmap(augmentation.rand_augment(count, 0.0), (0, None))(rngs, IMAGE)
            for count in (0, 1)
        ]
    )
    none, one = map(np.asarray, run(keys(64)))
    np.testing.assert_array_equal(none, np.broadcast_to(IMAGE, none.shape))
    # Solarize at 0 turns only what is white; posterize keeps 255 levels, half a step off at most.
    same = np.abs(one - IMAGE).max((1, 2, 3)) < 0.5 / 255 + 1e-6
    negative = np.abs(one - (1 - IMAGE)).max((1, 2, 3)) < 1e-6
    assert (same ^ negative).all() and 0 < negative.sum() < 32


def test_affine_maps_of_the_grid_are_exact():
    affine = jax.jit(augmentation.affine)
    unit, none = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    np.testing.assert_array_equal(affine(IMAGE, unit, none), IMAGE)
    quarter = np.float32([[0.0, -1.0], [1.0, 0.0]])
    turned = affine(IMAGE, quarter, none)
    assert (turned == np.rot90(IMAGE)).all() or (turned == np.rot90(IMAGE, -1)).all()
    moved = affine(IMAGE, unit, np.float32([2.0, -1.0]))
    np.testing.assert_array_equal(moved[:4, 1:], IMAGE[2:, :-1])
    assert (moved[4:] == 0).all() and (moved[:, 0] == 0).all()
    outside = augmentation.affine(IMAGE, unit, np.float32([0.0, -2.0]), mode="mirror")
    np.testing.assert_array_equal(
        outside, np.pad(IMAGE, ((0, 0), (2, 0), (0, 0)), "reflect")[:, :6]
    )
    half = affine(IMAGE, unit, np.float32([0.5, 0.0]))
    np.testing.assert_allclose(half[:5], (IMAGE[:5] + IMAGE[1:]) / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", range(6))
def test_operations(kind):
    geometric, colour = jax.jit(augmentation.geometric), jax.jit(augmentation.colour)
    np.testing.assert_array_equal(geometric(IMAGE, kind, 0.0), IMAGE)
    name = augmentation.COLOURS[kind]
    if name not in ("solarize", "invert"):
        np.testing.assert_allclose(colour(IMAGE, kind, 0.0), IMAGE, atol=0.5 / 255 + 1e-6)
    out = np.asarray(colour(IMAGE, kind, 0.5))
    assert out.min() >= 0 and out.max() <= 1
    expected = {
        "identity": IMAGE,
        "brightness": np.clip(1.45 * IMAGE, 0, 1),
        "contrast": np.clip(IMAGE.mean() + 1.45 * (IMAGE - IMAGE.mean()), 0, 1),
        "solarize": np.where(IMAGE >= 0.5, 1 - IMAGE, IMAGE),
        "posterize": np.round(IMAGE * 128) / 128,
        "invert": 1 - IMAGE,
    }[name]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    if augmentation.GEOMETRIC[kind].startswith("move"):
        axis = kind - 4
        moved = geometric(IMAGE, kind, 1 / 2.7)  # 0.45 * 6 / 2.7 = one pixel
        rolled = np.roll(IMAGE, -1, axis)
        keep = [slice(None)] * 3
        keep[axis] = slice(None, -1)
        np.testing.assert_allclose(moved[tuple(keep)], rolled[tuple(keep)], atol=1e-4)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_turns_and_shears_read_the_places_that_they_name(strength):
    """On a plane of brightness: the one at (i, j) of the new image is that of its place before."""
    rows, columns = np.mgrid[:6, :6] - 2.5
    plane = np.float32(0.5 + 0.03 * rows + 0.05 * columns)
    plane = np.repeat(plane[:, :, None], 3, 2)
    angle = strength * np.pi / 6
    sine, cosine = np.sin(angle), np.cos(angle)
    places = {
        "rotate": (cosine * rows - sine * columns, sine * rows + cosine * columns),
        "shear rows": (rows + 0.3 * strength * columns, columns),
        "shear columns": (rows, columns + 0.3 * strength * rows),
    }
    for name, (i, j) in places.items():
        inside = np.maximum(abs(i), abs(j)) <= 2.5
        kind = augmentation.GEOMETRIC.index(name)
        out = jax.jit(augmentation.geometric)(plane, kind, strength)
        expected = (0.5 + 0.03 * i + 0.05 * j)[inside]
        np.testing.assert_allclose(out[inside][:, 0], expected, rtol=1e-5, err_msg=name)


def test_bad_input():
    rng, codes = jax.random.key(0), (255 * IMAGE).astype(np.uint8)
    for broken, message in [
        (lambda: augmentation.rand_augment(2.0), "num_operations=2.0: expected a whole number"),
        (lambda: augmentation.rand_augment(-1), "num_operations=-1"),
        (lambda: augmentation.rand_augment(2, 2.0), "magnitude=2.0"),
        (lambda: augmentation.colour(IMAGE, 6, 0.3), "kind=6: expected a number below 6"),
        (lambda: augmentation.geometric(IMAGE, -1, 0.3), "kind=-1: expected a number below 6"),
        (lambda: augmentation.affine(codes, np.eye(2), np.zeros(2)), "image of type uint8"),
        (lambda: augmentation.geometric(codes, 1, 0.3), "image of type uint8"),
        (lambda: augmentation.colour(codes, 1, 0.3), "image of type uint8"),
        (lambda: augmentation.rand_augment()(rng, codes), "image of type uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
    with pytest.raises(AssertionError, match="rank"):
        augmentation.rand_augment()(rng, IMAGE[None])
    with pytest.raises(AssertionError, match="shape"):
        augmentation.affine(IMAGE, np.eye(3), np.zeros(2))
