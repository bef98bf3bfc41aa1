"""Positions of patches in tables with a row for a class token: fixed sines, bicubic resizing."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from library.types import Array, at_least_float32


def sincos(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions of MAE (He et al. 2022, arXiv:2111.06377), a class token's being zero.

    Sines, then cosines, of the column, and of the row; frequencies 10,000^(-4 i / D). Its code says
    rows first and does columns first, and so do its checkpoints.

    Args:
        rows, columns: of the grid.
        width: D, a multiple of 4.
    Returns:
        [1, 1 + rows columns, D] float64.
    Raises:
        ValueError: for another width.
    """
    if width < 4 or width % 4:
        raise ValueError(f"width={width}: expected a multiple of 4")
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4))  # [D/4]
    y, x = (axis.ravel()[:, None] * frequencies for axis in np.mgrid[:rows, :columns])
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    return np.pad(table, ((1, 0), (0, 0)))[None]


def interpolate(table: Array, grid: tuple[int, int], new_grid: tuple[int, int]) -> Array:
    """The table for another grid of patches, as Hugging Face's DINOv2 and ViT-MAE make it.

    PyTorch's "bicubic" without antialiasing: Keys' kernel with a = -3/4 at the centres of pixels,
    places beyond the border read there. `vit.resize_positions` is another kernel.

    Args:
        table: [1, 1 + N, D] float; the first row is a class token's and stays.
        grid: rows and columns of the N old places.
        new_grid: rows and columns of the new ones.
    Returns:
        [1, 1 + rows columns, D], of the dtype of the table, and the table itself for the same grid.
    Raises:
        ValueError: for another number of places than `grid` has.
    """
    if table.shape[1] != 1 + math.prod(grid) or min(*grid, *new_grid) < 1:
        raise ValueError(
            f"positions {table.shape}, grid={grid}, new_grid={new_grid}: expected 1 + rows columns "
            "of them, and sizes of at least 1"
        )
    if grid == new_grid:
        return table
    table = jnp.asarray(table)
    places = table[0, 1:].reshape(*grid, -1).astype(at_least_float32(table))
    for axis in (0, 1):
        weights = jnp.asarray(_bicubic(grid[axis], new_grid[axis]), places.dtype)
        places = jnp.einsum("no,omd->nmd", weights, places, precision="highest").swapaxes(0, 1)
    places = places.reshape(1, -1, table.shape[-1]).astype(table.dtype)
    return jnp.concatenate([table[:, :1], places], axis=1)


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old] float64: weights of the old places in each new one."""
    weights = np.zeros((new, old))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int)
    a = -0.75
    for offset in range(-1, 3):
        x = np.abs(centres - first - offset)
        near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        column = np.clip(first + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), np.where(x <= 1, near, far))
    return weights
