"""The diffusion transformer: patches as tokens, the condition through adaptive layer norms.

Peebles and Xie 2022, arXiv:2212.09748, with its adaLN-Zero blocks. Sizes (depth, width, heads):
S 12, 384, 6; B 12, 768, 12; L 24, 1024, 16; XL 28, 1152, 16; the number behind / is the patch.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key
from research.diffusion.networks import embeddings, layers
from research.vision import patches

_xavier = nn.initializers.xavier_uniform()
_zeros = nn.initializers.zeros


class DiT(nn.Module):
    """A transformer over patches, a pure function `apply(params, x, t, labels=None, rng=None)`.

    Attributes:
        out_channels: channels of the output.
        patch: height and width of a patch.
        depth, width, num_heads: blocks, token size, attention heads.
        mlp_ratio: hidden size of the perceptrons over width.
        features: [B] times -> [B, E] features; None is `Sinusoidal(256)`.
        num_classes: number of labels, None for no labels. Label `num_classes` is the null class.
    """

    out_channels: int
    patch: int = 2
    depth: int = 12
    width: int = 384
    num_heads: int = 6
    mlp_ratio: int = 4
    features: Callable[[Array], Array] | None = None
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self, x: Array, t: Array, labels: Array | None = None, rng: Key | None = None
    ) -> Array:
        """The prediction for noisy images; zero at init.

        Args:
            x: [B, H, W, C] float; H and W multiples of `patch`.
            t: [B] float, times.
            labels: [B] int in [0, num_classes]; None means the null class throughout.
            rng: taken for a common signature; the network has no dropout.
        Returns:
            [B, H, W, out_channels].
        Raises:
            ValueError: for labels without `num_classes`, or shapes that the fields do not fit.
        """
        self._check(x, labels)
        batch, rows, columns = x.shape[0], x.shape[1] // self.patch, x.shape[2] // self.patch
        features = self.features or embeddings.Sinusoidal(256)
        condition = layers.Condition(self.width, features, self.num_classes)(t, labels, x.dtype)
        condition = nn.silu(condition)  # [B, D]
        h = patches.to_patch_grid(x, self.patch).reshape(batch, rows * columns, -1)  # [B, T, P*P*C]
        h = nn.Dense(self.width, kernel_init=_xavier, name="patches")(h)  # [B, T, D]
        h = h + jnp.asarray(grid_features(rows, columns, self.width), h.dtype)[None]
        for _ in range(self.depth):
            h = Block(self.num_heads, self.mlp_ratio)(h, condition)
        shift, scale = jnp.split(_modulation(2 * self.width, "modulation")(condition), 2, -1)
        h = _modulate(_norm()(h), shift, scale)
        patch_dim = self.patch**2 * self.out_channels
        h = nn.Dense(patch_dim, kernel_init=_zeros, name="head")(h)  # [B, T, P*P*C]
        return patches.from_patch_grid(h.reshape(batch, rows, columns, -1), self.patch)

    def _check(self, x: Array, labels: Array | None) -> None:
        if x.ndim != 4 or x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"x has shape {x.shape}: expected [B, H, W, C], H and W multiples of {self.patch}"
            )
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"width={self.width}: expected a multiple of 4 and of num_heads={self.num_heads}"
            )
        if labels is not None and self.num_classes is None:
            raise ValueError("labels are given to a network with num_classes=None")


class Block(nn.Module):
    """Attention and a perceptron; the condition sets shift, scale and gate of both branches.

    The gates start at zero, so the block starts as the identity.
    """

    num_heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, h: Array, condition: Array) -> Array:
        """[B, T, D], [B, D] -> [B, T, D]."""
        batch, length, width = h.shape
        modulation = jnp.split(_modulation(6 * width)(condition), 6, -1)
        shift, scale, gate = modulation[:3]
        qkv = nn.Dense(3 * width, kernel_init=_xavier)(_modulate(_norm()(h), shift, scale))
        heads = (batch, length, self.num_heads, width // self.num_heads)
        mixed = layers.attend(*(part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1)))
        mixed = nn.Dense(width, kernel_init=_xavier)(mixed.reshape(h.shape))
        h = h + gate[:, None] * mixed
        shift, scale, gate = modulation[3:]
        hidden = nn.Dense(self.mlp_ratio * width, kernel_init=_xavier)(
            _modulate(_norm()(h), shift, scale)
        )
        return h + gate[:, None] * nn.Dense(width, kernel_init=_xavier)(nn.gelu(hidden))


def grid_features(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed sines and cosines of the row in one half of the features, of the column in the other.

    Returns:
        [rows * columns, width] float64 in [-1, 1], row by row.
    """
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width // 4))

    def line(positions: np.ndarray) -> np.ndarray:
        angles = positions.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], -1)

    row, column = np.mgrid[:rows, :columns]
    return np.concatenate([line(row), line(column)], -1)


def _modulation(width: int, name: str | None = None) -> nn.Dense:
    return nn.Dense(width, kernel_init=_zeros, name=name)


def _norm() -> nn.LayerNorm:
    # Flax's fast variance, E[x^2] - E[x]^2, has no digits left where the mean is large.
    return nn.LayerNorm(epsilon=1e-6, use_scale=False, use_bias=False, use_fast_variance=False)


def _modulate(h: Array, shift: Array, scale: Array) -> Array:
    """[B, T, D] with shift and scale [B, D]."""
    return h * (1 + scale[:, None]) + shift[:, None]
