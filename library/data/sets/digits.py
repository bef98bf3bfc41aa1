"""Handwritten digits of scikit-learn: 1,797 images 8 x 8 x 1, uint8 in 0..16, ten classes.

Embedded: it needs no download. They are the test half of the optical recognition set of Alpaydin
and Kaynak (UCI, 1998). Split once and for all into 1,497 training and 300 test images, 30 of each
class.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from library.data import builders, pipeline, sources

SPLITS = {"train": 1497, "test": 300}
MAX_VALUE = 16
_TEST_PER_CLASS = 30


def source(split: str, folder: sources.PathLike | None = None) -> sources.PreparedSource:
    """The split as a random-access source of {"image": [8, 8, 1] uint8, "label": int}.

    Args:
        split: "train", "test" or a TFDS slice of one.
        folder: where prepared sets are kept, the cache folder when None.
    Raises:
        ModuleNotFoundError: if TFDS is not installed; `arrays` works without it.
        ValueError: for an unknown split.
    """
    return sources.open_split(_builder(), split, folder)


def arrays(split: str, folder: sources.PathLike | None = None) -> dict[str, np.ndarray]:
    """The split in memory: {"image": [N, 8, 8, 1] uint8 in 0..16, "label": [N] int32}.

    Read through TFDS, or straight from scikit-learn where TFDS is not installed; both give the
    same arrays.

    Raises:
        ValueError: for an unknown split.
    """
    _check_split(split)
    try:
        prepared = source(split, folder)
    except ModuleNotFoundError:
        return read_sklearn(split)
    return pipeline.in_memory(prepared)


def read_sklearn(split: str) -> dict[str, np.ndarray]:
    """The same arrays, straight from scikit-learn."""
    from sklearn import datasets

    _check_split(split)
    raw = datasets.load_digits()
    rows = split_indices(raw.target)[split]
    images = raw.images[rows].astype(np.uint8)[..., np.newaxis]  # [N, 8, 8, 1]
    return {"image": images, "label": raw.target[rows].astype(np.int32)}


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each split, in the order of the file.

    The test split takes of each class the 30 rows whose number has the smallest SHA-256: as good as
    random, and independent of any library's random numbers. A suffix of the file would not do,
    because its rows are ordered by writer.

    Args:
        labels: [N] int.
    Returns:
        {"train": [N - 300] int, "test": [300] int}, both ascending.
    """
    ranks = np.array([_hash(row) for row in range(len(labels))])  # [N]
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[rows[np.argsort(ranks[rows])[:_TEST_PER_CLASS]]] = True
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


def _builder() -> type:
    classes = [str(label) for label in range(10)]
    return builders.image_set("digits", __doc__, (8, 8, 1), classes, _read)


def _read(_: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {split: tuple(read_sklearn(split).values()) for split in SPLITS}


def _hash(row: int) -> str:
    return hashlib.sha256(f"digits {row}".encode()).hexdigest()


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"data set 'digits' has the splits {sorted(SPLITS)}, not {split!r}")
