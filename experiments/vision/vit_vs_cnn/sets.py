"""The two image sets of the study, each with a ResNet and a ViT of about its size."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from experiments.vision.vit_vs_cnn import classifiers
from library.data.sets import digits as digits_data
from library.data.sets import mnist as mnist_data
from research.vision import augmentation, resnet, vit


@dataclasses.dataclass(frozen=True, eq=False)
class Set:
    """Images with labels, and who is to classify them.

    Attributes:
        name, title: for files and for figures.
        train, test: {"image": [N, H, W, C] in [0, 1], "label": [N]}.
        augment: of a training image.
        resnet, vit: the pair.
    """

    name: str
    title: str
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    augment: augmentation.Augment
    resnet: resnet.ResNet
    vit: vit.ViT

    @functools.cached_property
    def learners(self) -> dict[str, classifiers.Learner]:
        """Both behind one face."""
        return {"CNN": classifiers.cnn(self.resnet), "ViT": classifiers.transformer(self.vit)}

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of parameters under the names of metrics."""
        shape = self.train["image"].shape[1:]
        return {
            f"{self.name}_{name}_parameters": learner.num_parameters(shape)
            for name, learner in self.learners.items()
        }


@functools.cache
def digits(small: bool) -> Set:
    """scikit-learn's 8x8 digits; `small` takes networks for a check only."""
    blocks, width, depth = ((1,), 8, 1) if small else ((1, 1), 32, 2)
    return Set(
        "digits",
        "8x8 digits",
        *(_unit(digits_data.arrays(split), digits_data.MAX_VALUE) for split in ("train", "test")),
        augmentation.crop(1),
        resnet.ResNet(num_classes=10, num_blocks=blocks, width=16, small_images=True),
        vit.ViT(
            num_classes=10,
            patch=2,
            width=width,
            depth=depth,
            num_heads=4,
            mlp_dim=5 * width // 2,
            unroll=depth,
        ),
    )


@functools.cache
def mnist() -> Set:
    """MNIST, of the files under ANSATZ_DATA."""
    return Set(
        "mnist",
        "MNIST",
        *(_unit(mnist_data.arrays(split), mnist_data.MAX_VALUE) for split in ("train", "test")),
        augmentation.crop(2),
        resnet.ResNet(num_classes=10, num_blocks=(1, 1, 1), width=16),
        vit.ViT(num_classes=10, patch=7, width=48, depth=3, num_heads=4, mlp_dim=144, unroll=3),
    )


def _unit(data: dict[str, np.ndarray], max_value: int) -> dict[str, np.ndarray]:
    """Images in [0, 1]."""
    return {**data, "image": data["image"].astype(np.float32) / np.float32(max_value)}
