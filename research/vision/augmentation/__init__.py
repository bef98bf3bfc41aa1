"""Random changes of images that keep their label, as pure functions of a key and one image.

`each` maps one of them over a batch with a key per image, so that what happens to an image does not
depend on the batch it is in. Images are float [H, W, C] with values in [0, 1]; what computes with
them refuses integers, and computes in float32 or wider whatever their dtype, which they keep.

>>> import jax
>>> from research.vision import augmentation
>>> images = jax.random.uniform(jax.random.key(0), (4, 40, 30, 3))
>>> change = augmentation.chain(augmentation.random_resized_crop(32), augmentation.flip())
>>> augmentation.each(change, jax.random.split(jax.random.key(1), 4), images).shape
(4, 32, 32, 3)

    basic.py       each, chain, sometimes; padded windows, mirrors, mixup
    crops.py       a random window, resized
    colours.py     jitter of brightness, contrast, saturation and hue; grey, solarised
    blurring.py    Gaussian blur
    operations.py  RandAugment and the affine map under it
"""

from research.vision.augmentation import basic, blurring, colours, crops, operations
from research.vision.augmentation.basic import Augment, chain, crop, each, flip, mixup, sometimes
from research.vision.augmentation.blurring import blur, gaussian_blur
from research.vision.augmentation.colours import (
    colour_jitter,
    grey,
    jitter,
    random_grey,
    random_solarise,
    solarise,
    turn_hue,
)
from research.vision.augmentation.crops import random_box, random_resized_crop, resized_crop
from research.vision.augmentation.operations import (
    COLOURS,
    GEOMETRIC,
    affine,
    colour,
    geometric,
    rand_augment,
)

__all__ = [
    "COLOURS",
    "GEOMETRIC",
    "Augment",
    "affine",
    "basic",
    "blur",
    "blurring",
    "chain",
    "colour",
    "colour_jitter",
    "colours",
    "crop",
    "crops",
    "each",
    "flip",
    "gaussian_blur",
    "geometric",
    "grey",
    "jitter",
    "mixup",
    "operations",
    "rand_augment",
    "random_box",
    "random_grey",
    "random_resized_crop",
    "random_solarise",
    "resized_crop",
    "solarise",
    "sometimes",
    "turn_hue",
]
