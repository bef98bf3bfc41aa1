"""Gaussian blur of random width, as in SimCLR and torchvision."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key, at_least_float32
from research.vision.augmentation import basic
from research.vision.augmentation.basic import Augment


def gaussian_blur(
    kernel: int, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5
) -> Augment:
    """`blur` by a width uniform in `sigma`, with this probability.

    Chen et al. 2020, arXiv:2002.05709, appendix A: a kernel of a tenth of the image's side.

    Args:
        kernel: pixels of the window, odd.
        sigma: least and greatest standard deviation, pixels, 0 < least <= greatest.
        probability: of any change.
    Raises:
        ValueError: for values out of range.
    """
    _check_kernel(kernel)
    if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] < math.inf:
        raise ValueError(f"sigma={sigma}: expected two numbers, 0 < least <= greatest")

    def augment(rng: Key, image: Array) -> Array:
        return blur(image, jax.random.uniform(rng, (), jnp.float32, *sigma), kernel)

    return basic.sometimes(augment, probability)


def blur(image: Array, sigma: Array | float, kernel: int) -> Array:
    """The image under a Gaussian window cut off at `kernel` pixels, reflected about its edges.

    Args:
        image: [H, W, C] float, H and W at least half of the kernel, rounded up.
        sigma: [] float > 0, standard deviation, pixels.
        kernel: pixels of the window, odd.
    Raises:
        ValueError: for an image of integers or smaller than that, or a kernel that is not odd.
    """
    basic.check_image(image)
    _check_kernel(kernel)
    half = kernel // 2
    if min(image.shape[:2]) <= half:
        raise ValueError(f"image {image.shape}: expected sides over {half} for kernel={kernel}")
    x = image.astype(at_least_float32(image.dtype))
    sigma = jnp.asarray(sigma, x.dtype)
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-half, half + 1) / sigma))
    weights = weights / weights.sum()  # [kernel]
    height, width, channels = image.shape
    padded = jnp.pad(x, ((half, half), (half, half), (0, 0)), mode="reflect")
    # Slices and sums compile to one loop, here over rows of all channels; a depthwise convolution
    # is slow on a CPU.
    x = padded.reshape(height + 2 * half, -1)  # [H + kernel - 1, (W + kernel - 1) C]
    x = sum(weights[k] * x[k : k + height] for k in range(kernel))
    x = sum(weights[k] * x[:, channels * k : channels * (k + width)] for k in range(kernel))
    return x.reshape(image.shape).astype(image.dtype)


def _check_kernel(kernel: int) -> None:
    if checks.count("kernel", kernel) % 2 == 0:
        raise ValueError(f"kernel={kernel}: expected an odd number")
