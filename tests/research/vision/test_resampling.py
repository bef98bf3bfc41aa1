"""Halving and doubling: constants stay, up is the transpose of down, and kernels by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import resampling


@pytest.mark.parametrize("filt", [resampling.BOX, resampling.FIR])
def test_filters_keep_constants_and_are_transposes(filt, x64):
    ones = jnp.ones((1, 8, 6, 2))
    np.testing.assert_allclose(filt.down(ones)[:, 1:-1, 1:-1], 1, rtol=1e-15)
    np.testing.assert_allclose(filt.up(ones)[:, 1:-1, 1:-1], 1, rtol=1e-15)
    small = jax.random.normal(jax.random.key(0), (1, 4, 3, 2), jnp.float64)
    (transposed,) = jax.linear_transpose(filt.down, ones)(small)
    np.testing.assert_allclose(filt.up(small), 4 * transposed, rtol=1e-12, atol=1e-15)


def test_fir_is_the_outer_kernel(x64):
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    image = np.asarray(jax.random.normal(jax.random.key(0), (6, 8), jnp.float64))
    padded = np.pad(image, 1)
    expected = [
        [(kernel * padded[i : i + 4, j : j + 4]).sum() for j in range(0, 8, 2)]
        for i in range(0, 6, 2)
    ]
    np.testing.assert_allclose(
        resampling.fir_down(jnp.asarray(image)[None, :, :, None])[0, :, :, 0], expected, rtol=1e-13
    )


def test_boxes_are_means_and_copies():
    image = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    small = resampling.mean_pool(jnp.asarray(image))
    assert small.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(small[1, 1, 2], image[1, 2:4, 4:6].mean((0, 1)), rtol=1e-5)
    large = resampling.nearest(small)
    np.testing.assert_array_equal(large, np.asarray(small).repeat(2, 1).repeat(2, 2))
    assert resampling.BOX == resampling.Filter(resampling.mean_pool, resampling.nearest)


def test_what_no_filter_can_halve_or_double_is_named():
    for function in (resampling.mean_pool, resampling.fir_down):
        with pytest.raises(AssertionError, match="divisible"):
            function(jnp.zeros((1, 4, 5, 2)))
    for function in (resampling.mean_pool, resampling.fir_up, resampling.fir_down):
        with pytest.raises(ValueError, match="images of type uint8: expected floats"):
            function(jnp.zeros((1, 4, 4, 2), jnp.uint8))
    for function in (resampling.nearest, resampling.fir_up, resampling.fir_down):
        with pytest.raises(AssertionError, match="rank"):
            function(jnp.zeros((4, 4, 2)))


def test_fir_at_every_pixel_is_the_outer_kernel(x64):
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    image = np.random.default_rng(0).normal(size=(2, 6, 8, 3))
    for padding in (0, 1, 2):
        sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = np.pad(image, sides)
        rows, columns = 6 + 2 * padding - 3, 8 + 2 * padding - 3
        expected = sum(
            kernel[i, j] * padded[:, i : i + rows, j : j + columns]
            for i in range(4)
            for j in range(4)
        )
        np.testing.assert_allclose(resampling.fir(jnp.asarray(image), padding), expected)
    every_second = resampling.fir(jnp.asarray(image), 1)[:, ::2, ::2]
    np.testing.assert_allclose(every_second, resampling.fir_down(jnp.asarray(image)), rtol=1e-12)
    with pytest.raises(ValueError, match="images of type int"):
        resampling.fir(jnp.zeros((1, 4, 4, 2), int), 1)
