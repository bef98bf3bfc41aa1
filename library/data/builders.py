"""The TFDS builders. Importing this module needs TFDS; `sources.tfds_builders` says so in one line.

All declare `Tensor` features of uint8 pixels, which TFDS encodes without TensorFlow (its `Image`
feature does not), and keep the order of the raw files. None is registered under its name: TFDS has
an `mnist` of its own, which needs TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from library.data import sources
from library.data.sets import cifar10, digits, mnist

Examples = Iterator[tuple[int, dict[str, Any]]]


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """scikit-learn's handwritten digits, split by `library.data.sets.digits.split_indices`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _image_info(self, digits.__doc__, (8, 8, 1), [str(label) for label in range(10)])

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        return {
            split: self._generate_examples(**digits.read_sklearn(split)) for split in digits.SPLITS
        }

    def _generate_examples(self, image: np.ndarray, label: np.ndarray) -> Examples:
        return _examples(image, label)


class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """MNIST from the four idx files: under `ANSATZ_DATA`, else downloaded and checked by TFDS."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {
        mnist.ADDRESS + name: checksums.UrlInfo(tfds.core.units.Size(size), sha256, name)
        for name, (size, sha256, _) in mnist.FILES.items()
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return _image_info(self, mnist.__doc__, (28, 28, 1), [str(label) for label in range(10)])

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        urls = {name: mnist.ADDRESS + name for name in mnist.FILES}
        paths = mnist.local_files() or sources.download(
            dl_manager, "mnist", urls, mnist.wanted_files()
        )
        return {
            split: self._generate_examples(**mnist.read_split(paths, split))
            for split in mnist.SPLITS
        }

    def _generate_examples(self, image: np.ndarray, label: np.ndarray) -> Examples:
        return _examples(image, label)


class Cifar10Jpeg(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """CIFAR-10 from its JPEG copy under `ANSATZ_DATA`, decoded when prepared."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _image_info(self, cifar10.__doc__, (32, 32, 3), cifar10.CLASSES)

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        return {
            split: self._generate_examples(*cifar10.read_jpegs(split)) for split in cifar10.SPLITS
        }

    def _generate_examples(self, files: list[bytes], label: np.ndarray) -> Examples:
        return _examples(cifar10.decode(files), label)


def _image_info(
    builder: tfds.core.DatasetBuilder, text: str, shape: tuple[int, ...], names: Sequence[str]
) -> tfds.core.DatasetInfo:
    """An image [H, W, C] uint8 and its class."""
    features = {
        "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
        "label": tfds.features.ClassLabel(names=list(names)),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=text,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
        disable_shuffling=True,  # keeps the raw order: "the first 10,000" means what papers mean
    )


def _examples(images: Iterator[np.ndarray] | np.ndarray, labels: np.ndarray) -> Examples:
    for index, (image, label) in enumerate(zip(images, labels)):
        yield index, {"image": image, "label": int(label)}
