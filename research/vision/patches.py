"""Images as sequences: patches and back, their linear embedding, and fixed positions in 2-D."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from library.types import Array


def to_patches(images: Array, size: int) -> Array:
    """Square patches in rows from the top, each as one vector.

    Args:
        images: [B, H, W, C].
        size: p, pixels of a side.
    Returns:
        [B, (H/p) (W/p), p p C], pixels of a patch in the order of [p, p, C].
    Raises:
        ValueError: if p does not divide height and width.
    """
    if images.ndim != 4:
        raise ValueError(f"images of shape {images.shape}: expected [B, H, W, C]")
    batch, height, width, channels = images.shape
    if size < 1 or height % size or width % size:
        raise ValueError(
            f"images of {height} x {width} pixels in patches of {size}: no whole number"
        )
    return to_patch_grid(images, size).reshape(batch, -1, size * size * channels)


def from_patches(patches: Array, image_shape: tuple[int, int, int], size: int) -> Array:
    """The inverse of `to_patches`: [B, N, p p C] -> [B, H, W, C].

    Raises:
        ValueError: if the shapes do not belong together.
    """
    height, width, channels = image_shape
    expected = ((height // size) * (width // size), size * size * channels)
    if patches.ndim != 3 or patches.shape[1:] != expected or height % size or width % size:
        raise ValueError(
            f"patches of shape {patches.shape}: expected [B, {expected[0]}, {expected[1]}] for "
            f"images of shape {image_shape}"
        )
    grid = patches.reshape(-1, height // size, width // size, size * size * channels)
    return from_patch_grid(grid, size)


def to_patch_grid(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, H / size, W / size, size * size * C]: every patch becomes one pixel.

    A reshuffling of the pixels, so a density of one form is a density of the other.
    """
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    chex.assert_is_divisible(height, size)
    chex.assert_is_divisible(width, size)
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def from_patch_grid(x: Array, size: int) -> Array:
    """The inverse of `to_patch_grid`: [B, H, W, size * size * C] -> [B, H * size, W * size, C]."""
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    chex.assert_is_divisible(channels, size**2)
    x = x.reshape(batch, height, width, size, size, channels // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * size, width * size, -1)


def check_floats(images: Array) -> None:
    """Raises ValueError for images of integers, which a network would read as 0 ... 255."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images of type {images.dtype}: expected floats, scaled as in training")


class PatchEmbedding(nn.Module):
    """A linear map of each patch, the same as a convolution of stride p.

    Attributes:
        size: p, pixels of a side.
        width: D, numbers per token.
    """

    size: int
    width: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Images [B, H, W, C] -> tokens [B, N, D]. Raises as `to_patches`."""
        init = nn.initializers.lecun_normal()
        patches = to_patches(images, self.size)
        return nn.Dense(self.width, kernel_init=init, name="linear")(patches)


def sincos_2d(rows: int, columns: int, width: int, max_period: float = 10_000.0) -> np.ndarray:
    """Fixed positions of a grid, half of the numbers for each axis.

    Sines and cosines as in MoCo v3 (Chen et al. 2021, arXiv:2104.02057) and Beyer et al. 2022,
    arXiv:2205.01580: of the column, then of the row, frequencies from 1 down to 1 / max_period.
    The inner product of two places depends on their offset only.

    Args:
        rows, columns: of the grid.
        width: D, a multiple of 4, at least 8.
        max_period: ratio of the highest to the lowest frequency.
    Returns:
        [rows * columns, D] float32, in the order of `to_patches`.
    Raises:
        ValueError: for another width.
    """
    if width < 8 or width % 4:
        raise ValueError(f"width={width}: expected a multiple of 4, at least 8")
    frequencies = max_period ** -np.linspace(0, 1, width // 4)  # [D/4]
    y, x = (axis.ravel()[:, None] * frequencies for axis in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
