"""Tiled decoding and encoding: exact for convolutions, in memory that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import latent
from research.vision import resampling

RNG = np.random.default_rng(0)
KERNELS = [RNG.normal(size=(3, 3, 2, 2)) for _ in range(4)]


def conv(x, kernel, stride=1, padding="SAME"):
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel, x.dtype), (stride, stride), padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def decode(z):
    """Sees two cells around a cell and half of one more: a field of 7 at most."""
    h = conv(jnp.tanh(conv(z, KERNELS[0])), KERNELS[1])
    return conv(resampling.nearest(jnp.tanh(h)), KERNELS[2])


def encode(x):
    """Halves the sides, with zeros at the bottom and the right, as published encoders do."""
    h = conv(x, KERNELS[0], 2, ((0, 1), (0, 1)))
    return h, conv(jnp.tanh(h), KERNELS[3])[..., 0]


Z = RNG.normal(size=(2, 21, 13, 2))


@pytest.mark.parametrize("overlap, blend", [(8, None), (8, 2), (6, 0), (9, 3)])
def test_a_field_smaller_than_the_overlap_gives_the_whole(overlap, blend, x64):
    """By default the field of 7 takes 8; without a blend (overlap - 0) / 2 = 3 cells are enough."""
    options = {} if blend is None else {"blend": blend}
    tiled, whole = jax.jit(
        lambda z: (latent.tiled_decode(decode, z, 12, overlap, **options), decode(z))
    )(Z)
    np.testing.assert_allclose(tiled, whole, rtol=1e-12, atol=1e-12)
    assert tiled.shape == (2, 42, 26, 2)


@pytest.mark.parametrize("overlap, blend", [(8, 4), (2, 0), (0, 0)])
def test_a_larger_one_does_not(overlap, blend, x64):
    tiled, whole = jax.jit(
        lambda z: (latent.tiled_decode(decode, z, 12, overlap, blend), decode(z))
    )(Z)
    at_borders, inside = latent.seam_errors(tiled, whole, 12, max(overlap, 4), 2)
    assert at_borders > 1e-3 and inside < 1e-12


@pytest.mark.parametrize("tile, overlap, blend", [(5, 3, None), (6, 4, 4), (3, 1, 0), (64, 8, 8)])
def test_weights_sum_to_one(tile, overlap, blend, x64):
    ones = lambda z: jnp.ones((len(z), 3 * z.shape[1], 3 * z.shape[2]))
    tiled = jax.jit(lambda z: latent.tiled_decode(ones, z, tile, overlap, blend))(Z)
    np.testing.assert_allclose(tiled, np.ones((2, 63, 39)), rtol=1e-12)


def test_fading_is_linear_over_the_blend(x64):
    """Tiles that give their own first value: from 0 to 1 over 4 cells in the middle of 6."""
    first = lambda z: jnp.broadcast_to(z[:, :1, :1], z.shape)
    line = np.arange(14.0).reshape(1, 14, 1, 1)
    tiled = jax.jit(lambda z: latent.tiled_decode(first, z, 10, 6, 4))(line)
    weights = [0] * 5 + [1 / 8, 3 / 8, 5 / 8, 7 / 8] + [1] * 5
    np.testing.assert_allclose(tiled[0, :, 0, 0], 4 * np.array(weights), rtol=1e-12)


def test_encoding_gives_trees_of_the_whole(x64):
    x = RNG.normal(size=(1, 40, 24, 2))
    tiled, whole = jax.jit(lambda x: (latent.tiled_encode(encode, x, 16, 10), encode(x)))(x)
    for got, expected in zip(tiled, whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_added_up_in_float32():
    z = Z.astype(jnp.bfloat16)
    tiled = jax.eval_shape(lambda z: latent.tiled_decode(decode, z, 12, 8), z)
    assert tiled.dtype == jnp.float32


def test_memory_beside_the_image_is_constant():
    """The whole takes 16 times as much for 16 times the cells; tiles take no more for them."""

    def temporary(function, side):
        shape = jax.ShapeDtypeStruct((1, side, side, 2), np.float32)
        return jax.jit(function).lower(shape).compile().memory_analysis().temp_size_in_bytes

    tiled = lambda z: latent.tiled_decode(decode, z, 16, 8)
    exponents = [
        np.log(temporary(function, 256) / temporary(function, 64)) / np.log(16)
        for function in (tiled, decode)
    ]
    print("memory grows as the number of cells to the power", exponents)
    assert exponents[0] < 0.05 and exponents[1] > 0.9


def test_seam_errors_by_hand():
    whole, tiled = np.zeros((2, 1, 8, 1), np.float32), np.zeros((2, 1, 8, 1), np.float32)
    tiled[:, :, 3:5] = [[3.0], [4.0]]  # tiles of 5 at 0 and 3: cells 3 and 4 are both's
    tiled[1, :, 0] = 6
    at_borders, inside = latent.seam_errors(tiled, whole, 5, 2)
    np.testing.assert_allclose(at_borders, np.sqrt((9 + 16) / 2), rtol=1e-6)
    np.testing.assert_allclose(inside, np.sqrt(36 / 2 / 6), rtol=1e-6)


BAD = {
    "tile": (lambda: latent.tiled_decode(decode, Z, 0, 0), "tile=0: expected a positive whole"),
    "overlap": (lambda: latent.tiled_decode(decode, Z, 4, -1), "overlap=-1: expected a whole"),
    "blend": (lambda: latent.tiled_decode(decode, Z, 4, 2, -1), "blend=-1: expected a whole"),
    "too far": (
        lambda: latent.tiled_decode(decode, Z, 4, 4),
        "tile=4, overlap=4, blend=2: expected blend <= overlap < tile",
    ),
    "blend too wide": (
        lambda: latent.tiled_decode(decode, Z, 4, 2, 3), "blend=3: expected blend <= overlap",
    ),
    "rank": (
        lambda: latent.tiled_decode(decode, Z[0], 4, 2),
        r"z has shape \[21, 13, 2\]: expected \[B, H, W, C\]",
    ),
    "strides": (
        lambda: latent.tiled_encode(encode, Z[:, :20, :12], 10, 3),
        r"x: a tile of 10 gives 5, on tiles that start at \(0, 7, 10\) of 20: expected sizes",
    ),
    "shapes": (
        lambda: latent.seam_errors(Z, Z[:1], 4, 2), r"tiled \(2, 21, 13, 2\), whole \(1, 21, 13, 2",
    ),
    "one tile": (
        lambda: latent.seam_errors(Z, Z, 64, 2),
        "tile=64, overlap=2: tiles overlap everywhere or nowhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
