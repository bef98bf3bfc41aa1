"""RandAugment: operations drawn from two lists, of shape and of colour, and the map under them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32
from research.vision.augmentation import basic
from research.vision.augmentation.basic import Augment


def affine(image: Array, matrix: Array, shift: Array, mode: str = "constant") -> Array:
    """The image moved by a linear map about its centre, bilinear, zero outside.

    Args:
        image: [H, W, C].
        matrix: [2, 2], from places in the new image (row, column) to places in the old one.
        shift: [2], pixels added there.
        mode: what lies outside, of `jax.scipy.ndimage.map_coordinates`: "constant" is zero,
            "mirror" the image reflected about its outermost pixels.
    Raises:
        ValueError: for an image of integers.
    """
    basic.check_image(image)
    chex.assert_shape([matrix, shift], [(2, 2), (2,)])
    height, width, _ = image.shape
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    wide = at_least_float32(image.dtype)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], wide)
    matrix, shift = matrix.astype(wide), shift.astype(wide)
    places = jnp.einsum("ij,hwj->hwi", matrix, grid - centre[None, None])
    places = places + (centre + shift)[None, None]  # [H, W, 2]
    # Rounding must not blend a pixel with its neighbour where the map hits it exactly.
    nearest = jnp.round(places)
    places = jnp.where(jnp.abs(places - nearest) < 1e-4, nearest, places)

    def sample(channel: Array) -> Array:
        coordinates = (places[..., 0], places[..., 1])
        return jax.scipy.ndimage.map_coordinates(channel, coordinates, order=1, mode=mode)

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(wide)).astype(image.dtype)


GEOMETRIC = ("identity", "rotate", "shear rows", "shear columns", "move rows", "move columns")
COLOURS = ("identity", "brightness", "contrast", "solarize", "posterize", "invert")


def rand_augment(num_operations: int = 2, magnitude: float = 0.3) -> Augment:
    """Randomly chosen changes of one strength, after Cubuk et al. 2020, arXiv:1909.13719.

    An operation is a geometric one and a colour one, each drawn from the lists above (identity
    included). Strength 1 rotates by 30 degrees, shears by 0.3, moves by 0.45 of the side, changes
    brightness or contrast by 0.9 and leaves 2 grey levels; the sign is random.

    Args:
        num_operations: changes in a row, >= 0.
        magnitude: strength, in [0, 1]; at 0 all but solarize and invert are the identity.
    Raises:
        ValueError: for values out of range.
    """
    checks.count("num_operations", num_operations, least=0)
    basic.check_unit("magnitude", magnitude)

    def augment(rng: Key, image: Array) -> Array:
        for index in range(num_operations):
            shape_rng, colour_rng, sign_rng = jax.random.split(jax.random.fold_in(rng, index), 3)
            sign = jnp.where(jax.random.bernoulli(sign_rng, 0.5), 1.0, -1.0)
            sign = sign.astype(at_least_float32(image.dtype))
            kind = jax.random.randint(shape_rng, (), 0, len(GEOMETRIC))
            image = geometric(image, kind, sign * magnitude)
            kind = jax.random.randint(colour_rng, (), 0, len(COLOURS))
            image = colour(image, kind, sign * magnitude)
        return image

    return augment


def geometric(image: Array, kind: Array | int, strength: Array | float) -> Array:
    """Operation number `kind` of `GEOMETRIC` with a signed strength in [-1, 1].

    Raises:
        ValueError: for an image of integers, or a concrete kind that is none of them.
    """
    basic.check_image(image)
    _check_kind(kind, GEOMETRIC)
    wide = at_least_float32(image.dtype)
    strength = jnp.asarray(strength, wide)
    angle = strength * (jnp.pi / 6)
    zero, one = jnp.zeros_like(strength), jnp.ones_like(strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    unit = [one, zero, zero, one]
    matrices = jnp.array(
        [
            unit,
            [cos, -sin, sin, cos],
            [one, 0.3 * strength, zero, one],
            [one, zero, 0.3 * strength, one],
            unit,
            unit,
        ]
    )  # [6, 4]
    height, width, _ = image.shape
    shifts = jnp.zeros((len(GEOMETRIC), 2), wide)
    shifts = shifts.at[4, 0].set(0.45 * height * strength).at[5, 1].set(0.45 * width * strength)
    return affine(image, matrices[kind].reshape(2, 2), shifts[kind])


def colour(image: Array, kind: Array | int, strength: Array | float) -> Array:
    """Operation number `kind` of `COLOURS` with a signed strength in [-1, 1].

    Raises:
        ValueError: as `geometric`.
    """
    basic.check_image(image)
    _check_kind(kind, COLOURS)
    dtype, image = image.dtype, image.astype(at_least_float32(image.dtype))
    strength = jnp.asarray(strength, image.dtype)
    size = jnp.abs(strength)
    levels = jnp.round(255 - 254 * size)  # grey steps above black

    def blend(other: Array) -> Array:
        return jnp.clip(other + (1 + 0.9 * strength) * (image - other), 0.0, 1.0)

    operations = (
        lambda: image,
        lambda: blend(jnp.zeros_like(image)),
        lambda: blend(jnp.full_like(image, image.mean())),
        lambda: jnp.where(image >= 1 - size, 1 - image, image),
        lambda: jnp.round(image * levels) / levels,
        lambda: 1 - image,
    )
    return jax.lax.switch(kind, operations).astype(dtype)


def _check_kind(kind: Array | int, names: tuple[str, ...]) -> None:
    if not isinstance(kind, jax.core.Tracer) and not 0 <= int(kind) < len(names):
        raise ValueError(f"kind={kind}: expected a number below {len(names)}, of {names}")
