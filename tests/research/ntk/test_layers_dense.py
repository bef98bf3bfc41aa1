"""Dense layers, layer norm and dropout: closed forms, angles of large beside tiny inputs."""

import numpy as np
import pytest

from research import ntk
from tests.research.ntk.linear import AFFINE, assert_exact
from tests.research.ntk.wide import points

L = ntk.layers


def test_linear_network_and_given_positions(x64):
    x1, x2 = points(3, 2, 4), points(2, 2, 4, seed=1)
    net = L.serial(L.dense(3), L.dense(3), L.dense(2))
    exact = np.einsum("nsc,mtc->nmst", x1, x2) / 4
    np.testing.assert_allclose(
        net.kernel(x1, x2, get="ntk", positions="all"), 3 * exact, rtol=1e-12
    )
    equal = np.diagonal(exact, axis1=2, axis2=3)
    np.testing.assert_allclose(net.kernel(x1, x2, get="nngp"), equal, rtol=1e-12)
    flat = L.serial(net, L.flatten()).kernel(x1, x2, get="ntk")
    np.testing.assert_allclose(flat, 3 * equal.mean(-1), rtol=1e-12)


def test_layer_norm_of_large_beside_tiny():
    """float32, where the two terms of a mapped gap are 1e8 and cancel: angles must survive."""
    large, tiny = 100 * points(6, 5), 1e-8 * points(6, 5, seed=1)
    net = L.serial(L.dense(2), L.layer_norm(), L.relu())
    found = net.kernel(large, tiny, get="nngp")
    a, b = np.asarray(large, np.float64), np.asarray(tiny, np.float64)
    std1, std2 = (np.sqrt(np.mean(np.square(z), 1)) for z in (a, b))
    cosine = a @ b.T / 5 / np.outer(std1, std2)
    angle = np.arccos(cosine)
    radius = std2 / np.sqrt(std2**2 + 1e-12)  # layer_norm's epsilon; that of the large is 1
    expected = radius * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * radius.max())


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_tiles_of_one_set_keep_its_diagonal(x64, get):
    net, x = L.serial(L.dense(4, bias_std=0.2), L.relu(), L.dropout(0.3), L.dense(1)), points(5, 3)
    whole = net.kernel(x, get=get)
    np.testing.assert_allclose(net.kernel(x, get=get, batch_size=2), whole, rtol=1e-12)


LINEAR = {
    "dense": (L.dense(1, **AFFINE), (3, 2)),
    "standard": (L.dense(1, parameterisation="standard", **AFFINE), (3, 2)),
}


def test_kernels_are_exact(x64):
    assert_exact(LINEAR)
