"""Does a kernel that fits no memory come out right, on disk, within a bound, after a kill?

Claims: the NTK of 20,000 MNIST images under an infinite fully connected network of five hidden
layers is written in tiles by a process that SIGKILL ends in the middle and by this one, which goes
on; the peak resident memory of both stays below 2 GB; every tile equals an uninterrupted
computation to the bit. Cost: 4 minutes on 2 CPU cores, 1.6 GB of disk, freed at the end.
    python -m experiments ntk.tiled

The bound is the whole process's: what Python, JAX and the images hold is taken from it before the
tiles are planned.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import shutil
import time
from typing import Literal

import numpy as np

from experiments.ntk.tiled import worker
from library import claims, report
from library.data.sets import digits, mnist
from library.storage import tiled_matrix
from library.storage.tiled_matrix import Grid, TiledMatrix
from research import ntk

WHOLE = claims.theorem("a matrix that is filled has all of its tiles")
BOUND = claims.bar("memory_bytes, the bound that the tiles were planned for")
AGAIN = claims.baseline("the same tiles computed again in this process")


@dataclasses.dataclass(frozen=True)
class Config:
    """Size of the kernel, the bound, and when to kill."""

    dataset: Literal["mnist", "digits"] = "mnist"  # whose first images
    num_images: int = 20_000  # rows of the kernel
    memory_bytes: int = 2_000_000_000  # bound on the resident memory of each process
    num_hidden: int = 5  # layers of ReLU
    largest_tile: int = 2048  # rows of a tile at most, whatever the bound allows
    kill_after: float = 0.4  # share of the tiles that the first process finishes


PRESETS = {
    # The bound is on whole processes, and tests run this one in a process that holds more.
    "smoke": Config(
        dataset="digits", num_images=200, memory_bytes=16_000_000_000, largest_tile=40, num_hidden=1
    ),
    "default": Config(),
    "accelerator": Config(num_images=60_000, memory_bytes=16_000_000_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Fills the kernel in two processes, one of them killed, and compares it tile by tile."""
    images = read_images(config)
    grid = _plan(config, images)
    folder, inputs = out.path / "kernel", out.path / "images.npy"
    np.save(inputs, images)
    start = time.perf_counter()
    try:
        done = worker.killed(folder, inputs, config.num_hidden, grid, config.kill_after)
        worker.work(str(folder), str(inputs), config.num_hidden, grid.tile)
        seconds = time.perf_counter() - start
        peak = _peak_bytes()
        file = tiled_matrix.open_or_create(folder, grid, note=worker.note(images))
        missing = len(file.missing())
        worst = _worst_difference(config, images, file)
    finally:
        inputs.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    metrics = {
        "seconds_of_both_processes": seconds,
        "peak_bytes": peak,
        "tile": grid.tile,
        "num_tiles": len(grid.tiles),
        "tiles_before_the_kill": done,
        "kernel_bytes": 4 * config.num_images**2,
    }
    stated = [
        claims.exactly("tiles missing after the resume", missing, 0, source=WHOLE),
        claims.at_most("peak resident memory, bytes", peak, config.memory_bytes, source=BOUND),
        claims.exactly("largest difference from an uninterrupted run", worst, 0.0, source=AGAIN),
    ]
    return claims.Result(metrics, stated)


def read_images(config: Config) -> np.ndarray:
    """[N, D] float32, unit norm times sqrt(D)."""
    arrays = {"mnist": mnist, "digits": digits}[config.dataset].arrays("train")["image"]
    x = arrays[: config.num_images].reshape(config.num_images, -1).astype(np.float32)
    return x * np.float32(x.shape[1] ** 0.5) / np.linalg.norm(x, axis=1, keepdims=True)


def _plan(config: Config, images: np.ndarray) -> Grid:
    """Tiles of what the bound leaves beside this process, which holds more than the other."""
    bytes_of = ntk.tiles.tile_bytes(worker.matrix_of(config.num_hidden), images)
    bytes_of(min(64, config.num_images))  # loads the compiler before the process is measured
    held = _resident_bytes() + images.nbytes
    if held >= config.memory_bytes:
        raise ValueError(
            f"memory_bytes={config.memory_bytes}: Python, JAX and the images hold {held} bytes"
        )
    # A tenth stays free: allocators and the next block of inputs round up.
    room = int(0.9 * (config.memory_bytes - held))
    return ntk.tiles.plan(
        config.num_images, memory_bytes=room, bytes_of=bytes_of, largest=config.largest_tile
    )


def _worst_difference(config: Config, images: np.ndarray, file: TiledMatrix) -> float:
    """Largest absolute difference between the file and tiles computed here, both halves."""
    compute = ntk.tiles.compute(worker.matrix_of(config.num_hidden), file.grid, images)
    stored, worst = np.load(file.path, mmap_mode="r"), 0.0
    for tile in file.grid.tiles:
        rows, columns = file.grid.rows(tile[0]), file.grid.columns(tile[1])
        block = compute([tile])[0, : rows.stop - rows.start, : columns.stop - columns.start]
        for found in (stored[rows, columns], stored[columns, rows].T):
            worst = max(worst, float(np.abs(found - block).max()))
    return worst


def _peak_bytes() -> int:
    """Largest resident memory that this process or the other has had."""
    both = resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF
    return max(resource.getrusage(who).ru_maxrss for who in both) * 1024


def _resident_bytes() -> int:
    """Resident memory now, or its peak where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
