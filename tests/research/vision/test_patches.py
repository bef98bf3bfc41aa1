"""Patches: exact inverse, equality with a strided convolution, positions that see offsets only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import patches


def test_patches_are_slices_and_come_back():
    images = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)
    cut = patches.to_patches(images, 3)
    assert cut.shape == (2, 6, 27)
    np.testing.assert_array_equal(cut[1, 4].reshape(3, 3, 3), images[1, 3:6, 3:6])
    np.testing.assert_array_equal(patches.from_patches(cut, (6, 9, 3), 3), images)


def test_patches_are_squares_of_pixels_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    cut = patches.to_patch_grid(x, 2)
    assert cut.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(cut[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(patches.from_patch_grid(cut, 2), x)


def test_embedding_is_a_strided_convolution():
    images = np.random.default_rng(1).normal(size=(2, 8, 12, 3)).astype(np.float32)
    model = patches.PatchEmbedding(size=4, width=5)
    params = jax.jit(model.init)(jax.random.key(1), images)
    kernel = params["params"]["linear"]["kernel"].reshape(4, 4, 3, 5)
    expected = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    tokens = jax.jit(model.apply)(params, images)
    np.testing.assert_allclose(tokens, expected.reshape(2, 6, 5), rtol=1e-5, atol=1e-5)


def test_fixed_positions_see_offsets_only():
    table = patches.sincos_2d(5, 7, 16).astype(np.float64).reshape(5, 7, 16)
    np.testing.assert_allclose((table**2).sum(-1), 8, rtol=1e-6)
    for down, right in [(0, 1), (2, 0), (3, 4)]:
        products = (table[: 5 - down, : 7 - right] * table[down:, right:]).sum(-1)
        np.testing.assert_allclose(products, products[0, 0], rtol=1e-5)
        frequencies = 10_000.0 ** -np.linspace(0, 1, 4)
        expected = np.cos(down * frequencies).sum() + np.cos(right * frequencies).sum()
        np.testing.assert_allclose(products[0, 0], expected, rtol=1e-5)


def test_fixed_positions_of_another_period_by_hand():
    """Columns first, frequencies 1 and 1/50; places in the order of `to_patches`."""
    table = patches.sincos_2d(2, 3, 8, max_period=50.0)
    row, column = 1, 2
    angles = np.array([column, column / 50, row, row / 50])
    expected = [*np.sin(angles[:2]), *np.cos(angles[:2]), *np.sin(angles[2:]), *np.cos(angles[2:])]
    np.testing.assert_allclose(table[3 * row + column], expected, rtol=1e-6)


def test_bad_input():
    for broken, message in [
        (lambda: patches.to_patches(jnp.zeros((1, 6, 8, 1)), 4), "6 x 8 pixels in patches of 4"),
        (lambda: patches.to_patches(jnp.zeros((6, 8, 1)), 2), "B, H, W, C"),
        (lambda: patches.from_patches(jnp.zeros((1, 3, 4)), (4, 4, 1), 2), r"\[B, 4, 4\]"),
        (lambda: patches.sincos_2d(2, 2, 10), "width=10"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
    for function in (patches.to_patch_grid, patches.from_patch_grid):
        with pytest.raises(AssertionError, match="rank"):
            function(jnp.zeros((6, 6, 4)), 2)
        with pytest.raises(AssertionError, match="divisible"):
            function(jnp.zeros((1, 5, 5, 5)), 2)
    for shape in ((1, 5, 4, 1), (1, 4, 5, 1)):  # either side
        with pytest.raises(AssertionError, match="divisible"):
            patches.to_patch_grid(jnp.zeros(shape), 2)
