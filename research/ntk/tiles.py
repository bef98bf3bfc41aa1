"""Kernels larger than memory: how large a tile may be, and what computes tiles on all devices.

A `Matrix` is any function (x1, x2) -> [N1, N2] on numbers of examples of its own choice:

    lambda a, b: net.kernel(a, b, get=("ntk",)).ntk
    lambda a, b: ntk.empirical(model.apply, params, a, b, outputs="trace")

Entries are computed in the dtype of the inputs, float32 at least, and stored so; whatever sums
over many of them, such as the products of `research.ntk.kernel_systems`, sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from library.storage.tiled_matrix import Grid, Tile
from library.types import Array, PyTree
from research.ntk import checks

Matrix = Callable[[PyTree, PyTree], Array]  # (x1, x2) -> [N1, N2]


def plan(
    num_rows: int,
    num_columns: int | None = None,
    *,
    memory_bytes: int,
    bytes_of: Callable[[int], int],
    smallest: int = 1,
    largest: int = 2048,
) -> Grid:
    """The grid of the largest tiles that a memory bound allows, evened out over the matrix.

    Args:
        num_rows: N1.
        num_columns: N2; None for a symmetric matrix, whose halves are computed once.
        memory_bytes: what the tiles in work may take.
        bytes_of: size of a tile -> the memory its computation takes, growing with the size; see
            `tile_bytes`. It is called a few times.
        smallest: tile that is still worth computing.
        largest: tile beyond which nothing is gained: calls are cheap beside it, while the tiles on
            the diagonal of a symmetric matrix do double work and a kill loses more.
    Returns:
        `Grid`.
    Raises:
        ValueError: if a size is no positive whole number, or the smallest tile does not fit,
            naming both sizes in bytes.
    """
    for name, number in (("num_rows", num_rows), ("smallest", smallest), ("largest", largest)):
        checks.count(name, number)
    if num_columns is not None:
        checks.count("num_columns", num_columns)
    length = max(num_rows, num_columns or 0)
    largest = min(length, max(smallest, largest))
    size, fits = min(max(smallest, 64), largest), 0
    for _ in range(24):  # memory grows like the size or its square: a few steps suffice
        needed = bytes_of(size)
        if needed <= memory_bytes:
            fits = max(fits, size)
        guess = int(size * (memory_bytes / needed) ** 0.5)
        guess = min(guess, largest) if needed <= memory_bytes else min(guess, size - 1)
        if guess <= 1.02 * fits or guess < smallest:
            break
        size = guess
    if not fits:
        size = min(smallest, largest)
        needed = bytes_of(size)
        if needed > memory_bytes:
            raise ValueError(
                f"memory_bytes={memory_bytes} is too small for one tile of {size} x {size}, "
                f"which needs {needed} bytes"
            )
        fits = size
    num_blocks = -(-length // fits)
    return Grid(num_rows, num_columns or num_rows, -(-length // num_blocks), num_columns is None)


def tile_bytes(matrix: Matrix, x1: PyTree, x2: PyTree | None = None, dtype: np.dtype = np.float32):
    """Size of a tile -> bytes: what XLA says the tile takes, and twice its block on the host.

    Args:
        matrix: (x1, x2) -> [N1, N2].
        x1, x2: inputs, or their shapes; x2 is x1 when None.
        dtype: of the stored entries.
    Returns:
        A function for `plan`; each call compiles once.
    """

    def shapes(x: PyTree, size: int) -> PyTree:
        return jax.tree.map(lambda leaf: checks.shape_of(leaf, (size, *leaf.shape[1:])), x)

    def bytes_of(size: int) -> int:
        inputs = shapes(x1, size), shapes(x1 if x2 is None else x2, size)
        found = jax.jit(matrix).lower(*inputs).compile().memory_analysis()
        device = (
            found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        )
        return device + 2 * checks.size_bytes((size, size), dtype)

    return bytes_of


def compute(
    matrix: Matrix,
    grid: Grid,
    x1: PyTree,
    x2: PyTree | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Sequence[Tile]], np.ndarray]:
    """What `tiled_files.fill` calls: tiles -> their blocks, one tile on each device.

    Args:
        matrix: (x1, x2) -> [N1, N2]; compiled once, for one tile.
        grid: of the whole kernel.
        x1, x2: all examples, leaves [N, ...], kept on the host; x2 is x1 when None.
        mesh: its devices share the tiles; None computes one after the other. Pass its size as
            `at_once` to `fill`.
    Returns:
        (tiles, as many as the mesh has devices, or one) -> [K, tile, tile]; of a symmetric grid
        those on the diagonal are symmetric to the bit, and so is the whole then.
    Raises:
        ValueError: if the inputs are not those of the grid, or the number of tiles is not K.
    """
    checks.same_examples(x1, x2)
    symmetric = x2 is None
    x1 = jax.tree.map(np.asarray, x1)
    x2 = x1 if x2 is None else jax.tree.map(np.asarray, x2)
    sizes = checks.num_examples(x1, "x1"), checks.num_examples(x2, "x2")
    if sizes != (grid.num_rows, grid.num_columns) or (grid.symmetric and not symmetric):
        raise ValueError(f"x1 and x2 hold {sizes[0]} and {sizes[1]} examples: {grid} is another")
    num = 1 if mesh is None else mesh.size
    run = jax.jit(_on_devices(matrix, mesh))

    def blocks(tiles: Sequence[Tile]) -> np.ndarray:
        if len(tiles) != num:
            raise ValueError(f"got {len(tiles)} tiles at once: expected {num}, one per device")
        rows = [_block(x1, grid.rows(row), grid.tile) for row, _ in tiles]
        columns = [_block(x2, grid.columns(column), grid.tile) for _, column in tiles]
        stack = lambda parts: jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        found = np.asarray(run(stack(rows), stack(columns)))  # [K, tile, tile]
        return _mirrored(found, tiles) if grid.symmetric else found

    return blocks


def _mirrored(blocks: np.ndarray, tiles: Sequence[Tile]) -> np.ndarray:
    """Blocks on the diagonal with their upper halves below it too.

    The function that computes them does not know that rows and columns are the same examples, and
    an entry of nearly equal examples may round differently from its transposed one.
    """
    diagonal = [index for index, (row, column) in enumerate(tiles) if row == column]
    blocks = np.array(blocks) if diagonal else blocks
    for index in diagonal:
        block = blocks[index]
        for row in range(len(block)):
            block[row + 1 :, row] = block[row, row + 1 :]
    return blocks


def _on_devices(matrix: Matrix, mesh: jax.sharding.Mesh | None) -> Callable:
    """[K, tile, ...] pairs -> [K, tile, tile], one a device."""

    def one(rows: PyTree, columns: PyTree) -> Array:
        first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
        return matrix(first(rows), first(columns))[None]

    if mesh is None:
        return one
    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(one, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)


def _block(x: PyTree, where: slice, size: int) -> PyTree:
    """Examples of a tile, the last one repeated where the matrix ends."""
    index = np.minimum(np.arange(where.start, where.start + size), where.stop - 1)
    return jax.tree.map(lambda leaf: leaf[index], x)


def whole(matrix: Matrix, x1: PyTree, x2: PyTree | None = None, *, tile: int) -> Array:
    """The kernel [N1, N2] in memory, from tiles of one compiled size; halves computed once.

    Args: as in `compute`.
    Raises:
        ValueError: as `compute`.
    """
    checks.count("tile", tile)
    num1 = checks.num_examples(x1, "x1")
    num2 = num1 if x2 is None else checks.num_examples(x2, "x2")
    grid = Grid(num1, num2, min(tile, max(num1, num2)), x2 is None)
    blocks = compute(matrix, grid, x1, x2)
    result = None
    for tile_ in grid.tiles:
        rows, columns = grid.rows(tile_[0]), grid.columns(tile_[1])
        block = blocks([tile_])[0, : rows.stop - rows.start, : columns.stop - columns.start]
        result = np.empty((num1, num2), block.dtype) if result is None else result
        result[rows, columns] = block
        if grid.symmetric:
            result[columns, rows] = block.T
    return jnp.asarray(result)
