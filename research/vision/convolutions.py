"""Parts of convolutional networks on images [B, H, W, C]: norms, maps of pixels, doubled images."""

from __future__ import annotations

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32
from research.attention.multihead import on_rows

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class GroupNorm(nn.Module):
    """Zero mean and unit variance per example and group of channels, then scale and bias.

    Wu and He 2018, arXiv:1803.08494. Statistics are float32 or wider whatever the input is.
    """

    num_groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        chex.assert_rank(x, 4)
        chex.assert_is_divisible(x.shape[-1], self.num_groups)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = x.astype(at_least_float32(x.dtype))
        mean = self._over_groups(wide.mean((1, 2)))  # [B, C]
        centred = wide - mean[:, None, None, :]
        variance = self._over_groups(jnp.square(centred).mean((1, 2)))  # [B, C]
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale[None, :]
        affine = centred * gain[:, None, None, :] + bias[None, None, None, :]
        return affine.astype(x.dtype)

    def _over_groups(self, means: Array) -> Array:
        """Means [B, C] of channels, each replaced by that of its group.

        Pixels are summed first, channel by channel: compiled for a CPU that takes half the time of
        a sum over pixels and the channels of a group at once, and a quarter in the gradient.
        """
        batch, channels = means.shape
        groups = means.reshape(batch, self.num_groups, -1).mean(-1)  # [B, G]
        return jnp.repeat(groups, channels // self.num_groups, axis=-1)


def channelwise(dense: Callable[[Array], Array], x: Array) -> Array:
    """A map of vectors on every pixel, [B, H, W, C] -> [B, H, W, F]; on a CPU as one of rows."""
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    mapped = on_rows(dense, x.reshape(batch, height * width, channels))
    return mapped.reshape(batch, height, width, -1)


class ConvOfDoubled(nn.Module):
    """A 3x3 convolution of the image in which every pixel stands for a block of 2x2.

    Equal to a convolution after `resampling.nearest`, for half of the arithmetic: each pixel of a
    block sees no more than 2x2 different pixels, under sums of the kernel's entries.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, width], zero outside."""
        chex.assert_rank(x, 4)
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", _init, (3, 3, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        folds = jnp.asarray(_FOLDS, dtype)
        small = jnp.einsum("auk,bvl,klcf->abuvcf", folds, folds, kernel.astype(dtype))

        def pixels(a: int, b: int) -> Array:  # [B, H, W, F], the pixel (a, b) of every block
            return jax.lax.conv_general_dilated(
                x.astype(dtype),
                small[a, b],
                window_strides=(1, 1),
                padding=((1 - a, a), (1 - b, b)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        rows = [jnp.stack([pixels(a, 0), pixels(a, 1)], axis=3) for a in (0, 1)]
        h = jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, self.width)
        return h + bias.astype(dtype)[None, None, None, :]


# [a, u, k]: whether pixel a of a block sees its u-th neighbour under the k-th entry of the kernel.
_FOLDS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
