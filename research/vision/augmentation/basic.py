"""Random changes over a batch and in a row, windows and mirrors, mixtures of images and labels."""

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


def sometimes(augment: Augment, probability: float) -> Augment:
    """The change with this probability, else the image as it is.

    Raises:
        ValueError: for a probability outside [0, 1].
    """
    check_unit("probability", probability)

    def changed(rng: Key, image: Array) -> Array:
        coin_rng, change_rng = jax.random.split(rng)
        coin = jax.random.bernoulli(coin_rng, probability)
        return jnp.where(coin, augment(change_rng, image), image)

    return changed


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
    check_unit("probability", probability)

    def augment(rng: Key, image: Array) -> Array:
        chex.assert_rank(image, 3)
        return jnp.where(jax.random.bernoulli(rng, probability), image[:, ::-1], image)

    return augment


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


def check_image(image: Array) -> None:
    """Raises ValueError for integers, which formulas for [0, 1] would read as they are."""
    chex.assert_rank(image, 3)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image of type {image.dtype}: expected floats in [0, 1]")


def check_unit(name: str, value: float) -> None:
    """Raises ValueError for a share outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected 0 to 1")
