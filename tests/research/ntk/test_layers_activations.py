"""Nonlinearities at infinite width: closed forms of whole networks, float32 on hard inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from tests.research.ntk.wide import RELU, points, relu_net

L = ntk.layers


@pytest.mark.parametrize("depth", [1, 3])
def test_relu_network_is_its_recursion(x64, depth):
    """Arora et al. 2019, arXiv:1904.11955, with the reference's convention of variances."""
    x = points(5, 4)
    x = np.concatenate([x, -x[:1], 2 * x[1:2]])
    kernels = relu_net(depth).kernel(x)
    variance = np.sum(np.square(x), 1) / 4
    norm = np.sqrt(np.outer(variance, variance))
    sigma = np.asarray(x @ x.T) / 4 * 2
    theta = sigma.copy()
    for _ in range(depth):
        cosine = np.clip(sigma / (2 * norm), -1, 1)
        angle = np.arccos(cosine)
        np.fill_diagonal(angle, 0)
        slope = (np.pi - angle) / np.pi
        sigma = 2 * norm * (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
        theta = sigma + theta * slope
    # The readout's weights have variance 1, not 2. The last pairs are parallel: root of rounding.
    np.testing.assert_allclose(kernels.nngp, sigma / 2, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(kernels.ntk, theta / 2, rtol=2e-8, atol=2e-8)
    unit = relu_net(depth).kernel(x / np.sqrt(variance)[:, None])
    np.testing.assert_allclose(2 * np.diagonal(unit.nngp), 2, rtol=1e-10)
    np.testing.assert_allclose(2 * np.diagonal(unit.ntk), 2 * (depth + 1), rtol=1e-10)


def test_erf_and_sign_networks(x64):
    x = points(4, 3)
    q = np.asarray(1.3**2 * (x @ x.T) / 3 + 0.2**2)
    v = 1 + 2 * np.diag(q)
    net = L.serial(L.dense(9, weight_std=1.3, bias_std=0.2), L.erf(), L.dense(1))
    kernels = net.kernel(x)
    denominator = np.outer(v, v)
    sigma = 2 / np.pi * np.arcsin(2 * q / np.sqrt(denominator))
    theta = sigma + q * 4 / np.pi / np.sqrt(denominator - 4 * q**2)
    np.testing.assert_allclose(kernels.nngp, sigma, rtol=1e-10)
    np.testing.assert_allclose(kernels.ntk, theta, rtol=1e-10)
    cosine = np.clip(q / np.sqrt(np.outer(np.diag(q), np.diag(q))), -1, 1)
    np.fill_diagonal(cosine, 1)
    net = L.serial(L.dense(9, weight_std=1.3, bias_std=0.2), L.sign(), L.dense(1))
    np.testing.assert_allclose(net.kernel(x, get="ntk"), 2 / np.pi * np.arcsin(cosine), rtol=1e-10)


def test_exp_normalized_is_an_exponential_of_the_angle(x64):
    """A readout's NTK adds the slope d nngp / d q = gamma nngp / r times q = r cos."""
    x, gamma = points(4, 3), 0.7
    norm = np.sqrt(np.sum(np.square(x), 1))
    cosine = np.asarray(x @ x.T) / np.outer(norm, norm)
    net = L.serial(L.dense(4, weight_std=1.7), L.exp_normalized(gamma, shift=-0.5), L.dense(1))
    kernels, nngp = net.kernel(x), np.exp(gamma * (cosine - 0.5))
    np.testing.assert_allclose(kernels.nngp, nngp, rtol=1e-10)
    np.testing.assert_allclose(kernels.ntk, nngp * (1 + gamma * cosine), rtol=1e-10)


NONLINEAR = {
    "relu": L.relu(), "leaky_relu": L.leaky_relu(0.1), "abs": L.abs(), "sign": L.sign(),
    "erf": L.erf(), "gelu": L.gelu(), "sin": L.sin(), "cos": L.cos(), "rbf": L.rbf(),
    "gaussian": L.gaussian(), "gabor": L.gabor(), "exp": L.exp(1.0, 0.5),
    "hermite": L.hermite(2), "monomial": L.monomial(2), "polynomial": L.polynomial([1, 0.5, 0.1]),
    "rectified_0": L.rectified_monomial(0), "rectified_2": L.rectified_monomial(2),
    "sigmoid_like": L.sigmoid_like(), "quadrature": L.elementwise(jnp.tanh, num_nodes=24),
    "layer_norm": L.serial(L.layer_norm(), L.erf()), "exp_normalized": L.exp_normalized(),
}  # fmt: skip


JUMPS = ("sign", "rectified_0")
SMOOTH = tuple(name for name in NONLINEAR if name not in JUMPS)
GROUPS = [*(SMOOTH[i::4] for i in range(4)), JUMPS]


def hard_inputs():
    """[10, 1, 12]: identical, opposite, zero, tiny, 1e-8 apart, 1 - cos = 1e-7, longer by half."""
    x = np.asarray(points(2, 12, seed=4), np.float64)
    other = x[1] - x[0] * (x[0] @ x[1]) / (x[0] @ x[0])
    other *= np.linalg.norm(x[0]) / np.linalg.norm(other)
    angle = np.sqrt(2e-7)
    near = np.cos(angle) * x[0] + np.sin(angle) * other
    rows = [x[0], x[0], -x[0], 0 * x[0], 1e-8 * x[1], x[0] + 1e-8, near, 1.5 * x[0], x[1], -x[1]]
    return np.float32(rows)[:, None]  # at one position: both kernels in one pass


def hard_kernels(names):
    """Both kernels in float32, their float64 selves, gradients of one hidden layer's in float32."""

    def kernels(x, deep=True):
        out = {}
        for name in names:
            f = NONLINEAR[name]
            second = (L.dense(2, bias_std=0.1), f) if deep else ()
            pair = L.serial(L.dense(2, **RELU), f, *second, L.dense(1)).kernel(x)
            out[name] = jnp.stack([pair.nngp, pair.ntk])[..., 0]  # [2, N, N]
        return out

    def total(x):
        return sum(k.sum() for k in kernels(x, deep=False).values())

    x = hard_inputs()
    found, grads = jax.device_get(jax.jit(lambda x: (kernels(x), jax.grad(total)(x)))(x))
    with jax.enable_x64(True):
        exact = jax.device_get(jax.jit(kernels)(np.float64(x)))
    return found, exact, grads


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_float32_is_safe_for_hard_inputs(names, optimized):
    """Finite with finite gradients, diagonal to 1e-5, all else to 1e-3 of the largest entry.

    Parallel and opposite inputs of different lengths have an angle whose cosine is rounded,
    sqrt(2 delta) for an error delta. A jump's kernel is linear in the angle, so a second one takes
    the root again: (2 / pi)^(3/2) 2^(3/4) delta^(1/4), with delta up to 4 units in the last place.
    Compiled as users compile it: without optimizations elementary functions err by some 1e-16.
    """
    found, exact, grads = hard_kernels(names)
    root = (2 / np.pi) ** 1.5 * 2**0.75 * (4 * np.finfo(np.float32).eps) ** 0.25
    assert np.isfinite(grads).all()
    for name, wanted in exact.items():
        got = found[name]
        assert np.isfinite(got).all(), name
        own, true = (np.diagonal(k, axis1=1, axis2=2) for k in (got, wanted))
        scale = np.maximum(np.abs(true), 1e-6 * np.abs(wanted).max())
        assert np.max(np.abs(own - true) / scale) < 1e-5, name
        # Rows 0 and 1 are the same, which the kernel is not told.
        np.testing.assert_allclose(got[:, :2, :2], wanted[:, :2, :2], rtol=1e-5, err_msg=name)
        loose = root if name in JUMPS else 1e-3
        assert np.max(np.abs(got - wanted)) < loose * np.abs(wanted).max(), name
