"""What augmentation, norms and networks of images compute where a keyword is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import augmentation, convolutions, resnet, vit
from tests import defaults

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.2, 1, (2, 8, 8, 1)).astype(np.float32)
LABELS = np.eye(2, dtype=np.float32)
ONE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def augmented(make, **options):
    return defaults.program(make(**options), KEY, IMAGES[0])


def normed(**options):
    """Of a variance near the constant that is added to it."""
    params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    return convolutions.GroupNorm(1, **options).apply({"params": params}, 1e-3 * IMAGES)


def classified(model, **options):
    network = model(2, **options)
    params = jax.eval_shape(network.init, KEY, ONE)
    return defaults.program(network.apply, params, ONE)


def residual(**options):
    """Logits and running statistics."""
    model = resnet.ResNet(2, num_blocks=(1,), width=2)
    start = jax.eval_shape(functools.partial(resnet.init, model, image_shape=(8, 8, 1)), KEY)
    return defaults.program(functools.partial(resnet.apply, model), *start, IMAGES, **options)


CASES = {
    "crop": (
        functools.partial(augmented, functools.partial(augmentation.crop, 2)),
        {"mode": ("constant", "reflect")},
    ),
    "flip": (functools.partial(augmented, augmentation.flip), {"probability": (0.5, 0.6)}),
    "rand_augment": (
        functools.partial(augmented, augmentation.rand_augment),
        {"num_operations": (2, 3), "magnitude": (0.3, 0.31)},
    ),
    "mixup": (
        functools.partial(defaults.program, augmentation.mixup, KEY, IMAGES, LABELS),
        {"alpha": (0.2, 0.21)},
    ),
    "GroupNorm": (normed, {"epsilon": (1e-6, 1.1e-6)}),
    "resnet.apply": (residual, {"train": (False, True)}),
    "ResNet": (
        functools.partial(classified, resnet.ResNet),
        {
            "num_blocks": ((2, 2, 2, 2), (2, 2, 2, 1), (1, 2, 2, 2)),
            "bottleneck": (False,),
            "width": (64,),
            "small_images": (False,),
        },
    ),
    "ViT": (
        functools.partial(classified, vit.ViT),
        {
            "patch": (16,),
            "width": (192,),
            "depth": (12, 11),
            "num_heads": (3, 4),
            "mlp_dim": (4 * 192,),
            "pooling": ("class",),
            "positions": ("learned",),
            "num_registers": (0,),
            "epsilon": (1e-6, 1e-12),
            "unroll": (1, 2),
        },
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
