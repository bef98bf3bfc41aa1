"""A random window of an image, resized: "inception" crops, Szegedy et al. 2015, arXiv:1409.4842.

Areas, aspect ratios and the resizing are those of torchvision's `RandomResizedCrop` on tensors.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32
from research.vision.augmentation import basic
from research.vision.augmentation.basic import Augment

Box = tuple[Array, Array, Array, Array]  # top, left, height, width: [] int, pixels

_ATTEMPTS = 10  # draws of a shape before the window is the largest in the middle


def random_resized_crop(
    size: int | tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augment:
    """A window of random place, area and aspect ratio, resized; see `random_box`, `resized_crop`.

    Args:
        size: of the new image, pixels: a side, or height and width.
        scale: least and greatest share of the area, 0 < least <= greatest <= 1.
        ratio: least and greatest width over height, > 0.
    Raises:
        ValueError: for a size that is no whole number >= 1, or bounds in another order.
    """
    sides = _sides(size)
    _check_bounds(scale, ratio)

    def augment(rng: Key, image: Array) -> Array:
        basic.check_image(image)
        return resized_crop(image, random_box(rng, image.shape[:2], scale, ratio), sides)

    return augment


def random_box(
    rng: Key,
    image_size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A window of uniform area and uniform logarithm of its aspect ratio, rounded to pixels.

    The first of ten draws that fits; if none does, the largest window in the middle whose ratio
    lies within the bounds.

    Args:
        rng: one key.
        image_size: H, W.
        scale, ratio: as `random_resized_crop`.
    Raises:
        ValueError: as there.
    """
    _check_bounds(scale, ratio)
    rows, columns = image_size
    area_rng, ratio_rng, top_rng, left_rng = jax.random.split(rng, 4)
    # Draws are float32 whatever the image's dtype: the same key makes the same window.
    shape, kind = (_ATTEMPTS,), jnp.float32
    areas = rows * columns * jax.random.uniform(area_rng, shape, kind, *scale)
    logs = jax.random.uniform(ratio_rng, shape, kind, math.log(ratio[0]), math.log(ratio[1]))
    widths = jnp.round(jnp.sqrt(areas * jnp.exp(logs))).astype(jnp.int32)  # [10]
    heights = jnp.round(jnp.sqrt(areas * jnp.exp(-logs))).astype(jnp.int32)
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
    first, some = fits.argmax(), fits.any()
    whole_height, whole_width = _largest(rows, columns, ratio)
    height = jnp.where(some, heights[first], whole_height)
    width = jnp.where(some, widths[first], whole_width)
    top = jax.random.randint(top_rng, (), 0, rows - height + 1)
    left = jax.random.randint(left_rng, (), 0, columns - width + 1)
    top = jnp.where(some, top, (rows - whole_height) // 2)
    left = jnp.where(some, left, (columns - whole_width) // 2)
    return top, left, height, width


def resized_crop(image: Array, box: Box, size: int | tuple[int, int]) -> Array:
    """The window of an image at another size: bilinear, antialiased where it shrinks.

    Weights of a new pixel are a triangle about its place in the window, of half-width max(1, old
    pixels per new one), and sum to 1 over the window: PyTorch's `antialias=True`. Rows and columns
    are weighted sums of few old ones each.

    Args:
        image: [H, W, C] float.
        box: inside the image.
        size: of the new image, as `random_resized_crop`.
    Returns:
        [h, w, C], of the dtype of the image.
    Raises:
        ValueError: for an image of integers, or a size that is no whole number >= 1.
    """
    basic.check_image(image)
    height, width = _sides(size)
    chex.assert_rank(list(box), 0)
    top, left, rows, columns = box
    x = image.astype(at_least_float32(image.dtype))
    # Picking from the first axis copies whole rows, where another axis is picked pixel by pixel.
    x = _resize_rows(x, top, rows, height).swapaxes(0, 1)  # [W, h, C]
    return _resize_rows(x, left, columns, width).swapaxes(0, 1).astype(image.dtype)


def _resize_rows(x: Array, start: Array, length: Array, size: int) -> Array:
    """Rows start ... start + length - 1 of x [N, ...] as `size` rows.

    Places are counted in units of 1 / (2 size) of a pixel, in integers: a place on the edge of the
    triangle, rounded one way for the weight and the other for the row, would be a wrong pixel.
    """
    old = x.shape[0]
    start, length = jnp.asarray(start, jnp.int32), jnp.asarray(length, jnp.int32)
    reach = 2 * jnp.maximum(length, size)
    centres = (2 * jnp.arange(size, dtype=jnp.int32) + 1) * length  # [size], from the start
    taps = math.ceil(2 * max(old / size, 1.0))  # all that can have weight, T
    first = (centres + size - reach) // (2 * size)
    rows = first[:, None] + jnp.arange(taps, dtype=jnp.int32)[None]  # [size, T], from the start
    distance = jnp.abs((2 * rows + 1) * size - centres[:, None])
    weights = jnp.where((rows >= 0) & (rows < length), jnp.maximum(reach - distance, 0), 0)
    weights = weights.astype(x.dtype)
    weights = weights / weights.sum(1, keepdims=True)
    picked = jnp.take(x.reshape(old, -1), start + rows, axis=0, mode="clip")  # [size, T, M]
    # A product of matrices, since XLA would compute a sum of slices again for each later reader.
    resized = jnp.einsum("ot,otm->om", weights, picked, precision="highest")
    return resized.reshape(size, *x.shape[1:])


def _largest(rows: int, columns: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest window whose ratio lies within the bounds."""
    if columns / rows < ratio[0]:
        return min(rows, round(columns / ratio[0])), columns
    if columns / rows > ratio[1]:
        return rows, min(columns, round(rows * ratio[1]))
    return rows, columns


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size={size}: expected a side, or height and width")
    return checks.count("size", sides[0]), checks.count("size", sides[1])


def _check_bounds(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale={scale}: expected two shares, 0 < least <= greatest <= 1")
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio={ratio}: expected two numbers, 0 < least <= greatest")
