"""A matrix on disk by tiles: whole or known to be missing, whenever its writer died."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from library.storage import tiled_matrix
from library.storage.tiled_matrix import Grid

ROOT = pathlib.Path(__file__).parents[3]
GRID = Grid(23, 23, 5, True)
MATRIX = np.add.outer(np.arange(23.0), np.arange(23.0)) ** 2


def compute(tiles, grid=GRID, matrix=MATRIX):
    """Blocks of a known matrix, with rubbish beyond its edge."""
    for row, column in tiles:
        block = np.full((grid.tile, grid.tile), 1e9)
        part = matrix[grid.rows(row), grid.columns(column)]
        block[: part.shape[0], : part.shape[1]] = part
        yield block


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_filled_file_is_the_matrix(tmp_path, symmetric, at_once, dtype):
    grid = Grid(23, 23 if symmetric else 17, 5, symmetric)
    expected = MATRIX[:, : grid.num_columns]
    file = tiled_matrix.open_or_create(tmp_path / "m", grid, dtype)
    left, sizes = [], set()

    def watched(tiles):
        sizes.add(len(tiles))
        return compute(tiles, grid, expected)

    tiled_matrix.fill(file, watched, at_once=at_once, on_tiles=left.append)
    found = np.load(file.path, mmap_mode="r")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    assert left[-1] == 0 and sizes == {at_once} and not file.missing()


def test_symmetric_halves_are_computed_once(tmp_path):
    seen = []
    file = tiled_matrix.open_or_create(tmp_path / "m", GRID)
    tiled_matrix.fill(file, lambda tiles: seen.extend(tiles) or compute(tiles))
    assert len(seen) == len(set(seen)) == 15
    assert all(row <= column for row, column in seen)


def test_an_interruption_loses_the_tile_in_work_only(tmp_path):
    seen = []

    def fails_later(tiles):
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.extend(tiles)
        return compute(tiles)

    file = tiled_matrix.open_or_create(tmp_path / "m", GRID)
    with pytest.raises(KeyboardInterrupt):
        tiled_matrix.fill(file, fails_later)
    again = tiled_matrix.open_or_create(tmp_path / "m", GRID)
    assert again.missing() == GRID.tiles[6:]
    tiled_matrix.fill(again, compute)
    np.testing.assert_array_equal(np.load(again.path), MATRIX)


def test_shares_of_two_processes_fill_one_file(tmp_path):
    files = [tiled_matrix.open_or_create(tmp_path / "m", GRID) for _ in range(2)]
    tiled_matrix.fill(files[1], compute, share=(1, 2))
    assert len(files[0].missing()) == 8 and not files[0].missing((1, 2))
    tiled_matrix.fill(files[0], compute, share=(0, 2))
    np.testing.assert_array_equal(np.load(files[0].path), MATRIX)


WORKER = """
import sys, time
import numpy as np
from library.storage import tiled_matrix
grid = tiled_matrix.Grid(600, 600, 20, True)
file = tiled_matrix.open_or_create(sys.argv[1], grid, np.float64)
def compute(tiles):
    time.sleep(0.002)
    return [np.full((20, 20), 1.0 + 30 * row + column) for row, column in tiles]
