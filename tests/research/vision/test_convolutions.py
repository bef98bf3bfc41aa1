"""Group norm by its statistics, a convolution of doubled pixels by doubling, maps of pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vision import convolutions, resampling


def test_group_norm_statistics(x64):
    x = 100 + jax.random.normal(jax.random.key(0), (2, 4, 4, 6), jnp.float64)
    norm = convolutions.GroupNorm(3, epsilon=0.0)
    out = norm.apply(norm.init(jax.random.key(0), x), x).reshape(2, 16, 3, 2)
    np.testing.assert_allclose(out.mean((1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(out.var((1, 3)), 1, rtol=1e-10)


def test_group_norm_scales_shifts_and_keeps_the_dtype():
    """With an epsilon that counts, in NumPy; statistics of bfloat16 are float32's."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (2, 3, 5, 6)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    norm = convolutions.GroupNorm(2, epsilon=0.5)
    apply = jax.jit(norm.apply)
    params = {"params": {"scale": scale, "bias": bias}}
    groups = x.astype(np.float64).reshape(2, 15, 2, 3)
    centred = groups - groups.mean((1, 3), keepdims=True)
    plain = centred / np.sqrt(centred.var((1, 3), keepdims=True) + 0.5)
    expected = plain.reshape(x.shape) * scale + bias
    np.testing.assert_allclose(apply(params, x), expected, rtol=1e-5, atol=1e-5)
    half = apply(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    # bfloat16 carries 8 bits: input and output are rounded by 2^-9 of values up to about 5.
    np.testing.assert_allclose(half.astype(np.float32), expected, atol=0.05)
    started = jax.eval_shape(norm.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, started) == {"scale": (6,), "bias": (6,)}


def test_a_map_of_pixels_is_a_convolution_of_one_pixel():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(4, 6))
    found = convolutions.channelwise(lambda rows: rows @ kernel.astype(np.float32), jnp.asarray(x))
    np.testing.assert_allclose(found, np.einsum("bhwc,cf->bhwf", x, kernel), rtol=1e-4, atol=1e-5)


def test_convolution_of_doubled_pixels(x64):
    """Equal to doubling the pixels and then convolving, in value and in both gradients."""
    noise = np.random.default_rng(0)
    x, cotangent = noise.standard_normal((2, 3, 5, 4)), noise.standard_normal((2, 6, 10, 6))
    kernel, bias = noise.standard_normal((3, 3, 4, 6)), noise.standard_normal(6)
    params = {"params": {"kernel": kernel, "bias": bias}}
    plain, folded = nn.Conv(6, (3, 3)), convolutions.ConvOfDoubled(6)
    inputs = (params, jnp.asarray(x))

    @jax.jit
    def both(inputs, cotangent):
        one, pull_one = jax.vjp(lambda p, x: plain.apply(p, resampling.nearest(x)), *inputs)
        two, pull_two = jax.vjp(folded.apply, *inputs)
        return (one, pull_one(cotangent)), (two, pull_two(cotangent))

    expected, found = both(inputs, jnp.asarray(cotangent))
    for one, two in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-11, atol=1e-11)


def test_bad_shapes_are_named():
    image = jnp.zeros((4, 4, 6))
    for module in (convolutions.GroupNorm(2), convolutions.ConvOfDoubled(3)):
        with pytest.raises(AssertionError, match="rank"):
            jax.eval_shape(module.init, jax.random.key(0), image)
    with pytest.raises(AssertionError, match="divisible"):
        jax.eval_shape(convolutions.GroupNorm(4).init, jax.random.key(0), image[None])
    with pytest.raises(AssertionError, match="rank"):
        convolutions.channelwise(lambda rows: rows, image)
