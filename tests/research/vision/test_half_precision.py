"""Filters, augmentation, norms and positions of images in half precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import augmentation, convolutions, resampling, vit
from tests import half_precision

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(0.25, 1, (2, 16, 16, 4)), jnp.float32)
WIDE = jnp.asarray(RNG.uniform(0.25, 1, (300, 4, 2)), jnp.float32)  # more rows than bfloat16 counts
KERNEL = jnp.asarray(RNG.uniform(0.25, 1, (3, 3, 4, 5)), jnp.float32)
ANGLE = np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]], np.float32)


def changed(function, names):
    """All operations of a list at strength 0.3, in one program."""

    def run(image):
        kinds = jnp.arange(len(names))
        return jax.vmap(lambda kind: function(image, kind, 0.3))(kinds)

    return lambda: (jax.jit(run), (IMAGES[0],))


def normed(x):
    model = convolutions.GroupNorm(2)
    return model.apply({"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}, x)


def doubled(x, kernel):
    params = {"kernel": kernel, "bias": jnp.zeros(5, kernel.dtype)}
    return convolutions.ConvOfDoubled(5).apply({"params": params}, x)


def resized(table):
    params = {"params": {"positions": table}}
    return vit.resize_positions(params, (16, 16), (5, 24), method="linear")["params"]["positions"]


CASES = {
    "resampling.mean_pool": lambda: (resampling.mean_pool, (IMAGES,)),
    "resampling.nearest": lambda: (resampling.nearest, (IMAGES,)),
    "resampling.fir_down": lambda: (jax.jit(resampling.fir_down), (IMAGES,)),
    "resampling.fir_up": lambda: (jax.jit(resampling.fir_up), (IMAGES,)),
    "convolutions.GroupNorm": lambda: (jax.jit(normed), (100 * IMAGES,)),
    "convolutions.ConvOfDoubled": lambda: (jax.jit(doubled), (IMAGES, KERNEL)),
    "augmentation.crop": lambda: (
        functools.partial(augmentation.crop(2), jax.random.key(0)), (IMAGES[0],),
    ),
    "augmentation.affine": lambda: (
        jax.jit(lambda image: augmentation.affine(image, ANGLE, np.zeros(2, np.float32))), (WIDE,),
    ),
    "augmentation.geometric": changed(augmentation.geometric, augmentation.GEOMETRIC),
    "augmentation.colour": changed(augmentation.colour, augmentation.COLOURS),
    "augmentation.rand_augment": lambda: (
        jax.jit(lambda image: augmentation.rand_augment(1)(jax.random.key(1), image)), (IMAGES[0],),
    ),
    "augmentation.resized_crop": lambda: (
        jax.jit(lambda image: augmentation.resized_crop(image, (1, 2, 13, 9), 7)), (IMAGES[0],),
    ),
    "augmentation.jitter": lambda: (
        jax.jit(lambda image: augmentation.jitter(
            image, jnp.array([0.9, 1.2, 0.8]), jnp.float32(0.1), jnp.array([1, 3, 0, 2])
        )),
        (IMAGES[0, :, :, :3],),
    ),
    "augmentation.turn_hue": lambda: (
        jax.jit(lambda image: augmentation.turn_hue(image, 0.2)), (IMAGES[0, :, :, :3],),
    ),
    "augmentation.grey": lambda: (augmentation.grey, (IMAGES[0, :, :, :3],)),
    "augmentation.solarise": lambda: (augmentation.solarise, (IMAGES[0],)),
    "augmentation.blur": lambda: (
        jax.jit(lambda image: augmentation.blur(image, 1.5, 7)), (IMAGES[0],),
    ),
    "augmentation.mixup": lambda: (
        jax.jit(lambda x, y: augmentation.mixup(jax.random.key(0), x, y)),
        (IMAGES, jnp.eye(2)),
    ),
    "vit.resize_positions": lambda: (jax.jit(resized), (IMAGES.reshape(2, 256, 4)[:1],)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
