"""Changes of colour that contrastive learning draws: jitter, grey, solarised; Chen et al. 2020.

arXiv:2002.05709, appendix A. The formulas are torchvision's for float tensors.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from library.types import Array, Key, at_least_float32
from research.vision.augmentation import basic
from research.vision.augmentation.basic import Augment

LUMA = (0.2989, 0.587, 0.114)  # of red, green, blue; torchvision's, which sum to 0.9999


def colour_jitter(
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    probability: float = 1.0,
) -> Augment:
    """Brightness, contrast, saturation and hue by random amounts in a random order.

    Factors of the first three are uniform in [max(0, 1 - s), 1 + s], the turn of the hue in
    [-hue, hue]; all 24 orders are equally likely, and values are clipped to [0, 1] after each.

    Args:
        brightness, contrast, saturation: s >= 0; an image of one channel takes no saturation.
        hue: in turns of the colour circle, 0 to 0.5; an image of one channel takes none.
        probability: of any change.
    Raises:
        ValueError: for values out of range, or colour of an image without three channels.
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, value in strengths.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: expected a number >= 0")
    if not 0 <= hue <= 0.5:
        raise ValueError(f"hue={hue}: expected 0 to 0.5")
    basic.check_unit("probability", probability)
    bounds = [(max(0.0, 1.0 - value), 1.0 + value) for value in strengths.values()]

    def augment(rng: Key, image: Array) -> Array:
        factor_rng, hue_rng, order_rng, coin_rng = jax.random.split(rng, 4)
        unit = jax.random.uniform(factor_rng, (3,), jnp.float32)
        factors = [low + unit[i] * (high - low) for i, (low, high) in enumerate(bounds)]
        turn = jax.random.uniform(hue_rng, (), jnp.float32, -hue, hue) if hue else None
        order = jax.random.permutation(order_rng, 4)
        jittered = jitter(image, jnp.stack(factors), turn, order)
        return jnp.where(jax.random.bernoulli(coin_rng, probability), jittered, image)

    return augment


def jitter(image: Array, factors: Array, turn: Array | None, order: Array) -> Array:
    """Brightness (0), contrast (1), saturation (2) and hue (3), one after the other.

    The three blend an image x with something grey, f x + (1 - f) g: nothing, the mean luma, or the
    luma of each pixel. Hue, the dear one, is computed once: all three blends stand before it and
    again behind it, with factor 1 where the order has them on the other side.

    Args:
        image: [H, W, C] float in [0, 1], C of 3 or 1; of one channel only 0 and 1 are done.
        factors: [3] float >= 0; 1 changes nothing.
        turn: [] float, turns of the hue; None leaves it.
        order: [4] int, a permutation of 0, 1, 2, 3.
    Raises:
        ValueError: for an image of integers or of another number of channels, or a turn of one
            channel.
    """
    basic.check_image(image)
    channels = image.shape[-1]
    if channels not in (1, 3) or (channels == 1 and turn is not None):
        raise ValueError(f"image of {channels} channels: expected 3, or 1 without hue")
    wide = at_least_float32(image.dtype)
    factors, order = jnp.asarray(factors, wide), jnp.asarray(order)
    x = jnp.moveaxis(image.astype(wide), -1, 0)  # planes, [C, H, W]
    place = jnp.argmax(order == 3)  # of hue
    if turn is None:
        for slot in range(4):
            x = _blend(x, order[slot], factors, order[slot] != 3)
    else:
        for slot in range(3):
            x = _blend(x, order[slot], factors, slot < place)
        x = _turned(x, jnp.asarray(turn, wide))
        for slot in range(1, 4):
            x = _blend(x, order[slot], factors, slot > place)
    return jnp.moveaxis(x, 0, -1).astype(image.dtype)


def turn_hue(image: Array, turn: Array | float) -> Array:
    """The image with its hue turned, by HSV; luma is not kept.

    Args:
        image: [H, W, 3] float in [0, 1].
        turn: [] float, turns of the colour circle.
    Raises:
        ValueError: for an image of integers or without three channels.
    """
    _check_colours(image)
    x = jnp.moveaxis(image.astype(at_least_float32(image.dtype)), -1, 0)
    return jnp.moveaxis(_turned(x, jnp.asarray(turn, x.dtype)), 0, -1).astype(image.dtype)


def grey(image: Array) -> Array:
    """The luma of an image [H, W, 3] in all three channels.

    Raises:
        ValueError: for an image of integers or without three channels.
    """
    _check_colours(image)
    x = jnp.moveaxis(image.astype(at_least_float32(image.dtype)), -1, 0)
    luma = jnp.broadcast_to(_luma(x), x.shape)
    return jnp.moveaxis(luma, 0, -1).astype(image.dtype)


def random_grey(probability: float = 0.2) -> Augment:
    """`grey` with this probability."""
    return basic.sometimes(lambda rng, image: grey(image), probability)


def solarise(image: Array, threshold: float = 0.5) -> Array:
    """1 - x where x >= threshold, for an image [H, W, C] in [0, 1].

    Raises:
        ValueError: for an image of integers.
    """
    basic.check_image(image)
    return jnp.where(image >= threshold, 1 - image, image)


def random_solarise(probability: float = 0.2, threshold: float = 0.5) -> Augment:
    """`solarise` with this probability, Grill et al. 2020, arXiv:2006.07733, appendix B.

    Raises:
        ValueError: for a probability or threshold outside [0, 1].
    """
    basic.check_unit("threshold", threshold)
    return basic.sometimes(lambda rng, image: solarise(image, threshold), probability)


def _blend(x: Array, kind: Array, factors: Array, active: Array) -> Array:
    """One of the three blends of planes x [C, H, W], or x itself."""
    luma = _luma(x)  # [1, H, W]
    factor = jnp.where(active, factors[jnp.minimum(kind, 2)], 1.0)
    mean = jnp.where(kind == 1, luma.mean(), 0.0)
    other = jnp.where(kind == 2, luma, mean)
    return jnp.where(factor == 1.0, x, jnp.clip(factor * x + (1 - factor) * other, 0.0, 1.0))


def _luma(x: Array) -> Array:
    """[C, H, W] -> [1, H, W]; one channel is its own."""
    if x.shape[0] == 1:
        return x
    return (LUMA[0] * x[0] + LUMA[1] * x[1] + LUMA[2] * x[2])[None]


def _turned(x: Array, turn: Array) -> Array:
    """Planes [3, H, W] with their hue turned: a pixel's sextant h moves by 6 turns.

    A channel is V - chroma * clip(min(k, 4 - k), 0, 1), where k is n + h modulo 6 and n is 5, 3, 1
    for red, green, blue: HSV's six cases in one formula.
    """
    red, green, blue = x[0], x[1], x[2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    over = 1.0 / jnp.where(chroma == 0, 1.0, chroma)
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * over,
        jnp.where(green >= blue, 2.0 + (blue - red) * over, 4.0 + (red - green) * over),
    )
    sextant = sextant + 6.0 * turn

    def channel(n: float) -> Array:
        k = sextant + n
        k = k - 6.0 * jnp.floor(k / 6.0)
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)])


def _check_colours(image: Array) -> None:
    basic.check_image(image)
    if image.shape[-1] != 3:
        raise ValueError(f"image of {image.shape[-1]} channels: expected 3")
