"""Images of a user's own with their names and, where sub-folders are classes, their labels."""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from library import plots, report
from library.data import images as image_files
from library.data.sets import digits
from library.storage import files

LEAST = 20  # images
_ROWS, _COLUMNS = 6, 8  # of the picture


@dataclasses.dataclass(frozen=True)
class Own:
    """Images in the order of their names.

    Attributes:
        images: [N, H, W, C] bytes.
        names: [N] paths within the folder.
        classes: their names, in order; none where there are no labels.
        labels: [N] int, or None.
        held_out: [N] bool: one in five of each class; none without labels.
    """

    images: np.ndarray
    names: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray | None
    held_out: np.ndarray


def embedded() -> Own:
    """The 8x8 digits, held out as they are split."""
    parts = {split: digits.arrays(split) for split in ("train", "test")}
    images, labels = (np.concatenate([part[key] for part in parts.values()])
                      for key in ("image", "label"))  # fmt: skip
    names = [f"{split}/{i}" for split, part in parts.items() for i in range(len(part["label"]))]
    held_out = np.array([name.startswith("test") for name in names])
    images = np.round(images * (255 / digits.MAX_VALUE)).astype(np.uint8)
    return Own(images, np.array(names), tuple("0123456789"), labels.astype(np.int64), held_out)


def folder(path: str, size: int, channels: int, seed: int) -> Own:
    """All images under a folder, brought to one size.

    Args:
        path: of the folder; classes are the folders in it, if there are any.
        size, channels: see `library.data.images.read_files`.
        seed: of what is held out.
    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: for too few images, one class, images beside folders, classes of one image, or
            as `library.data.images.read_files`.
    """
    place = files.local(path, "images")
    if not place.is_dir():
        raise FileNotFoundError(f"{place} not found: expected a folder of images")
    found = [file for file in sorted(place.rglob("*"))
             if file.suffix.lower() in image_files.SUFFIXES]  # fmt: skip
    if not found:
        raise FileNotFoundError(f"{place} holds no image ({', '.join(image_files.SUFFIXES)})")
    if len(found) < LEAST:
        raise ValueError(f"{place} holds {len(found)} images: expected {LEAST} or more")
    names = [file.relative_to(place) for file in found]
    kinds = [name.parts[0] if len(name.parts) > 1 else "" for name in names]
    classes, labels, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    if len(classes) == 1 and classes[0]:
        raise ValueError(f"{place} holds one class, {classes[0]}: expected two folders or none")
    if len(classes) > 1 and "" in classes:
        raise ValueError(f"{place} holds images beside folders: expected all in folders, or none")
    if len(classes) > 1 and counts.min() < 2:
        few = classes[counts.argmin()]
        raise ValueError(f"{place / few} holds 1 image: expected 2 or more of each class")
    images = image_files.read_files([str(file) for file in found], size, channels)
    names = np.array([name.as_posix() for name in names])
    if len(classes) == 1:
        return Own(images, names, (), None, np.zeros(len(names), bool))
    return Own(images, names, tuple(map(str, classes)), labels, held_out(labels, seed))


def held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """[N] bool: a random fifth of each class, at least one of it."""
    chosen, rng = np.zeros(len(labels), bool), np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: max(1, len(rows) // 5)]] = True
    return chosen


def write(out: report.RunDir, own: Own, features: np.ndarray) -> None:
    """features.npz: features, files and held_out, and labels and classes where there are any."""
    arrays = {"features": features, "files": own.names, "held_out": own.held_out}
    if own.labels is not None:
        arrays |= {"labels": own.labels, "classes": np.array(own.classes)}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    files.write_atomic(out.path / "features.npz", packed.getvalue())


def picture(own: Own, features: np.ndarray):
    """Rows of an image and its nearest neighbours."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    first = np.linspace(0, len(unit) - 1, _ROWS).astype(int)
    near = np.argsort(-unit[first] @ unit.T, axis=1)[:, :_COLUMNS]
    images = own.images[near.ravel()] / 255
    return plots.image_grid(images, _ROWS, _COLUMNS, title="Images, then their nearest neighbours")
