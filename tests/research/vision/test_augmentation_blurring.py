"""Gaussian blur: torchvision's window by loops, identities, the law of the widths."""

import functools

import jax
import numpy as np
import pytest

from research.vision import augmentation


def blurred(image, sigma, kernel):
    half = kernel // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    out = np.zeros_like(image)
    for i, j in np.ndindex(*image.shape[:2]):
        out[i, j] = np.einsum("ij,ijc->c", window, padded[i : i + kernel, j : j + kernel])
    return out


@pytest.mark.parametrize("kernel, sigma", [(3, 0.8), (7, 2.0)])
def test_a_blurred_image_is_torchvisions(kernel, sigma, x64):
    image = np.random.default_rng(0).uniform(size=(6, 5, 2))
    blur = jax.jit(functools.partial(augmentation.blur, kernel=kernel))
    np.testing.assert_allclose(blur(image, sigma), blurred(image, sigma, kernel), rtol=1e-10)
    np.testing.assert_allclose(blur(image, 1e-3), image, rtol=1e-10)  # nothing beside the middle


def test_widths_and_probability():
    """On a single line the middle value is the weight of the middle, which names the width."""
    line = np.zeros((5, 5, 1), np.float32)
    line[:, 2] = 1
    rngs = jax.random.split(jax.random.key(0), 2000)

    def middles(**options):
        augment = augmentation.gaussian_blur(3, **options)
        return np.asarray(jax.jit(jax.vmap(augment, (0, None)))(rngs, line))[:, 2, 2, 0]

    half = middles()
    middle = middles(sigma=(0.5, 1.5), probability=1.0)
    sigma = (-0.5 / np.log((1 / middle - 1) / 2)) ** 0.5
    assert sigma.min() >= 0.5 - 1e-4 and sigma.max() <= 1.5 + 1e-3
    law = np.sort(sigma) - 0.5
    assert np.abs(law - (np.arange(2000) + 0.5) / 2000).max() < (-np.log(0.5e-5) / 4000) ** 0.5
    widest = 1 / (1 + 2 * np.exp(-0.5 / 2.0**2))
    assert half.min() >= widest - 1e-6
    # Below 0.2 pixels a neighbour weighs less than 4e-6; wider than that is 1.8 / 1.9 of the draws.
    changed = (half < 1 - 1e-5).mean()
    assert abs(changed - 0.5 * 1.8 / 1.9) < 4 * (0.25 / 2000) ** 0.5 + 0.01


def test_bad_input():
    image = np.zeros((4, 4, 3), np.float32)
    for broken, message in [
        (lambda: augmentation.gaussian_blur(4), "kernel=4: expected an odd number"),
        (lambda: augmentation.gaussian_blur(0), "kernel=0: expected a positive whole number"),
        (lambda: augmentation.gaussian_blur(3, (0.0, 1.0)), r"sigma=\(0.0, 1.0\): expected two"),
        (lambda: augmentation.gaussian_blur(3, (2.0, 1.0)), r"sigma=\(2.0, 1.0\)"),
        (lambda: augmentation.gaussian_blur(3, probability=1.5), "probability=1.5"),
        (lambda: augmentation.blur(image, 1.0, 9), "expected sides over 4 for kernel=9"),
        (lambda: augmentation.blur(image, 1.0, 2), "kernel=2: expected an odd number"),
        (lambda: augmentation.blur(image.astype(int), 1.0, 3), "image of type int"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
