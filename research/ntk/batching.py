"""A kernel in tiles inside one computation: blocks of examples in turn, rows over devices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from library.types import Array, Params, PyTree
from research.ntk import checks

Tile = Callable[[Params, PyTree, PyTree | None], PyTree]  # -> leaves [N1, N2, ...]


def batched(tile: Tile, batch_size: int | None) -> Tile:
    """The same kernel from tiles of at most batch_size x batch_size, one after the other.

    The last block of each set is filled up with copies of its last example, which are cut off, so
    that all tiles share one compilation.
    """
    if batch_size is None:
        return tile

    def compute(params: Params, x1: PyTree, x2: PyTree | None) -> PyTree:
        x2 = x1 if x2 is None else x2
        n1, n2 = (checks.num_examples(x, "x") for x in (x1, x2))
        rows, columns = _blocks(x1, min(batch_size, n1)), _blocks(x2, min(batch_size, n2))
        tiles = jax.lax.map(
            lambda row: jax.lax.map(lambda column: tile(params, row, column), columns), rows
        )
        return jax.tree.map(lambda leaf: _assemble(leaf)[:n1, :n2], tiles)

    return compute


def sharded(tile: Tile, mesh: jax.sharding.Mesh | None) -> Tile:
    """The same kernel with rows split over the mesh's first axis, columns over its second.

    Every device computes one tile of the same size: the balance is exact up to the examples that
    fill up the last one.
    """
    if mesh is None:
        return tile
    row_axis, column_axis = (*mesh.axis_names, None)[:2]

    def compute(params: Params, x1: PyTree, x2: PyTree | None) -> PyTree:
        x2 = x1 if x2 is None else x2
        n1, n2 = (checks.num_examples(x, "x") for x in (x1, x2))
        x1 = _fill(x1, -n1 % mesh.shape[row_axis])
        x2 = _fill(x2, -n2 % mesh.shape[column_axis]) if column_axis else x2
        specs = PartitionSpec(), PartitionSpec(row_axis), PartitionSpec(column_axis)
        # No collective runs inside, so there is nothing for the replication check to find.
        split = jax.shard_map(
            tile,
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(row_axis, column_axis),
            check_vma=False,
        )
        return jax.tree.map(lambda leaf: leaf[:n1, :n2], split(params, x1, x2))

    return compute


def _blocks(x: PyTree, size: int) -> PyTree:
    """Leaves [N, ...] as [ceil(N / size), size, ...]."""
    x = _fill(x, -checks.num_examples(x, "x") % size)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), x)


def _fill(x: PyTree, count: int) -> PyTree:
    """`count` copies of the last example appended."""
    if not count:
        return x
    return jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], count, axis=0)]), x
    )


def _assemble(tiles: Array) -> Array:
    """[rows, columns, b1, b2, ...] -> [rows * b1, columns * b2, ...]."""
    tiles = jnp.swapaxes(tiles, 1, 2)
    rows, b1, columns, b2 = tiles.shape[:4]
    return tiles.reshape(rows * b1, columns * b2, *tiles.shape[4:])


def sum_over(function: Callable[[PyTree], PyTree], x: PyTree, size: int) -> PyTree:
    """The sum of function(block) over blocks of at most `size` examples, one at a time."""
    whole, rest = _split(x, size)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, rest)
    )
    add = lambda total, block: (jax.tree.map(jnp.add, total, function(block)), None)
    total = jax.lax.scan(add, zeros, whole)[0]
    return jax.tree.map(jnp.add, total, function(rest))


def map_over(function: Callable[[PyTree], PyTree], x: PyTree, size: int) -> PyTree:
    """function over blocks of at most `size` examples, results [N, ...] joined."""
    whole, rest = _split(x, size)
    joined = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(function, whole)
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), joined, function(rest))


def _split(x: PyTree, size: int) -> tuple[PyTree, PyTree]:
    """Blocks [M, size, ...] and a last one of 1 to `size` examples."""
    num = checks.num_examples(x, "x")
    cut = (num - 1) // size * size
    blocks = jax.tree.map(lambda leaf: leaf[:cut].reshape(-1, size, *leaf.shape[1:]), x)
    return blocks, jax.tree.map(lambda leaf: leaf[cut:], x)
