"""Random changes of images that keep their label, as pure functions of a key and one image.

`each` maps one of them over a batch with a key per image, so that what happens to an image does not
depend on the batch it is in. Images are float [H, W, C] with values in [0, 1]; what computes with
them refuses integers, and computes in float32 or wider whatever their dtype, which they keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32

Augment = Callable[[Key, Array], Array]  # (key, image [H, W, C]) -> image


def each(augment: Augment, rngs: Key, images: Array) -> Array:
    """Images [B, H, W, C], each with its own key of rngs [B].

    Raises:
        ValueError: if there are not as many keys as images.
    """
    if images.ndim != 4 or rngs.shape != images.shape[:1]:
        raise ValueError(
            f"rngs {rngs.shape} for images {images.shape}: expected [B] keys for [B, H, W, C]"
        )
    return jax.vmap(augment)(rngs, images)


def chain(*augments: Augment) -> Augment:
    """One after the other, each with a key of its own."""

    def augment(rng: Key, image: Array) -> Array:
        for index, each_one in enumerate(augments):
            image = each_one(jax.random.fold_in(rng, index), image)
        return image

    return augment


def crop(padding: int, mode: str = "constant") -> Augment:
    """A window of the old size at a random place of the padded image (He et al. 2016).

    Args:
        padding: pixels on each side, >= 0; all (2 padding + 1)^2 places are equally likely.
        mode: of `jnp.pad`: "constant" (zeros), "reflect" or "edge".
    Raises:
        ValueError: for a padding that is no whole number >= 0, or an unknown mode.
    """
    checks.count("padding", padding, least=0)
    if mode not in ("constant", "reflect", "edge"):
        raise ValueError(f"mode={mode!r}: expected 'constant', 'reflect' or 'edge'")

    def augment(rng: Key, image: Array) -> Array:
        chex.assert_rank(image, 3)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        row, column = jax.random.randint(rng, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)

    return augment


def flip(probability: float = 0.5) -> Augment:
    """Left becomes right, with this probability."""
    _check_unit("probability", probability)

    def augment(rng: Key, image: Array) -> Array:
        chex.assert_rank(image, 3)
        return jnp.where(jax.random.bernoulli(rng, probability), image[:, ::-1], image)

    return augment


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
    _check_image(image)
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
    _check_unit("magnitude", magnitude)

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
    _check_image(image)
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
    _check_image(image)
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


def mixup(rng: Key, images: Array, labels: Array, alpha: float = 0.2) -> tuple[Array, Array]:
    """Convex combinations of pairs, Zhang et al. 2018, arXiv:1710.09412.

    Each image has its own weight, from Beta(alpha, alpha), and meets the next one of a random
    cycle through the batch, so it depends on its company by design.

    Args:
        rng: one key for the batch.
        images: [B, ...] float.
        labels: [B, C] float, probabilities.
        alpha: > 0; small values leave most images nearly alone.
    Returns:
        Images and labels of the same shapes.
    Raises:
        ValueError: if alpha is not positive and finite, the batches differ, or one holds integers.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha}: expected a positive number")
    if labels.ndim != 2 or len(images) != len(labels):
        raise ValueError(f"images {images.shape}, labels {labels.shape}: expected [B, ...], [B, C]")
    for name, x in (("images", images), ("labels", labels)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} of type {x.dtype}: expected floats")
    order_rng, weight_rng = jax.random.split(rng)
    order = jax.random.permutation(order_rng, len(images))
    partner = jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))
    wide = at_least_float32(images.dtype)
    weight = jax.random.beta(weight_rng, alpha, alpha, (len(images),), wide)

    def mix(x: Array) -> Array:
        w = weight.reshape(-1, *(1,) * (x.ndim - 1)).astype(at_least_float32(x.dtype))
        return (w * x + (1 - w) * x[partner]).astype(x.dtype)

    return mix(images), mix(labels)


def _check_image(image: Array) -> None:
    chex.assert_rank(image, 3)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image of type {image.dtype}: expected floats in [0, 1]")


def _check_kind(kind: Array | int, names: tuple[str, ...]) -> None:
    if not isinstance(kind, jax.core.Tracer) and not 0 <= int(kind) < len(names):
        raise ValueError(f"kind={kind}: expected a number below {len(names)}, of {names}")


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected 0 to 1")
