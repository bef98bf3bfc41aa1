"""Dual kernels against two-dimensional quadrature, each other and their float64 selves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from research import ntk
from research.ntk.layers import duals
from tests.research.ntk.wide import COSINES, moments

layers = ntk.layers


def normal(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def step(x):
    return (x > 0).astype(float)


# name: layer, f, f', written down again in NumPy.
CASES = {
    "relu": (layers.relu(), lambda x: np.maximum(x, 0), step),
    "leaky_relu": (
        layers.leaky_relu(0.2), lambda x: np.maximum(x, 0.2 * x), lambda x: 0.2 + 0.8 * step(x),
    ),
    "ab_relu": (
        layers.ab_relu(-0.3, 1.2),
        lambda x: np.where(x > 0, 1.2 * x, -0.3 * x),
        lambda x: 1.5 * step(x) - 0.3,
    ),
    "abs": (layers.abs(), np.abs, np.sign),
    "sign": (layers.sign(), np.sign, np.zeros_like),
    "erf": (
        layers.erf(1.3, 0.7, 0.2),
        lambda x: 1.3 * special.erf(0.7 * x) + 0.2,
        lambda x: 1.3 * 0.7 * 2 / np.sqrt(np.pi) * np.exp(-((0.7 * x) ** 2)),
    ),
    "gelu": (
        layers.gelu(),
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * normal(x),
    ),
    "sin": (
        layers.sin(0.8, 1.3, 0.4),
        lambda x: 0.8 * np.sin(1.3 * x + 0.4),
        lambda x: 0.8 * 1.3 * np.cos(1.3 * x + 0.4),
    ),
    "cos": (
        layers.cos(0.8, 1.3, 0.4),
        lambda x: 0.8 * np.cos(1.3 * x + 0.4),
        lambda x: -0.8 * 1.3 * np.sin(1.3 * x + 0.4),
    ),
    "rbf": (
        layers.rbf(0.7),
        lambda x: np.sqrt(2) * np.sin(np.sqrt(1.4) * x + np.pi / 4),
        lambda x: np.sqrt(2.8) * np.cos(np.sqrt(1.4) * x + np.pi / 4),
    ),
    "gaussian": (
        layers.gaussian(1.1, 0.6),
        lambda x: 1.1 * np.exp(-0.6 * x**2),
        lambda x: -1.32 * x * np.exp(-0.6 * x**2),
    ),
    "gabor": (
        layers.gabor(0.9, 0.6, 1.2, 0.3),
        lambda x: 0.9 * np.exp(-0.6 * x**2) * np.sin(1.2 * x + 0.3),
        lambda x: 0.9 * np.exp(-0.6 * x**2)
        * (1.2 * np.cos(1.2 * x + 0.3) - 1.2 * x * np.sin(1.2 * x + 0.3)),
    ),
    "exp": (layers.exp(0.9, 0.5), lambda x: 0.9 * np.exp(x / 2), lambda x: 0.45 * np.exp(x / 2)),
    "sigmoid_like": (
        layers.sigmoid_like(),
        lambda x: special.ndtr(x * np.sqrt(2) / 2.4020563531719796),
        lambda x: normal(x * np.sqrt(2) / 2.4020563531719796) * np.sqrt(2) / 2.4020563531719796,
    ),
    "hermite": (
        layers.hermite(3),
        lambda x: (x**3 - 3 * x) / np.sqrt(6),
        lambda x: (3 * x**2 - 3) / np.sqrt(6),
    ),
    "monomial": (layers.monomial(4), lambda x: x**4, lambda x: 4 * x**3),
    "polynomial": (
        layers.polynomial([0.5, -1.0, 0.3, 0.2]),
        lambda x: 0.5 - x + 0.3 * x**2 + 0.2 * x**3,
        lambda x: -1 + 0.6 * x + 0.6 * x**2,
    ),
    "rectified_0": (layers.rectified_monomial(0), step, np.zeros_like),
    "rectified_2": (
        layers.rectified_monomial(2), lambda x: x**2 * step(x), lambda x: 2 * x * step(x),
    ),
    "rectified_3": (
        layers.rectified_monomial(3), lambda x: x**3 * step(x), lambda x: 3 * x**2 * step(x),
    ),
}  # fmt: skip


def expectation(f, var1, var2, nngp):
    """E f(u) f(v) in polar coordinates, the angles cut where u or v changes sign."""
    theta = math.acos(np.clip(nngp / math.sqrt(var1 * var2), -1, 1))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = np.pi / 2
    cuts = np.unique(np.mod([half, -half, theta + half, theta - half], 2 * np.pi).round(14))
    cuts = np.append(cuts, cuts[0] + 2 * np.pi)
    width = np.diff(cuts)[:, None] / 2
    angle = (cuts[:-1, None] + width * (1 + nodes)).ravel()
    angle_weight = (width * weights).ravel() / (2 * np.pi)
    edges = np.linspace(0, 14, 8)
    radius = (edges[:-1, None] + (1 + nodes)).ravel()
    radius_weight = np.tile(weights, 7) * radius * np.exp(-(radius**2) / 2)
    u = math.sqrt(var1) * np.outer(radius, np.cos(angle))
    v = math.sqrt(var2) * np.outer(radius, np.cos(angle - theta))
    return radius_weight @ (f(u) * f(v)) @ angle_weight


@pytest.mark.parametrize("name", CASES)
def test_dual_kernels_are_the_integrals(x64, name):
    layer, f, derivative = CASES[name]
    at = moments()
    flat = [m.ravel() for m in at[:3]]
    wanted = {
        key: np.array([expectation(g, *one) for one in zip(*flat)]).reshape(3, 6)
        for key, g in {"nngp": f, "slope": derivative}.items()
    }
    points = np.linspace(-2, 2, 8)
    both = jax.jit(lambda x, *m: (layer.function(x), layer.function.dual(duals.make_pair(*m))))
    values, dual = both(points, *at)
    # At the poles the angle is the root of a rounding error: 1e-8.
    tolerance = np.where(np.abs(COSINES) == 1, 1e-7, 1e-10)

    def close(found, exact):
        return np.all(np.abs(found - exact) <= tolerance * (1 + np.abs(exact)))

    assert close(dual.nngp, wanted["nngp"])
    assert close(dual.slope, wanted["slope"])
    if dual.gap is not None:
        squares = [
            np.array([expectation(f, v, v, v) for v in flat[i]]).reshape(3, 6) for i in (0, 1)
        ]
        assert close(dual.gap, sum(squares) - 2 * wanted["nngp"])
    np.testing.assert_allclose(values, f(points), rtol=1e-12)


def test_known_values_of_the_arc_cosine_and_erf_kernels(x64):
    @jax.jit
    def at(cosine):
        one = jnp.ones_like(cosine)
        pair = duals.make_pair(one, one, cosine, 2 - 2 * cosine)
        return [layer.function.dual(pair) for layer in (layers.relu(), layers.erf(), layers.sign())]

    relu, erf, sign = at(jnp.array([1, 0, -1, 0.5]))
    k0, k1 = 2 * np.asarray(relu.slope), 2 * np.asarray(relu.nngp)
    np.testing.assert_allclose([k0[0], k1[0]], 1, atol=1e-12)
    np.testing.assert_allclose([k0[1], k1[1]], [1 / 2, 1 / np.pi], atol=1e-12)
    np.testing.assert_allclose([k0[2], k1[2]], 0, atol=1e-7)
    np.testing.assert_allclose(erf.nngp[0], 2 / np.pi * math.asin(2 / 3), rtol=1e-12)
    np.testing.assert_allclose(sign.nngp[3], 1 / 3, rtol=1e-12)
    assert relu.nngp.dtype == jnp.float64


def test_small_gaps_keep_the_angle_in_float32():
    # cos alone is 1 to float32: the angle comes from the gap, to a relative 1e-6.
    angle = np.float64([1e-2, 1e-4, 1e-6, 1e-8])
    gap = np.float32([2 - 2 * np.cos(angle[0]), *angle[1:] ** 2])

    @jax.jit
    def gaps(gap):
        one = jnp.ones_like(gap)
        pair = duals.make_pair(one, one, one, gap)
        return [layer.function.dual(pair).gap for layer in (layers.sign(), layers.relu())]

    sign, relu = gaps(gap)
    np.testing.assert_allclose(sign, 4 * angle / np.pi, rtol=1e-6)
    np.testing.assert_allclose(relu, angle**2 / 2 - angle**3 / (3 * np.pi), rtol=1e-3)


def test_fast_float32_arcsine_is_accurate_everywhere():
    lack = np.linspace(0, 2, 20001, dtype=np.float32)
    angle, sine = jax.jit(duals.angle_and_sine)(lack)
    exact = np.arccos(1 - np.float64(lack))
    # One unit in the last place of lack moves the angle by 1 / sine of it.
    np.testing.assert_allclose(angle, exact, atol=4e-7)
    np.testing.assert_allclose(sine, np.sin(exact), atol=4e-7)
