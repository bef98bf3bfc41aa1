"""MNIST: 60,000 training and 10,000 test images 28 x 28 x 1 of digits, from the four idx files.

LeCun, Cortes and Burges (LeCun et al. 1998, Gradient-based learning applied to document
recognition). The files are looked for in `images/mnist` under `ANSATZ_DATA`, else downloaded by
TFDS. Either way what counts is the SHA-256 of the *unpacked* file, so a copy that was compressed
again is as good as the original.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from library.data import builders, pipeline, sources

SPLITS = {"train": 60_000, "test": 10_000}
MAX_VALUE = 255
FOLDER = "images/mnist"
ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"
PREFIX = {"train": "train", "test": "t10k"}

# File: size and SHA-256 of the original .gz at the address, SHA-256 of the unpacked file.
FILES = {
    "train-images-idx3-ubyte.gz": (
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte.gz": (
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte.gz": (
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def source(split: str, folder: sources.PathLike | None = None) -> sources.PreparedSource:
    """The split as a random-access source of {"image": [28, 28, 1] uint8, "label": int}.

    Args:
        split: "train", "test" or a TFDS slice of one such as "train[:10000]", in the files' order.
        folder: where prepared sets are kept, the cache folder when None.
    Raises:
        FileNotFoundError: if the files are neither there nor to be had.
        ModuleNotFoundError: if TFDS is not installed.
        ValueError: for an unknown split or a damaged file.
    """
    return sources.open_split(builder(), split, folder)


def arrays(split: str, folder: sources.PathLike | None = None) -> dict[str, np.ndarray]:
    """The split in memory: {"image": [N, 28, 28, 1] uint8, "label": [N] int32}.

    Straight from the idx files where they are under `ANSATZ_DATA`, else through TFDS.

    Raises:
        As `source`.
    """
    if split not in SPLITS:
        raise ValueError(f"data set 'mnist' has the splits {sorted(SPLITS)}, not {split!r}")
    paths = local_files()
    if paths is None:
        return pipeline.in_memory(source(split, folder))
    return read_split(paths, split)


def builder() -> type:
    """The TFDS builder: from the files under `ANSATZ_DATA`, else downloaded and checked by TFDS.

    Raises:
        ModuleNotFoundError: if TFDS is not installed.
    """
    downloads = [
        builders.Download(ADDRESS + name, name, size, sha256)
        for name, (size, sha256, _) in FILES.items()
    ]
    classes = [str(label) for label in range(10)]
    return builders.image_set("mnist", __doc__, (28, 28, 1), classes, _read, downloads)


def local_files() -> dict[str, sources.Path] | None:
    """The four files under `ANSATZ_DATA`, or None where they are not."""
    paths = sources.find("mnist", wanted_files())
    return None if paths is None else dict(zip(FILES, paths))


def wanted_files() -> list[str]:
    """The paths of the four files relative to `ANSATZ_DATA`."""
    return [f"{FOLDER}/{name}" for name in FILES]


def read_split(paths: Mapping[str, sources.PathLike], split: str) -> dict[str, np.ndarray]:
    """The arrays of a split from the checked idx files.

    Args:
        paths: by the names in `FILES`.
        split: "train" or "test".
    Returns:
        {"image": [N, 28, 28, 1] uint8, "label": [N] int32}.
    Raises:
        ValueError: for a file that is damaged or another one.
    """
    names = [f"{PREFIX[split]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    images, labels = (read_idx(paths[name], sha256=FILES[name][2]) for name in names)
    return {"image": images[..., np.newaxis], "label": labels.astype(np.int32)}


def read_idx(file: sources.PathLike | bytes, sha256: str | None = None) -> np.ndarray:
    """The array in an idx file, gzipped or not.

    The format: two zero bytes, a type code, the number of axes, each axis as a big-endian uint32,
    then the values, big-endian, last axis fastest.

    Args:
        file: a path, or the bytes of a file.
        sha256: expected hex digest of the unpacked file; None skips that check.
    Returns:
        The array, in the machine's byte order.
    Raises:
        FileNotFoundError: if the path is not there.
        ValueError: naming the file, what was found and what was expected.
    """
    name = "idx bytes" if isinstance(file, bytes) else os.fspath(file)
    raw = file if isinstance(file, bytes) else sources.Path(file).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = _unzip(name, raw)
    num_axes = raw[3] if len(raw) > 3 else 0
    header = 4 + 4 * num_axes
    if raw[:2] != b"\0\0" or len(raw) < header or raw[2] not in _IDX_DTYPES:
        raise ValueError(
            f"{name} is not an idx file: it starts with {raw[:4].hex(' ') or 'nothing'}, "
            "expected 00 00, a type code and the number of axes"
        )
    dtype = np.dtype(_IDX_DTYPES[raw[2]])
    shape = tuple(np.frombuffer(raw, ">u4", num_axes, offset=4).tolist())
    expected = header + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(
            f"{name} has {len(raw)} bytes unpacked, expected {expected} for the shape {shape}"
        )
    if sha256 is not None and (found := hashlib.sha256(raw).hexdigest()) != sha256:
        raise ValueError(f"{name} unpacks to SHA-256 {found}, expected {sha256}")
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def _read(dl_manager: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    paths = local_files()
    if paths is None:
        urls = {name: ADDRESS + name for name in FILES}
        paths = sources.download(dl_manager, "mnist", urls, wanted_files())
    return {split: tuple(read_split(paths, split).values()) for split in SPLITS}


def _unzip(name: str, raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name} is a truncated or damaged gzip file ({error})") from error
