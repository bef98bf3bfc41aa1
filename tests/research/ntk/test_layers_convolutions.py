"""Convolutions over padding and masked positions against kernels of explicit patches."""

import numpy as np
import pytest

from research.ntk import layers
from tests.research.ntk.linear import AFFINE, assert_exact
from tests.research.ntk.wide import points

WEIGHT, BIAS = 1.4, 0.2


def rectified(q):
    """E relu(u) relu(v) and E relu'(u) relu'(v) for Gaussians of covariance q, [P, P]."""
    scale = np.sqrt(np.outer(np.diag(q), np.diag(q)))
    angle = np.arccos(np.clip(q / scale, -1, 1))
    relu = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return relu, (np.pi - angle) / (2 * np.pi)


def by_patches(x):
    """NNGP kernel and NTK of one SAME 3 x 3 convolution, ReLU, average pooling, one output."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    patches = np.stack(windows, -1).reshape(n * h * w, 9 * c)
    q = WEIGHT**2 * patches @ patches.T / (9 * c) + BIAS**2
    relu, step = rectified(q)

    def pool(kernel):
        return WEIGHT**2 * kernel.reshape(n, h * w, n, h * w).mean((1, 3))

    nngp = pool(relu) + BIAS**2
    return nngp, nngp + pool(step * q)


def test_average_pool_after_same_convolution(x64):
    weights = dict(weight_std=WEIGHT, bias_std=BIAS)
    conv = layers.conv(1, (3, 3), padding="SAME", **weights)
    last = layers.dense(1, **weights)
    net = layers.serial(conv, layers.relu(), layers.global_average_pool(), last)
    # A constant part, as of images' background, makes the border count.
    x = points(3, 4, 5, 2) * 0.3 - 1
    found = net.kernel(x)
    nngp, ntk = by_patches(x)
    np.testing.assert_allclose(found.nngp, nngp, rtol=1e-7)  # arccos near 1 takes half the digits
    np.testing.assert_allclose(found.ntk, ntk, rtol=1e-7)


def by_neighbours(x, mask):
    """NTK [N, S, N, S] of dense, ReLU, a SAME convolution of 3, ReLU; what is masked is zero."""
    n, length, c = x.shape
    exists = np.outer(mask.ravel(), mask.ravel())

    def window_means(kernel):
        kernel = np.where(exists, kernel, 0).reshape(n, length, n, length)
        padded = np.pad(kernel, ((0, 0), (1, 1), (0, 0), (1, 1)))
        moved = [padded[:, o : o + length, :, o : o + length] for o in range(3)]
        return sum(moved).reshape(n * length, n * length) / 3

    flat = x.reshape(n * length, c)
    q = WEIGHT**2 * flat @ flat.T / c + BIAS**2
    relu, step = rectified(q)
    after = WEIGHT**2 * window_means(relu) + BIAS**2
    ntk = after + WEIGHT**2 * window_means(step * q)
    return (ntk * rectified(after)[1]).reshape(n, length, n, length)


def test_next_to_masked_positions(x64):
    """Positions alike: their windows differ only by what is masked, which must not count as alike.

    Example 0 lacks its last position, example 1 its first and its last two.
    """
    weights = dict(weight_std=WEIGHT, bias_std=BIAS)
    net = layers.serial(
        layers.dense(1, **weights), layers.relu(), layers.conv(1, (3,), **weights), layers.relu()
    )
    x = points(2, 6, 2) * 0.03 - 1
    mask = np.array([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]], bool)
    found = net.kernel(x, mask1=mask, get="ntk", positions="all").transpose(0, 2, 1, 3)
    expected = by_neighbours(x, mask)
    both = mask[:, :, None, None] & mask
    np.testing.assert_allclose(np.where(both, found, 0), np.where(both, expected, 0), rtol=1e-7)


def test_equal_positions_are_the_diagonal_of_all(x64):
    net = layers.serial(
        layers.conv(4, (3,), bias_std=0.2),
        layers.relu(),
        layers.conv(4, (2,), strides=2),
        layers.relu(),
    )
    x1, x2 = points(2, 5, 3), points(3, 5, 3, seed=1)
    for second in (x2, None):
        full = net.kernel(x1, second, get="ntk", positions="all")
        equal = net.kernel(x1, second, get="ntk")
        np.testing.assert_allclose(equal, np.diagonal(full, axis1=2, axis2=3), rtol=1e-12)


def test_masked_positions_are_zeros_to_a_convolution(x64):
    """As the zeros of its padding are; examples of different masks too."""
    net = layers.serial(
        layers.dense(4, bias_std=0.2),
        layers.relu(),
        layers.conv(4, (3,), bias_std=0.1),
        layers.relu(),
    )
    x = points(2, 3, 2)
    padded = np.concatenate([x, 100 * points(2, 2, 2, seed=2)], 1)
    exists = np.arange(5)[None] < np.array([[3], [3]])
    short = net.kernel(x, get="ntk", positions="all")
    long = net.kernel(padded, get="ntk", positions="all", mask1=exists)
    np.testing.assert_allclose(long[..., :3, :3], short, rtol=1e-10)
    exists = np.arange(5)[None] < np.array([[3], [2]])
    full = net.kernel(padded, get="ntk", positions="all", mask1=exists)
    equal = net.kernel(padded, get="ntk", mask1=exists)
    np.testing.assert_allclose(equal, np.diagonal(full, axis1=2, axis2=3), rtol=1e-10)


@pytest.mark.parametrize("kind", ["dense", "conv", "conv_transpose", "conv_local"])
def test_the_plain_layer_is_the_mean_of_products(x64, kind):
    """Nothing given: unit weights, no bias, every position alone; windows of one see one."""
    x = points(2, 3, 5)
    net = getattr(layers, kind)(4, *([] if kind == "dense" else [(1,)]))
    assert net.shape((3, 5)) == (3, 4)
    expected = np.einsum("nsc,mtc->nmst", x, x) / 5
    if kind == "conv_local":
        expected = expected * np.eye(3)  # weights of different positions are independent
    found = net.kernel(x, positions="all")
    np.testing.assert_allclose(found.nngp, expected, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, expected, rtol=1e-12)


LINEAR = {
    "conv": (layers.conv(1, (3, 2), **AFFINE), (3, 4, 2)),
    "strides": (layers.conv(1, (2, 2), strides=2, padding="VALID"), (4, 5, 2)),
    "circular": (
        layers.conv(1, (2, 3), padding="CIRCULAR", strides=(1, 2), **AFFINE), (4, 3, 2)
    ),
    "standard": (layers.conv(1, (2, 2), parameterisation="standard"), (3, 3, 2)),
    "1d": (layers.conv(1, (3,), dilations=2, **AFFINE), (5, 2)),
    "3d": (layers.conv(1, (2, 3, 2)), (2, 2, 2, 1)),
    "large": (layers.conv(1, (3, 5), strides=(2, 1)), (5, 4, 1)),
    "transpose": (layers.conv_transpose(1, (3, 2), strides=2, **AFFINE), (2, 3, 2)),
    "transpose_valid": (
        layers.conv_transpose(1, (2, 3), strides=(1, 2), padding="VALID"), (2, 3, 2)
    ),
    "transpose_standard": (layers.conv_transpose(1, (2,), parameterisation="standard"), (3, 2)),
    "local": (layers.conv_local(1, (2, 2), **AFFINE), (3, 3, 2)),
    "local_strides": (
        layers.conv_local(1, (2, 2), strides=(2, 1), padding="VALID", **AFFINE), (5, 3, 2)
    ),
    "local_standard": (layers.conv_local(1, (2,), parameterisation="standard"), (3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("half", [0, 1])
def test_kernels_are_exact(x64, half):
    assert_exact(dict(list(LINEAR.items())[half::2]))
