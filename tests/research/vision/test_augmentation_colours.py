"""Colour: torchvision's formulas in NumPy and the standard library, and the laws of the draws."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import augmentation

IMAGE = np.random.default_rng(0).uniform(size=(5, 4, 3))
IMAGE[0, :3] = [[0.3, 0.3, 0.3], [0.7, 0.7, 0.2], [0.0, 0.5, 0.5]]  # grey, and equal channels
ORDERS = np.array(list(itertools.permutations(range(4))))


def luma(x):
    return (x @ [0.2989, 0.587, 0.114])[..., None] if x.shape[-1] == 3 else x


def hue(x, turn):
    flat = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
    return np.array([colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in flat]).reshape(
        x.shape
    )


def jittered(x, factors, turn, order):
    for kind in order:
        if kind == 3:
            x = x if turn is None else hue(x, turn)
            continue
        other = [0.0, luma(x).mean(), luma(x)][kind]
        x = np.clip(factors[kind] * x + (1 - factors[kind]) * other, 0, 1)
    return x


@pytest.mark.parametrize("turn", [0.3, -0.07])
def test_all_orders_of_jitter(turn, x64):
    """Factors that clip: each order has values of its own."""
    factors = np.array([1.7, 1.5, 0.3])
    run = jax.jit(jax.vmap(augmentation.jitter, (None, None, None, 0)))
    got = run(IMAGE, factors, jnp.asarray(turn), ORDERS)
    expected = np.stack([jittered(IMAGE, factors, turn, order) for order in ORDERS])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert len(np.unique(expected.round(6), axis=0)) == 24


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_without_hue(channels, x64):
    image, factors = IMAGE[..., :channels], np.array([1.4, 0.6, 1.8])
    kept = factors if channels == 3 else factors * [1, 1, 0] + [0, 0, 1]
    run = jax.jit(jax.vmap(lambda order: augmentation.jitter(image, factors, None, order)))
    expected = np.stack([jittered(image, kept, None, order) for order in ORDERS])
    np.testing.assert_allclose(run(ORDERS), expected, rtol=1e-10, atol=1e-12)


def test_hue_grey_and_solarised(x64):
    turn = jax.jit(augmentation.turn_hue)
    for by in (0.0, 0.5, 1 / 3, -0.2):
        np.testing.assert_allclose(turn(IMAGE, by), hue(IMAGE, by), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(turn(IMAGE, 1 / 3), np.roll(IMAGE, 1, -1), atol=1e-12)  # r to g
    expected = np.broadcast_to(luma(IMAGE), IMAGE.shape)
    np.testing.assert_allclose(augmentation.grey(IMAGE), expected, rtol=1e-10)
    white = np.array([0.0, 0.5, 0.6, 1.0]).reshape(2, 2, 1)
    np.testing.assert_allclose(augmentation.solarise(white).ravel(), [0, 0.5, 0.4, 0], atol=1e-12)
    np.testing.assert_allclose(
        augmentation.solarise(white, 0.55).ravel(), [0, 0.5, 0.4, 0], atol=1e-12
    )
    np.testing.assert_allclose(augmentation.solarise(white, 0.9).ravel(), [0, 0.5, 0.6, 0])


def check_uniform(x, least, greatest):
    """Kolmogorov-Smirnov at a level of 1e-5."""
    assert x.min() >= least - 1e-5 and x.max() <= greatest + 1e-5
    grid = (np.arange(len(x)) + 0.5) / len(x)
    law = (np.sort(x) - least) / (greatest - least)
    assert np.abs(law - grid).max() < (-np.log(0.5e-5) / 2 / len(x)) ** 0.5 + 1e-3


def test_amounts_are_uniform_and_turns_too():
    """One change at a time, read off a pixel whose answer is the draw."""
    flat = np.full((1, 2, 3), 0.3, np.float32)
    pixels = np.float32([[[0.2, 0.2, 0.2], [0.4, 0.4, 0.4]]])
    red, pale = np.float32([[[1.0, 0.0, 0.0]]]), np.float32([[[0.5, 0.3, 0.3]]])
    laws = [
        (augmentation.colour_jitter(0.4), flat),
        (augmentation.colour_jitter(2.0), flat),
        (augmentation.colour_jitter(0.0, 0.5), pixels),
        (augmentation.colour_jitter(0.0, 0.0, 0.4), pale),
        (augmentation.colour_jitter(0.0, 0.0, 0.0, 0.1), red),
        (augmentation.colour_jitter(0.4, probability=0.3), flat),
        (augmentation.random_grey(), red),
        (augmentation.random_solarise(), red),
    ]
    run = jax.jit(lambda rngs: [jax.vmap(law, (0, None))(rngs, image) for law, image in laws])
    drawn = [np.asarray(x)[:, 0] for x in run(jax.random.split(jax.random.key(1), 2000))]
    check_uniform(drawn[0][:, 0, 0] / 0.3, 0.6, 1.4)
    check_uniform(drawn[1][:, 0, 0] / 0.3, 0.0, 3.0)  # no less than nothing
    check_uniform((drawn[2][:, 1, 0] - drawn[2][:, 0, 0]) / 0.2, 0.5, 1.5)
    check_uniform((drawn[3][:, 0, 0] - drawn[3][:, 0, 1]) / 0.2, 0.6, 1.4)
    # Up to 0.1 turns of red: green, or blue on the other side, is 6 turns.
    check_uniform((drawn[4][:, 0, 1] - drawn[4][:, 0, 2]) / 6, -0.1, 0.1)
    for changed, share in (
        (drawn[5][:, 0, 0] != np.float32(0.3), 0.3),
        (drawn[6][:, 0, 0] == drawn[6][:, 0, 1], 0.2),
        (drawn[7][:, 0, 0] == 0, 0.2),
    ):
        assert abs(changed.mean() - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_bad_input():
    codes = (255 * IMAGE).astype(np.uint8)
    ones, order, rng = np.ones(3), np.arange(4), jax.random.key(0)
    for broken, message in [
        (lambda: augmentation.colour_jitter(-0.1), "brightness=-0.1: expected a number >= 0"),
        (lambda: augmentation.colour_jitter(0, np.inf), "contrast=inf"),
        (lambda: augmentation.colour_jitter(saturation=np.nan), "saturation=nan"),
        (lambda: augmentation.colour_jitter(hue=0.6), "hue=0.6: expected 0 to 0.5"),
        (lambda: augmentation.colour_jitter(0.1, probability=1.1), "probability=1.1"),
        (lambda: augmentation.random_grey(-1), "probability=-1"),
        (lambda: augmentation.random_solarise(2.0), "probability=2.0"),
        (lambda: augmentation.random_solarise(0.2, 1.5), "threshold=1.5"),
        (lambda: augmentation.jitter(codes, ones, None, order), "image of type uint8"),
        (lambda: augmentation.jitter(IMAGE[..., :2], ones, None, order), "image of 2 channels"),
        (lambda: augmentation.colour_jitter(hue=0.1)(rng, IMAGE[..., :1]), "image of 1 channels"),
        (lambda: augmentation.turn_hue(IMAGE[..., :1], 0.1), "image of 1 channels: expected 3"),
        (lambda: augmentation.turn_hue(codes, 0.1), "image of type uint8"),
        (lambda: augmentation.grey(IMAGE[..., :1]), "image of 1 channels: expected 3"),
        (lambda: augmentation.grey(codes), "image of type uint8"),
        (lambda: augmentation.solarise(codes), "image of type uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
