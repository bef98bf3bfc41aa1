"""What both processes of `ntk.tiled` do, and the one that is killed in the middle of it."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from library.storage import tiled_matrix
from library.storage.tiled_matrix import Grid
from research import ntk
from research.ntk import layers

ROOT = pathlib.Path(__file__).parents[3]


def matrix_of(num_hidden: int):
    """(x1, x2) -> NTK [N1, N2] of an infinitely wide ReLU network."""
    hidden = [layers.dense(1, weight_std=2**0.5), layers.relu()] * num_hidden
    network = layers.serial(*hidden, layers.dense(1))
    return lambda a, b: network.kernel(a, b, get=("ntk",)).ntk


def work(folder: str, inputs: str, num_hidden: int, tile: int, doomed: bool = False) -> None:
    """What both processes do: fill what is missing of the kernel; a doomed one never finishes."""
    images = np.load(inputs)
    grid = Grid(len(images), len(images), tile, True)
    file = tiled_matrix.open_or_create(folder, grid, note=note(images))
    compute = ntk.tiles.compute(matrix_of(num_hidden), grid, images)
    # Before its last tile it waits, lest it end while its killer is looking elsewhere.
    wait = lambda left: time.sleep(600) if doomed and left == 1 else None
    tiled_matrix.fill(file, compute, on_tiles=wait)


def killed(
    folder: pathlib.Path, inputs: pathlib.Path, num_hidden: int, grid: Grid, share: float
) -> int:
    """Starts a process and kills it after this share of the tiles; the number of tiles it left."""
    process = subprocess.Popen(_command(folder, inputs, num_hidden, grid.tile), cwd=ROOT)
    enough = int(share * len(grid.tiles))
    done = folder / tiled_matrix.DONE
    try:
        while process.poll() is None:
            if done.exists() and done.read_bytes().count(1) >= enough:
                break
            time.sleep(0.01)
    finally:
        process.kill()  # SIGKILL
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"the first process ended by itself with status {process.returncode}")
    return done.read_bytes().count(1)


def _command(folder: pathlib.Path, inputs: pathlib.Path, num_hidden: int, tile: int) -> list[str]:
    arguments = str(folder.resolve()), str(inputs.resolve()), num_hidden, tile, True
    code = f"from experiments.ntk.tiled import worker; worker.work(*{arguments!r})"
    return [sys.executable, "-c", code]


def note(images: np.ndarray) -> dict[str, str]:
    """What a file of tiles says about itself; another kernel's file is refused."""
    return {"inputs": tiled_matrix.digest(images), "kernel": "ntk of a deep ReLU network"}
