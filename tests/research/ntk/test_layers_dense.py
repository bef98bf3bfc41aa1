"""Dense layers, layer norm and dropout: closed forms, angles of large beside tiny inputs."""

import jax
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


def test_layer_norm_over_positions(x64):
    """One scale an example: of the mean square over all positions that exist, plus epsilon."""
    net = L.serial(L.dense(3, **AFFINE), L.layer_norm(over_positions=True, epsilon=0.4))
    x, mask = points(2, 3, 2), np.array([[1, 1, 0], [0, 1, 0]], bool)
    both = mask[:, None, :, None] & mask[None, :, None, :]
    params = jax.device_get(net.init(jax.random.key(0), (3, 2)))
    for exists, keep in ((np.ones((2, 3)), None), (mask, mask)):
        q = 1.4**2 * np.einsum("nsc,mtc->nmst", x, x) / 2 + 0.3**2
        variances = np.einsum("nnss->ns", q)
        scale = (np.sum(variances * exists, 1) / exists.sum(1) + 0.4) ** -0.5
        q *= (scale[:, None] * scale)[..., None, None] * (1 if keep is None else both)
        kernels = net.kernel(x, mask1=keep, positions="all")
        np.testing.assert_allclose(kernels.nngp, q, rtol=1e-12)
        np.testing.assert_allclose(kernels.ntk, q, rtol=1e-12)
        hidden = x @ params[0]["w"] * (1.4 / 2**0.5) + 0.3 * params[0]["b"]
        hidden = hidden * exists[..., None]
        square = np.sum(hidden**2, (1, 2)) / (3 * exists.sum(1)) + 0.4
        found = net.apply(params, x, mask=keep)
        np.testing.assert_allclose(found, hidden / square[:, None, None] ** 0.5, rtol=1e-10)


LINEAR = {
    "dense": (L.dense(1, **AFFINE), (3, 2)),
    "standard": (L.dense(1, parameterisation="standard", **AFFINE), (3, 2)),
}


def test_kernels_are_exact(x64):
    assert_exact(LINEAR)
