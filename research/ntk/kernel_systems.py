"""Kernel systems (K + ridge) a = y without a decomposition: conjugate gradients on tiles.

The products read the kernel from the disk in strips of rows, or compute its tiles anew each time;
either way entries keep their dtype and sums run in float64, which conjugate gradients need for any
residual below 1e-6.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from library.linalg import cg, operators
from library.linalg.cg import Solution
from library.linalg.trees import Operator
from library.storage.tiled_matrix import TiledMatrix
from library.types import Array, PyTree
from research.ntk import batching, checks, precision
from research.ntk.tiles import Matrix


def on_disk(matrix: TiledMatrix, memory_bytes: int = 2**28) -> Operator:
    """v -> K v with K read from its file, strip by strip.

    Args:
        matrix: complete and square.
        memory_bytes: of one strip in float64.
    Returns:
        An operator on [N] or [N, C] float64 vectors, for `solve`.
    Raises:
        ValueError: if tiles are missing, the matrix is not square, or a row exceeds the memory.
    """
    if matrix.grid.num_rows != matrix.grid.num_columns:
        raise ValueError(f"{matrix.grid}: expected a square matrix")
    strip_bytes = memory_bytes * matrix.dtype.itemsize // 8
    next(matrix.strips(strip_bytes))

    def product(vector: np.ndarray) -> np.ndarray:
        vector = np.asarray(vector, np.float64)
        strips = matrix.strips(strip_bytes)
        return np.concatenate([rows.astype(np.float64) @ vector for _, rows in strips])

    def operator(vector: Array) -> Array:
        # NumPy only inside: a callback that waits for JAX can deadlock it.
        like = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return jax.pure_callback(product, like, vector)

    return operator


def recomputed(matrix: Matrix, x: PyTree, tile: int) -> Operator:
    """v -> K v with the tiles of K computed anew at every product: memory of one tile.

    Args:
        matrix: (x1, x2) -> [N1, N2], see `research.ntk.tiles`.
        x: leaves [N, ...]; the tiles are computed in their dtype.
        tile: rows and columns of a tile.
    Returns:
        An operator on [N] or [N, C] vectors, for `solve`.
    Raises:
        ValueError: if tile < 1.
    """
    checks.count("tile", tile)
    num = checks.num_examples(x, "x")

    def operator(vector: Array) -> Array:
        def row(rows: PyTree) -> Array:
            def part(pair: tuple) -> Array:
                columns, entries = pair
                block = matrix(rows, columns).astype(vector.dtype)
                return jnp.einsum("mn,n...->m...", block, entries)

            return batching.sum_over(part, (x, vector), min(tile, num))

        return batching.map_over(row, x, min(tile, num))

    return operator


def solve(
    operator: Operator,
    y: Array,
    *,
    ridge: float = 0.0,
    rtol: float = 1e-8,
    max_steps: int | None = None,
    preconditioner: Operator | None = None,
) -> Solution:
    """(K + ridge) a = y by conjugate gradients, in float64.

    Args:
        operator: v -> K v, from `on_disk` or `recomputed`, or any symmetric one.
        y: [N] or [N, C] float; columns are solved together, as one system.
        ridge: >= 0.
        rtol: wanted |y - (K + ridge) a| / |y|.
        max_steps: products at most; ten times the size of y when None.
        preconditioner: approximate inverse of K + ridge, e.g. `nystrom.preconditioner`.
    Returns:
        `library.linalg.cg.Solution` with NumPy float64 leaves; read `converged`.
    Raises:
        ValueError: if the ridge is negative or y is no float array.
    """
    if not ridge >= 0:
        raise ValueError(f"ridge={ridge}: expected a number >= 0")
    y = jnp.asarray(y)
    if y.ndim not in (1, 2) or not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(
            f"y has shape {y.shape} and dtype {y.dtype}: expected floats, [N] or [N, C]"
        )
    options = {} if preconditioner is None else {"preconditioner": preconditioner}

    def run(y: Array) -> Solution:
        shifted = operators.shifted(operator, ridge)
        return cg.solve(shifted, y, rtol=rtol, max_steps=max_steps, **options)

    return precision.wide(run, y)
