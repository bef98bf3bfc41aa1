"""CIFAR-10 as JPEG: 50,000 training and 10,000 test colour images 32 x 32 x 3, ten classes.

Krizhevsky 2009, Learning multiple layers of features from tiny images. This copy went through JPEG:
its pixels differ slightly from the original ones, so published error rates apply only roughly. It
is read from `images/cifar10_jpeg_60k.npz` under `ANSATZ_DATA` (the JPEG files of a split end to
end, with a table of offsets) and has no download address. The order inside a split is random, so a
prefix is a fair sample.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from library.data import builders, sources

SPLITS = {"train": 50_000, "test": 10_000}
MAX_VALUE = 255
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
JPEG_FILE = "images/cifar10_jpeg_60k.npz"
PIXEL_FILE = "images/cifar10_pixels_4k.npz"
SHA256 = {
    JPEG_FILE: "0864b5c74bd8bcd134475ed05b0767fe9af6470b8dce311729433b4b41c10fa3",
    PIXEL_FILE: "b619de1b4c1071ee7e2a73b488440548ab50fe1bc63ca92a5b558e8160b06af1",
}


def source(split: str, folder: sources.PathLike | None = None) -> sources.PreparedSource:
    """The split as a random-access source of {"image": [32, 32, 3] uint8, "label": int}.

    Decoded once, when prepared (about 0.2 GB in the cache).

    Args:
        split: "train", "test" or a TFDS slice of one such as "train[:10000]".
        folder: where prepared sets are kept, the cache folder when None.
    Raises:
        FileNotFoundError: if the file is not there.
        ModuleNotFoundError: if TFDS or Pillow is not installed.
        ValueError: for an unknown split or a damaged file.
    """
    return sources.open_split(_builder(), split, folder)


def arrays(split: str, num_examples: int | None = None) -> dict[str, np.ndarray]:
    """The first examples of a split in memory: {"image": [N, 32, 32, 3] uint8, "label": [N] int32}.

    The first 2,000 come from the decoded extract where that is at hand, which needs no Pillow.

    Args:
        split: "train" or "test".
        num_examples: N, the whole split when None.
    Raises:
        FileNotFoundError: if the file is not there.
        ModuleNotFoundError: if Pillow is needed and not installed.
        ValueError: for an unknown split, too many examples or a damaged file.
    """
    _check_split(split)
    wanted = SPLITS[split] if num_examples is None else num_examples
    if not 0 < wanted <= SPLITS[split]:
        raise ValueError(f"num_examples={wanted}: 'cifar10' {split} has {SPLITS[split]}")
    if wanted <= 2000 and sources.find("cifar10", [PIXEL_FILE]):
        with _load(PIXEL_FILE) as extract:
            images, labels = extract[f"x_{split}"][:wanted], extract[f"y_{split}"][:wanted]
        return {"image": images, "label": labels.astype(np.int32)}
    files, labels = read_jpegs(split)
    images = np.stack(list(decode(files[:wanted])))  # [N, 32, 32, 3]
    return {"image": images, "label": labels[:wanted]}


def read_jpegs(split: str) -> tuple[list[bytes], np.ndarray]:
    """The JPEG files of a split and their labels [N] int32.

    Raises:
        FileNotFoundError, ValueError: as `arrays`.
    """
    _check_split(split)
    with _load(JPEG_FILE) as packed:
        joined, offsets = packed[f"jpeg_{split}"].tobytes(), packed[f"offset_{split}"].tolist()
        labels = packed[f"y_{split}"].astype(np.int32)
    return [joined[start:end] for start, end in zip(offsets, offsets[1:])], labels


def decode(files: list[bytes]) -> Iterator[np.ndarray]:
    """The images [32, 32, 3] uint8, one after the other, decoded by Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ModuleNotFoundError(f"JPEG needs Pillow ({error}): pip install pillow") from error
    for file in files:
        yield np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _builder() -> type:
    return builders.image_set("cifar10_jpeg", __doc__, (32, 32, 3), CLASSES, _read)


def _read(_: Any) -> dict[str, tuple[Iterator[np.ndarray], np.ndarray]]:
    packed = {split: read_jpegs(split) for split in SPLITS}
    return {split: (decode(files), labels) for split, (files, labels) in packed.items()}


def _load(file: str) -> Any:
    """The npz file under `ANSATZ_DATA`, its checksum checked."""
    (path,) = sources.require("cifar10", [file])
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256[file]:
        raise ValueError(f"{path} has SHA-256 {found}, expected {SHA256[file]}")
    return np.load(io.BytesIO(raw))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"data set 'cifar10' has the splits {sorted(SPLITS)}, not {split!r}")
