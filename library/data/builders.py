"""Makes TFDS builders of image sets, and knows no set. Importing it loads neither TFDS nor Grain.

All declare `Tensor` features of uint8 pixels, which TFDS encodes without TensorFlow (its `Image`
feature does not), and keep the order of the raw files. None is registered under its name: TFDS has
an `mnist` of its own, which needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

VERSION = "1.0.0"

# TFDS's download manager -> images and labels of every split, in the order they are kept.
Read = Callable[[Any], Mapping[str, tuple[Iterable[np.ndarray], Iterable[int]]]]


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that TFDS may download: its address, the name it is kept under, and its checks."""

    url: str
    name: str
    size: int  # bytes
    sha256: str


def image_set(
    name: str,
    text: str,
    shape: tuple[int, ...],
    classes: Sequence[str],
    read: Read,
    downloads: Sequence[Download] = (),
) -> type:
    """A builder class of images with their classes, for `sources.open_split`.

    Args:
        name: of the data set, and of the folder that the prepared set is kept in.
        text: what it is.
        shape: of an image, uint8.
        classes: names of the labels 0, 1, ...
        read: `read(dl_manager)` -> {split: (images, labels)}, called when the set is prepared;
            images may come from a generator, so that one at a time is in memory.
        downloads: what `read` may ask the download manager for.
    Returns:
        A subclass of `tfds.core.GeneratorBasedBuilder`.
    Raises:
        ModuleNotFoundError: naming the data set and the packages to install.
    """
    tfds, checksums = _tfds(name)

    def info(builder: Any) -> Any:
        features = {
            "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=list(classes)),
        }
        return tfds.core.DatasetInfo(
            builder=builder,
            description=text,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # keeps the raw order, so that a prefix means what papers mean
        )

    def split_generators(builder: Any, dl_manager: Any) -> Mapping[str, Any]:
        return {
            split: builder._generate_examples(*pair) for split, pair in read(dl_manager).items()
        }

    def generate_examples(_: Any, images: Iterable[np.ndarray], labels: Iterable[int]) -> Any:
        for index, (image, label) in enumerate(zip(images, labels)):
            yield index, {"image": image, "label": int(label)}

    return types.new_class(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {"skip_registration": True},
        lambda body: body.update(
            __doc__=text,
            __module__=__name__,
            VERSION=tfds.core.Version(VERSION),
            url_infos={
                item.url: checksums.UrlInfo(tfds.core.units.Size(item.size), item.sha256, item.name)
                for item in downloads
            },
            _info=info,
            _split_generators=split_generators,
            _generate_examples=generate_examples,
        ),
    )


def _tfds(name: str) -> tuple[types.ModuleType, types.ModuleType]:
    """TFDS and its module of checksums, or one line that says what is missing."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download import checksums
    except ImportError as error:
        raise ModuleNotFoundError(
            f"data set {name!r} needs TFDS ({error}): "
            "pip install tensorflow-datasets importlib_resources"
        ) from error
    return tfds, checksums
