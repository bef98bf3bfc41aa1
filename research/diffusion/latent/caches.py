"""A data set's latents on disk, encoded block by block: killed at any time, gone on with later.

Each block of examples is a sealed folder (`library.storage.sealed_folders`) with what the encoder
gave, unscaled: mean and log variance, so that every epoch may draw anew, or vectors. Its note says
what it was made by and of; a folder that holds anything else is refused before anything is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from library import checks
from library.storage import files, sealed_folders, tiled_matrix
from library.types import at_least_float32
from research.diffusion.latent.first_stages import Encode

_NAMES = {1: ("vectors",), 2: ("mean", "log_var")}  # of the files, by their number
Encoded = tuple[np.ndarray, np.ndarray] | np.ndarray


def fingerprint(*made_by: Any) -> str:
    """A short hash of what latents are made by: trees of arrays, numbers and strings.

    Parameters alone do not tell how they are used: give the module's `repr` or its settings too.
    """
    result = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_flatten_with_path(made_by)[0]:
        is_array = isinstance(leaf, np.ndarray | jax.Array)
        what = tiled_matrix.digest(np.asarray(leaf)) if is_array else repr(leaf)
        result.update(f"{jax.tree_util.keystr(path)} {what}\n".encode())
    return result.hexdigest()


@dataclasses.dataclass(frozen=True)
class Cached:
    """The latents of N examples in a folder; `cached` makes it.

    Attributes:
        folder: with one sealed folder a block.
        num_examples: N.
        block: examples of a block; the last may have fewer.
    """

    folder: pathlib.Path
    num_examples: int
    block: int

    def __len__(self) -> int:
        return self.num_examples

    def blocks(self) -> Iterator[Encoded]:
        """What the encoder gave, block after block: one in memory at a time, e.g. for `measure`."""
        for number in range(-(-self.num_examples // self.block)):
            yield _read(self.folder / str(number))

    def load(self) -> Encoded:
        """All of it: mean and log variance [N, ...], or vectors [N, ...]."""
        blocks = list(self.blocks())
        if isinstance(blocks[0], tuple):
            return tuple(np.concatenate(leaves) for leaves in zip(*blocks, strict=True))
        return np.concatenate(blocks)


def cached(
    encode: Encode,
    images: Any,
    folder: str | os.PathLike,
    made_by: str,
    block: int = 256,
) -> Cached:
    """Encodes what is missing of a data set's latents; by one process.

    Args:
        encode: images [block, ...] -> mean and log variance, or vectors; compiled by the caller.
            The last block is filled up, so that one size is compiled.
        images: [N, ...], an array or a memory map.
        folder: absent, empty, or of the same latents.
        made_by: `fingerprint` of the encoder.
        block: examples at a time, in memory and in a folder.
    Returns:
        `Cached`. A block that was damaged since is set aside and encoded again.
    Raises:
        ValueError: if the folder holds latents of another first stage, of other images or in other
            blocks; if there are no images, or latents are not finite.
    """
    checks.count("block", block, of="examples")
    folder, num = files.local(folder), len(images)
    checks.count("images", num, of="examples")
    folder.mkdir(parents=True, exist_ok=True)
    notes = {
        number: {
            "made_by": made_by,
            "examples": [start, min(start + block, num), num],
            "images": tiled_matrix.digest(np.asarray(images[start : start + block])),
        }
        for number, start in enumerate(range(0, num, block))
    }
    missing = _missing(folder, notes)
    sealed_folders.delete_unfinished(folder)
    for number in missing:
        rows = np.minimum(np.arange(number * block, (number + 1) * block), num - 1)
        encoded = encode(np.asarray(images[rows[0] : rows[-1] + 1])[rows - rows[0]])
        kept = len(np.unique(rows))
        leaves = encoded if isinstance(encoded, tuple) else (encoded,)
        _write(folder, number, [np.asarray(leaf)[:kept] for leaf in leaves], notes[number])
    return Cached(folder, num, block)


def _missing(folder: pathlib.Path, notes: dict[int, dict]) -> list[int]:
    """The blocks to encode: absent ones, and damaged ones, which are set aside."""
    words = {"made_by": "made by another first stage", "examples": "in other blocks"}
    there = sealed_folders.numbers(folder)
    damaged = [number for number in there if sealed_folders.damage(folder / str(number))]
    for number in set(there) - set(damaged):
        found = sealed_folders.read_note(folder / str(number))
        for key in ("made_by", "examples", "images"):
            ours = notes.get(number, notes[0])[key]
            if found.get(key) != ours:
                what = words.get(key, "of other images")
                raise ValueError(f"{folder} holds latents {what}: {key} {found.get(key)} -> {ours}")
    for number in damaged:
        sealed_folders.set_aside(folder / str(number))
    return [number for number in notes if number not in there or number in damaged]


def _write(folder: pathlib.Path, number: int, leaves: list[np.ndarray], note: dict) -> None:
    place = sealed_folders.unfinished(folder, number, os.getpid())
    place.mkdir()
    for name, leaf in zip(_NAMES[len(leaves)], leaves, strict=True):
        leaf = leaf.astype(at_least_float32(leaf.dtype))  # no file format has bfloat16
        if not np.isfinite(leaf).all():
            raise ValueError(f"block {number} of images: {name} of its latents is not finite")
        np.save(place / f"{name}.npy", leaf)
    sealed_folders.seal(place, note)


def _read(place: pathlib.Path) -> Encoded:
    names = _NAMES[1 if (place / "vectors.npy").exists() else 2]
    leaves = tuple(np.load(place / f"{name}.npy") for name in names)
    return leaves if len(leaves) > 1 else leaves[0]
