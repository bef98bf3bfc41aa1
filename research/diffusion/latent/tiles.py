"""Decoding and encoding in tiles, one after the other, in memory that does not grow with the image.

Tiles overlap. What a tile's inner border spoils is given weight zero: only the middle of an overlap
is blended, `blend` cells wide, with weights that sum to one. So a network of convolutions whose
receptive field is smaller than the overlap gives what it gives on the whole; one that looks at the
whole image (attention, group norm) does not, and `seam_errors` says by how much, and where.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, at_least_float32
from research.diffusion.curves import wide


def tiled_decode(
    decode: Callable[[Array], Any], z: Array, tile: int, overlap: int, blend: int | None = None
) -> Any:
    """What `decode` gives on the whole, from tiles of it.

    Args:
        decode: [B, h, w, C] -> [B, f h, f w, ...] of any h and w, f whole; an array, or a tree.
        z: [B, H, W, C].
        tile: height and width of a tile, in cells of z; a shorter side is one tile.
        overlap: of neighbours, at least, in cells of z.
        blend: cells in the middle of an overlap in which one tile fades into the next; None is 2,
            or `overlap` if that is smaller. What lies further out has weight 0, so the result is
            that of the whole where a cell sees no more than (overlap - blend) / 2 cells around it.
    Returns:
        As `decode`, float32 or wider. Beside it and z, memory is that of one tile's decoding.
    Raises:
        ValueError: unless 0 <= blend <= overlap < tile, or if z is no [B, H, W, C].
    """
    return _tiled(decode, z, tile, overlap, blend, "z")


def tiled_encode(
    encode: Callable[[Array], Any], x: Array, tile: int, overlap: int, blend: int | None = None
) -> Any:
    """What `encode` gives on the whole, from tiles of it: mean and log variance, or vectors.

    Args:
        encode: [B, H, W, C] -> [B, H/f, W/f, ...], f whole; an array, or a tree.
        x: [B, H, W, C].
        tile, overlap, blend: as for `tiled_decode`, in pixels of x; f divides tile and overlap.
    Raises:
        ValueError: as `tiled_decode`; if f does not divide tile, overlap or a side.
    """
    return _tiled(encode, x, tile, overlap, blend, "x")


def seam_errors(
    tiled: Array, whole: Array, tile: int, overlap: int, factor: int = 1
) -> tuple[Array, Array]:
    """Root mean square of tiled - whole where tiles overlap and where one stands alone, [] each.

    Args:
        tiled, whole: [B, f H, f W, C].
        tile, overlap: as given to `tiled_decode`, in cells.
        factor: f.
    Raises:
        ValueError: if the shapes differ, or tiles overlap nowhere or everywhere.
    """
    if tiled.shape != whole.shape or tiled.ndim != 4:
        raise ValueError(f"tiled {tiled.shape}, whole {whole.shape}: expected [B, H, W, C] each")
    covers = [_Axis.of(side // factor, tile, overlap, 0).covers() for side in whole.shape[1:3]]
    seam = np.repeat(np.repeat(np.maximum.outer(*covers) > 1, factor, 0), factor, 1)
    if seam.all() or not seam.any():
        raise ValueError(f"tile={tile}, overlap={overlap}: tiles overlap everywhere or nowhere")
    squares = jnp.square(wide(tiled) - wide(whole)).mean((0, 3))  # [H, W]
    of = lambda where: jnp.sqrt(jnp.where(where, squares, 0).sum() / where.sum())
    return of(seam), of(~seam)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Where the tiles of one side lie.

    Attributes:
        side, tile: cells of the side and of a tile.
        starts: of the tiles, the last moved back to end where the side does.
        margin: cells at an inner border that count for nothing.
        blend: cells after them in which the weight rises to 1.
    """

    side: int
    tile: int
    starts: tuple[int, ...]
    margin: float
    blend: int

    @classmethod
    def of(cls, side: int, tile: int, overlap: int, blend: int) -> _Axis:
        tile = min(tile, side)
        stride = max(tile - overlap, 1)
        num = 1 + math.ceil((side - tile) / stride)
        starts = tuple(min(index * stride, side - tile) for index in range(num))
        return cls(side, tile, starts, (overlap - blend) / 2, blend)

    def covers(self) -> np.ndarray:
        """[side], how many tiles have a cell."""
        cells = np.arange(self.side)[None]
        starts = np.array(self.starts)[:, None]
        return ((cells >= starts) & (cells < starts + self.tile)).sum(0)

    def weights(self, num: int) -> np.ndarray:
        """[tiles, num] of a tile's outputs, which sum to one wherever tiles overlap."""
        centres = (np.arange(num) + 0.5) * self.tile / num  # in cells
        step = lambda u: (u > self.margin - 1e-9).astype(float)
        ramp = lambda u: np.clip((u - self.margin) / self.blend, 0, 1)
        rise = ramp if self.blend else step
        rows, total = [], np.zeros(self.side * num // self.tile)
        for start in self.starts:
            left = rise(centres) if start else 1.0
            right = rise(self.tile - centres) if start + self.tile < self.side else 1.0
            rows.append(np.ones(num) * left * right)
            total[self.slice(start, num)] += rows[-1]
        return np.stack(
            [row / total[self.slice(start, num)] for row, start in zip(rows, self.starts)]
        )

    def slice(self, start: int, num: int) -> slice:
        """The outputs of the tile that starts there."""
        return slice(start * num // self.tile, start * num // self.tile + num)


def _tiled(
    function: Callable, x: Array, tile: int, overlap: int, blend: int | None, name: str
) -> Any:
    checks.count("tile", tile, of="cells")
    checks.count("overlap", overlap, least=0, of="cells")
    blend = min(2, overlap) if blend is None else checks.count("blend", blend, least=0)
    if not blend <= overlap < tile:
        raise ValueError(
            f"tile={tile}, overlap={overlap}, blend={blend}: expected blend <= overlap < tile"
        )
    if x.ndim != 4:
        raise ValueError(f"{name} has shape {list(x.shape)}: expected [B, H, W, C]")
    x = jnp.asarray(x)
    axes = [_Axis.of(side, tile, overlap, blend) for side in x.shape[1:3]]
    part = (x.shape[0], axes[0].tile, axes[1].tile, x.shape[3])
    outlines = jax.eval_shape(function, jax.ShapeDtypeStruct(part, x.dtype))
    leaves, tree = jax.tree.flatten(outlines)
    canvases = [_Canvas.of(leaf, axes, name) for leaf in leaves]
    places = [(i, j) for i in range(len(axes[0].starts)) for j in range(len(axes[1].starts))]
    starts = [(axes[0].starts[i], axes[1].starts[j]) for i, j in places]

    def add(painted: list[Array], at: tuple[Array, Array]) -> tuple[list[Array], None]:
        place, start = at
        outputs = function(jax.lax.dynamic_slice(x, (0, start[0], start[1], 0), part))
        return [
            canvas.add(old, output, place)
            for canvas, old, output in zip(canvases, painted, tree.flatten_up_to(outputs))
        ], None

    blank = [canvas.blank() for canvas in canvases]
    painted, _ = jax.lax.scan(add, blank, (jnp.asarray(places), jnp.asarray(starts)))
    return tree.unflatten(painted)


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """What one output is added up on.

    Attributes:
        shape: of the whole, [B, H, W, ...].
        dtype: float32 or wider.
        weights: of both axes, each [tiles, outputs of a tile].
        corners: of both axes, each [tiles], the first output of a tile.
    """

    shape: tuple[int, ...]
    dtype: Any
    weights: tuple[np.ndarray, ...]
    corners: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, leaf: jax.ShapeDtypeStruct, axes: list[_Axis], name: str) -> _Canvas:
        """For a tile's output, if tiles fall on whole outputs; else ValueError."""
        pairs = list(zip(axes, leaf.shape[1:3]))
        for axis, num in pairs:
            if any(place * num % axis.tile for place in (axis.side, *axis.starts)):
                raise ValueError(
                    f"{name}: a tile of {axis.tile} gives {num}, on tiles that start at "
                    f"{axis.starts} of {axis.side}: expected sizes that the strides divide"
                )
        sides = [axis.side * num // axis.tile for axis, num in pairs]
        return cls(
            shape=(leaf.shape[0], *sides, *leaf.shape[3:]),
            dtype=at_least_float32(leaf.dtype),
            weights=tuple(axis.weights(num) for axis, num in pairs),
            corners=tuple(np.array(axis.starts) * num // axis.tile for axis, num in pairs),
        )

    def blank(self) -> Array:
        """Zeros."""
        return jnp.zeros(self.shape, self.dtype)

    def add(self, canvas: Array, output: Array, place: Array) -> Array:
        """The canvas with the weighted output of the tile at this place [2]."""
        rows, columns = (
            jnp.asarray(weights, self.dtype)[index] for weights, index in zip(self.weights, place)
        )
        weight = jnp.outer(rows, columns)
        weight = weight.reshape(1, *weight.shape, *(1,) * (output.ndim - 3))
        top, left = (jnp.asarray(c)[index] for c, index in zip(self.corners, place))
        corner = (0, top, left, *(0,) * (output.ndim - 3))
        old = jax.lax.dynamic_slice(canvas, corner, output.shape)
        new = old + output.astype(self.dtype) * weight
        return jax.lax.dynamic_update_slice(canvas, new, corner)