tiled_matrix.fill(file, compute)
"""


def test_killed_at_any_moment_and_resumed(tmp_path):
    """SIGKILL in the middle, twice; what is marked as done is right, the rest is done later."""
    grid, folder = Grid(600, 600, 20, True), tmp_path / "m"
    command = [sys.executable, "-c", WORKER, str(folder)]
    before = 0
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        while not (folder / "done").exists() or (folder / "done").read_bytes().count(1) < (
            before + 40
        ):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        file = tiled_matrix.open_or_create(folder, grid, np.float64)
        missing, found = set(file.missing()), np.load(file.path)
        before = len(grid.tiles) - len(missing)
        assert 0 < len(missing) < len(grid.tiles)
        for row, column in set(grid.tiles) - missing:
            block = found[grid.rows(row), grid.columns(column)]
            np.testing.assert_array_equal(block, 1.0 + 30 * row + column)
            np.testing.assert_array_equal(found[grid.rows(column), grid.columns(row)], block.T)
    subprocess.run(command, cwd=ROOT, check=True)
    values = np.load(file.path)[::20, ::20]
    expected = np.add.outer(30 * np.arange(30.0), np.arange(30.0)) + 1
    np.testing.assert_array_equal(np.triu(values), np.triu(expected))
    np.testing.assert_array_equal(values, values.T)


def test_strips_are_the_rows_and_need_all_tiles(tmp_path):
    file = tiled_matrix.open_or_create(tmp_path / "m", GRID, np.float64)
    with pytest.raises(ValueError, match="lacks 15 of its tiles"):
        next(file.strips(10**6))
    tiled_matrix.fill(file, compute)
    strips = list(file.strips(memory_bytes=4 * 23 * 8 + 1))
    assert [start for start, _ in strips] == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in strips]), MATRIX)
    with pytest.raises(ValueError, match="memory_bytes=10: one row has 184 bytes"):
        next(file.strips(10))


def test_another_matrix_is_refused_and_nothing_is_written(tmp_path):
    x = np.arange(3.0)
    note = {"inputs": tiled_matrix.digest(x)}
    tiled_matrix.fill(tiled_matrix.open_or_create(tmp_path / "m", GRID, note=note), compute)
    before = (tmp_path / "m" / "matrix.npy").read_bytes()
    for change in ({"grid": Grid(23, 23, 6, True)}, {"dtype": np.float64}, {"note": {}}):
        arguments = {"grid": GRID, "dtype": np.float32, "note": note} | change
        with pytest.raises(ValueError, match=f"another matrix.*{next(iter(change))}"):
            tiled_matrix.open_or_create(tmp_path / "m", **arguments)
    assert (tmp_path / "m" / "matrix.npy").read_bytes() == before
    assert tiled_matrix.digest(x) != tiled_matrix.digest(x + 1) != tiled_matrix.digest(x[:, None])


def test_folders_of_other_things_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds thesis.txt"):
        tiled_matrix.open_or_create(tmp_path, GRID)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nan_is_not_stored(tmp_path):
    file = tiled_matrix.open_or_create(tmp_path / "m", GRID)
    with pytest.raises(ValueError, match=r"tile \(0, 0\) holds entries that are not finite"):
        tiled_matrix.fill(file, lambda tiles: [np.full((5, 5), np.nan)])
    assert len(file.missing()) == 15


def test_a_cut_file_is_noticed(tmp_path):
    file = tiled_matrix.fill(tiled_matrix.open_or_create(tmp_path / "m", GRID), compute)
    os.truncate(file.path, file.path.stat().st_size - 8)
    with pytest.raises(ValueError, match="ends before row 23"):
        file.read_rows(20, 23)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Grid(0, 3, 1), "num_rows=0: expected a positive whole number"),
        (lambda: Grid(3, 2.0, 1), "num_columns=2.0"),
        (lambda: Grid(3, 3, -1), "tile=-1"),
        (lambda: Grid(3, 4, 1, symmetric=True), "a symmetric matrix is square"),
        (lambda: GRID.share(3, 3), "share 3 of 3: expected 0 to 2"),
        (lambda: GRID.share(-1, 3), "share -1 of 3"),
        (lambda: tiled_matrix.fill(None, compute, at_once=0), "at_once=0: expected a positive"),
    ],
)
def test_sizes_and_shares_that_cannot_be_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_of_another_shape_and_a_full_disk_are_named(tmp_path, monkeypatch):
    file = tiled_matrix.open_or_create(tmp_path / "m", GRID)
    monkeypatch.setattr(tiled_matrix.os, "pwrite", lambda handle, data, place: len(data) - 1)
    with pytest.raises(OSError, match=r"matrix.npy: wrote 19 of 20 bytes \(disk full\?\)"):
        file.write((0, 0), np.zeros((5, 5)))
    np.save(file.path, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"holds \(2, 3\) float32: expected \(23, 23\) float32"):
        tiled_matrix.open_or_create(tmp_path / "m", GRID)
    monkeypatch.setattr(
        tiled_matrix.os, "statvfs", lambda _: types.SimpleNamespace(f_bavail=2, f_frsize=512)
    )
    with pytest.raises(OSError, match="needs 2116 bytes, 1024 are free"):
        tiled_matrix.open_or_create(tmp_path / "other", GRID)
    assert not (tmp_path / "other" / "matrix.npy").exists()
