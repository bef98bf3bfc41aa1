"""Images: residual networks, vision transformers and their checkpoints, and the parts of both.

>>> import jax
>>> from research import vision
>>> images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))  # [B, H, W, C]
>>> model = vision.ViT(num_classes=10, patch=4, width=32, depth=2, num_heads=2)
>>> params = jax.jit(model.init)(jax.random.key(1), images)
>>> jax.jit(model.apply)(params, images).shape
(2, 10)
>>> vision.patches.to_patches(images, size=4).shape  # [B, N, p p C]
(2, 16, 48)

    resnet.py        residual networks, 18 to 152 layers, their state carried explicitly
    vit.py           vision transformers, Ti to H, and who looks where
    weights.py       Hugging Face's vision transformers in and out
    augmentation/    windows, mirrors, colour, blur, RandAugment, mixup: of a key and one image
    patches.py       images as sequences or grids of patches and back; positions in two dimensions
    convolutions.py  group norm, a convolution of a doubled image, maps of every pixel
    resampling.py    halving and doubling by fixed filters

`weights` needs the package safetensors where a file is read or written.
"""

from research.vision import (
    augmentation,
    convolutions,
    patches,
    resampling,
    resnet,
    vit,
    weights,
)
from research.vision.resnet import ResNet
from research.vision.vit import ViT

PARENTS = ("attention", "transformers")

__all__ = [
    "ResNet",
    "ViT",
    "augmentation",
    "convolutions",
    "patches",
    "resampling",
    "resnet",
    "vit",
    "weights",
]
