"""A large matrix on disk, computed tile by tile: any order, killed at any time, gone on with later.

A folder holds `matrix.npy` (an ordinary NumPy file, allocated at once; `numpy.load(...,
mmap_mode="r")` reads it), `done` (a byte for every tile) and `grid.json` (the grid, the dtype and a
note of what is computed), which is written last and makes the folder whole. A tile reaches the disk
before its byte does. All writing goes through plain system calls, not through a memory map, whose
pages would count as this process's memory. Several processes may fill one folder, each its share.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from library import checks
from library.storage import files

MATRIX, DONE, GRID = "matrix.npy", "done", "grid.json"

Tile = tuple[int, int]  # row and column of blocks
Compute = Callable[[Sequence[Tile]], Any]  # tiles -> [K, tile, tile], cut at the matrix's edge


@dataclasses.dataclass(frozen=True)
class Grid:
    """A matrix cut into square tiles; those at the lower and right edge may stick out.

    Attributes:
        num_rows, num_columns: of the matrix.
        tile: rows and columns of a tile.
        symmetric: whether tiles below the diagonal are the transposed ones above it.
    Raises:
        ValueError: for a size that is no positive whole number, or a symmetric matrix of unequal
            sides.
    """

    num_rows: int
    num_columns: int
    tile: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name in ("num_rows", "num_columns", "tile"):
            checks.count(name, getattr(self, name))
        if self.symmetric and self.num_rows != self.num_columns:
            raise ValueError(f"{self}: a symmetric matrix is square")

    @property
    def tiles(self) -> list[Tile]:
        """The tiles to compute, in the order of their numbers."""
        rows, columns = (-(-n // self.tile) for n in (self.num_rows, self.num_columns))
        return [
            (row, column)
            for row in range(rows)
            for column in range(row if self.symmetric else 0, columns)
        ]

    def rows(self, row: int) -> slice:
        """The matrix rows of a row of tiles."""
        return slice(row * self.tile, min((row + 1) * self.tile, self.num_rows))

    def columns(self, column: int) -> slice:
        """The matrix columns of a column of tiles."""
        return slice(column * self.tile, min((column + 1) * self.tile, self.num_columns))

    def share(self, index: int, count: int) -> list[Tile]:
        """The tiles of worker `index` of `count`: all cost alike, numbers differ by one at most.

        Raises:
            ValueError: if there is no such worker.
        """
        if not 0 <= index < count:
            raise ValueError(f"share {index} of {count}: expected 0 to {count - 1}")
        return self.tiles[index::count]


@dataclasses.dataclass(frozen=True)
class TiledMatrix:
    """The matrix of one folder; `open_or_create` makes it."""

    folder: pathlib.Path
    grid: Grid
    dtype: np.dtype
    offset: int  # bytes of the header of the NumPy file

    @property
    def path(self) -> pathlib.Path:
        """The NumPy file."""
        return self.folder / MATRIX

    def missing(self, share: tuple[int, int] = (0, 1)) -> list[Tile]:
        """The tiles of a share that are not on the disk yet."""
        done = (self.folder / DONE).read_bytes()
        number = {tile: index for index, tile in enumerate(self.grid.tiles)}
        return [tile for tile in self.grid.share(*share) if not done[number[tile]]]

    def write(self, tile: Tile, block: np.ndarray) -> None:
        """Writes a tile [tile, tile] (and its transposed, if symmetric) and marks it as done."""
        rows, columns = self.grid.rows(tile[0]), self.grid.columns(tile[1])
        block = np.asarray(block)[: rows.stop - rows.start, : columns.stop - columns.start]
        if not np.isfinite(block).all():
            raise ValueError(f"tile {tile} holds entries that are not finite")
        with open(self.path, "r+b", buffering=0) as file:
            self._put(file.fileno(), rows.start, columns.start, block)
            if self.grid.symmetric and tile[0] != tile[1]:
                self._put(file.fileno(), columns.start, rows.start, block.T)
            os.fsync(file.fileno())
        with open(self.folder / DONE, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"\1", self.grid.tiles.index(tile))

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [stop - start, num_columns], read anew.

        Raises:
            ValueError: if tiles are missing or the file was cut short.
        """
        width = self.grid.num_columns * self.dtype.itemsize
        block = np.empty((stop - start, self.grid.num_columns), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + start * width)
            view = memoryview(block).cast("B")
            while view:
                count = file.readinto(view)
                if not count:
                    raise ValueError(f"{self.path} ends before row {stop}")
                view = view[count:]
        return block

    def strips(self, memory_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in strips of at most this many bytes: (first row, [R, num_columns]).

        Raises:
            ValueError: if tiles are missing or the bound is smaller than one row.
        """
        if self.missing():
            raise ValueError(f"{self.folder} lacks {len(self.missing())} of its tiles: fill it")
        width = self.grid.num_columns * self.dtype.itemsize
        if memory_bytes < width:
            raise ValueError(f"memory_bytes={memory_bytes}: one row has {width} bytes")
        step = memory_bytes // width
        for start in range(0, self.grid.num_rows, step):
            yield start, self.read_rows(start, min(start + step, self.grid.num_rows))

    def _put(self, handle: int, row: int, column: int, block: np.ndarray) -> None:
        for index, line in enumerate(block):
            place = (row + index) * self.grid.num_columns + column
            data = memoryview(np.ascontiguousarray(line, self.dtype)).cast("B")
            written = os.pwrite(handle, data, self.offset + place * self.dtype.itemsize)
            if written != len(data):
                raise OSError(f"{self.path}: wrote {written} of {len(data)} bytes (disk full?)")


def open_or_create(
    folder: str | os.PathLike,
    grid: Grid,
    dtype: Any = np.float32,
    note: Mapping[str, Any] | None = None,
) -> TiledMatrix:
    """The matrix of a folder: a new one, or the same one to be gone on with.

    Args:
        folder: absent, empty, or of the same matrix.
        grid: of the matrix.
        dtype: of its entries on the disk.
        note: JSON values that say what is computed, e.g. `{"inputs": digest(x)}`; a folder with
            another note is refused.
    Returns:
        `TiledMatrix`.
    Raises:
        ValueError: if the folder holds another matrix or something else; nothing is written then.
        OSError: if the disk lacks the room.
    """
    folder, dtype = files.local(folder), np.dtype(dtype)
    record = {"grid": dataclasses.asdict(grid), "dtype": dtype.str, "note": dict(note or {})}
    record = files.jsonable(record)
    if (folder / GRID).exists():
        theirs = files.read_json(folder / GRID)
        differing = [key for key in record if theirs.get(key) != record[key]]
        if differing:
            pairs = "; ".join(f"{key} {theirs.get(key)} -> {record[key]}" for key in differing)
            raise ValueError(f"{folder} holds another matrix (theirs -> yours): {pairs}")
        return TiledMatrix(folder, grid, dtype, _header_bytes(folder / MATRIX, grid, dtype))
    strangers = [p.name for p in folder.glob("*") if p.name not in (MATRIX, DONE)]
    strangers = [name for name in strangers if not name.startswith(files.TEMPORARY)]
    if strangers:
        raise ValueError(f"{folder} is no tiled matrix and not empty: it holds {strangers[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    _allocate(folder / MATRIX, grid, dtype)
    files.write_atomic(folder / DONE, bytes(len(grid.tiles)))
    files.write_json(folder / GRID, record)
    return TiledMatrix(folder, grid, dtype, _header_bytes(folder / MATRIX, grid, dtype))


def fill(
    matrix: TiledMatrix,
    compute: Compute,
    *,
    at_once: int = 1,
    share: tuple[int, int] = (0, 1),
    on_tiles: Callable[[int], None] = lambda left: None,
) -> TiledMatrix:
    """Computes and writes what is missing of a share; tiles written before stay as they are.

    Args:
        matrix: from `open_or_create`.
        compute: tiles -> blocks [K, tile, tile]; it always gets `at_once` tiles, the last of them
            repeated if fewer are left.
        at_once: K, e.g. the number of devices.
        share: (index, count) of this process among those that fill the folder.
        on_tiles: is told how many tiles are left, after each writing.
    Returns:
        The matrix.
    Raises:
        ValueError: if a block holds entries that are not finite, or `at_once` is below 1.
    """
    checks.count("at_once", at_once, of="tiles")
    missing = matrix.missing(share)
    for start in range(0, len(missing), at_once):
        tiles = missing[start : start + at_once]
        padded = [*tiles, *[tiles[-1]] * (at_once - len(tiles))]
        for tile, block in zip(tiles, compute(padded)):
            matrix.write(tile, block)
        on_tiles(len(missing) - start - len(tiles))
    return matrix


def digest(*arrays: Any) -> str:
    """A short hash of arrays' shapes, dtypes and bytes, for a note."""
    result = hashlib.blake2b(digest_size=16)
    for array in arrays:
        array = np.ascontiguousarray(array)
        result.update(f"{array.shape} {array.dtype.str}".encode())
        result.update(memoryview(array).cast("B"))
    return result.hexdigest()


def _allocate(path: pathlib.Path, grid: Grid, dtype: np.dtype) -> None:
    """A NumPy file of zeros; the file system stores no zeros until they are written."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": _shape(grid)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        size = grid.num_rows * grid.num_columns * dtype.itemsize
        file.truncate(file.tell() + size)
    free = os.statvfs(path.parent)
    if free.f_bavail * free.f_frsize < size:
        path.unlink()
        raise OSError(f"{path} needs {size} bytes, {free.f_bavail * free.f_frsize} are free")


def _header_bytes(path: pathlib.Path, grid: Grid, dtype: np.dtype) -> int:
    """The length of the header of a NumPy file, checked."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
        if (shape, fortran, found) != (_shape(grid), False, dtype):
            raise ValueError(f"{path} holds {shape} {found}: expected {_shape(grid)} {dtype}")
        return file.tell()


def _shape(grid: Grid) -> tuple[int, int]:
    return grid.num_rows, grid.num_columns
