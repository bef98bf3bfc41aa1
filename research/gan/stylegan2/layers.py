"""Parts of StyleGAN2: equalised maps, modulated and resampling convolutions, batch deviation.

Karras et al. 2020, arXiv:1912.04958. Weights start as standard normals and are scaled by
1 / sqrt(fan-in) where they are used, so that every weight has the same learning rate (Karras et
al. 2018, arXiv:1710.10196, section 4.1).
"""

from __future__ import annotations

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32
from research.vision import resampling


def leaky_relu(x: Array) -> Array:
    """sqrt(2) x, a fifth of it where x < 0: keeps the second moment of a symmetric x nearly 1."""
    return nn.leaky_relu(x, 0.2) * math.sqrt(2.0)


def unit_moment(x: Array) -> Array:
    """Vectors [B, D] over the root of their mean square, in float32 or wider."""
    x = x.astype(at_least_float32(x))
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-8)


def modulated_conv(
    x: Array, kernel: Array, style: Array, demodulate: bool = True, up: bool = False
) -> Array:
    """A convolution whose input channels each image scales by its own style, section 2.2.

    With demodulation each output channel of each image is divided by the norm of the kernel that
    it saw, eq. (3). The input and output are scaled, not the kernel: equal, and one convolution
    for the batch.

    Args:
        x: [B, H, W, C] float.
        kernel: [h, w, C, O] float, h = w odd.
        style: [B, C] float.
        demodulate: whether to divide by the norm of the modulated kernel.
        up: whether the result has twice the height and width, after the filter [1, 3, 3, 1].
    Returns:
        [B, H, W, O], or [B, 2 H, 2 W, O], of the dtype of `x`; zero outside the image.
    Raises:
        ValueError: if the channels of the three do not agree, or the kernel is not odd.
    """
    _check_modulated(x, kernel, style)
    wide = at_least_float32(x, kernel, style)
    style, kernel = style.astype(wide), kernel.astype(wide)
    if demodulate and jnp.finfo(x.dtype).bits < 32:  # 65,504 is the largest float16
        kernel = kernel / jnp.max(jnp.abs(kernel), axis=(0, 1, 2), keepdims=True)
        kernel = kernel / math.sqrt(math.prod(kernel.shape[:3]))
        style = style / jnp.max(jnp.abs(style), axis=1, keepdims=True)
    scaled = x * style.astype(x.dtype)[:, None, None, :]
    out = (convolve_up if up else convolve)(scaled, kernel.astype(x.dtype))
    if demodulate:
        energy = jnp.square(kernel).sum((0, 1))  # [C, O]
        norm = jnp.einsum("bc,co->bo", jnp.square(style), energy)
        out = out * jax.lax.rsqrt(norm + 1e-8).astype(x.dtype)[:, None, None, :]
    return out


def convolve(x: Array, kernel: Array) -> Array:
    """[B, H, W, C] under [h, w, C, O], zero outside: [B, H, W, O]."""
    return _conv(x, kernel, [(side // 2, side // 2) for side in kernel.shape[:2]])


def convolve_up(x: Array, kernel: Array) -> Array:
    """Zeros between the pixels, the kernel, then the filter [1, 3, 3, 1] / 4: [B, 2H, 2W, O].

    Equal, but at borders, to a convolution of the image doubled by `resampling.fir_up`, for a
    quarter of its arithmetic.
    """
    side = kernel.shape[0]
    out = _conv(x, kernel, [(side - 1, side - 1)] * 2, dilation=2)  # [B, 2H + side - 2, .., O]
    return 4 * resampling.fir(out, padding=(5 - side) // 2)


def convolve_down(x: Array, kernel: Array) -> Array:
    """The filter [1, 3, 3, 1] / 8, then the kernel at every second pixel: [B, H/2, W/2, O]."""
    side = kernel.shape[0]
    return _conv(resampling.fir(x, padding=(side + 1) // 2), kernel, [(0, 0)] * 2, stride=2)


def minibatch_deviation(x: Array, group: int = 4) -> Array:
    """One more channel: the standard deviation over a group of images, mean over pixels, channels.

    Karras et al. 2018, arXiv:1710.10196, section 3. Image i is of group i mod (B / group). A
    network with it mixes the images of a batch.

    Args:
        x: [B, H, W, C] float.
        group: images of a group; B where that is smaller.
    Returns:
        [B, H, W, C + 1].
    Raises:
        ValueError: if the batch is no multiple of the group.
    """
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    group = min(group, batch)
    if not group or batch % group:
        raise ValueError(f"batch size {batch} is not a multiple of the group of {group} images")
    groups = x.reshape(group, batch // group, -1).astype(at_least_float32(x))  # [G, n, H W C]
    centred = groups - groups.mean(0)[None]
    deviation = jnp.sqrt(jnp.square(centred).mean(0) + 1e-8).mean(-1)  # [n]
    extra = jnp.tile(deviation, group).astype(x.dtype)[:, None, None, None]  # [B, 1, 1, 1]
    return jnp.concatenate([x, jnp.broadcast_to(extra, (batch, height, width, 1))], -1)


class Dense(nn.Module):
    """x W rate / sqrt(D) + b rate, with W and the bias learned at `rate` times the rate of others.

    Attributes:
        width: F, outputs.
        rate: of learning, relative; 0.01 in the mapping network.
        bias: initial value.
    """

    width: int
    rate: float = 1.0
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, D] -> [B, F]."""
        initial = nn.initializers.normal(1.0 / self.rate)
        kernel = self.param("kernel", initial, (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.width,))
        gain = self.rate / math.sqrt(x.shape[-1])
        return x @ (kernel * gain).astype(x.dtype) + (bias * self.rate).astype(x.dtype)[None]


class Conv(nn.Module):
    """A convolution with an equalised kernel, which may halve the image.

    Attributes:
        width: O, channels out.
        side: of the kernel.
        down: whether height and width are halved.
        bias: whether a bias is added.
    """

    width: int
    side: int = 3
    down: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, O] or [B, H/2, W/2, O]."""
        shape = (self.side, self.side, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = (kernel / math.sqrt(math.prod(shape[:3]))).astype(x.dtype)
        out = (convolve_down if self.down else convolve)(x, kernel)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            out = out + bias.astype(x.dtype)[None, None, None, :]
        return out


def _conv(
    x: Array, kernel: Array, padding: list[tuple[int, int]], stride: int = 1, dilation: int = 1
) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _check_modulated(x: Array, kernel: Array, style: Array) -> None:
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
        raise ValueError(
            f"x {list(x.shape)} and kernel {list(kernel.shape)}: expected [B, H, W, C] and "
            "[h, w, C, O]"
        )
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel {list(kernel.shape)}: expected equal odd sides")
    if style.shape != (x.shape[0], x.shape[-1]):
        raise ValueError(f"style {list(style.shape)}: expected {[x.shape[0], x.shape[-1]]}, [B, C]")
