"""Dual kernels of any function by quadrature, and of given kernels by their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk
from research.ntk.layers import duals
from tests.research.ntk.wide import moments

layers = ntk.layers


SMOOTH = {
    "erf": (layers.erf(), jax.scipy.special.erf),
    "gelu": (layers.gelu(), lambda x: jax.nn.gelu(x, approximate=False)),
    "sin": (layers.sin(), jnp.sin),
    "gaussian": (layers.gaussian(1.0, 0.5), lambda x: jnp.exp(-0.5 * x**2)),
    "polynomial": (layers.polynomial([1.0, 0.5, 0.2]), lambda x: 1 + 0.5 * x + 0.2 * x**2),
}


@functools.cache
def by_quadrature():
    """Duals of SMOOTH by quadrature and in closed form, in one compilation."""
    numerical = {n: layers.elementwise(f, num_nodes=96) for n, (_, f) in SMOOTH.items()}
    nets = numerical, {name: layer for name, (layer, _) in SMOOTH.items()}

    @jax.jit
    def evaluate(*moments):
        pair = duals.make_pair(*moments)
        return [{n: layer.function.dual(pair) for n, layer in x.items()} for x in nets]

    return evaluate(*(m * 0.6 for m in moments()))


@pytest.mark.parametrize("name", SMOOTH)
def test_any_function_by_quadrature_is_its_closed_form(x64, name):
    numerical, closed = by_quadrature()
    for kind in ("nngp", "slope"):
        found, wanted = (getattr(dual[name], kind) for dual in (numerical, closed))
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


def test_the_derivative_of_a_given_kernel_is_the_tangent_kernel(x64):
    def known(v1, v2, q):
        return 2 / jnp.pi * jnp.arcsin(2 * q / jnp.sqrt((1 + 2 * v1) * (1 + 2 * v2)))

    @jax.jit
    def both(*moments):
        pair = duals.make_pair(*moments)
        given = layers.elementwise(jax.scipy.special.erf, kernel=known)
        return given.function.dual(pair), layers.erf().function.dual(pair)

    given, closed = both(*moments())
    np.testing.assert_allclose(given.nngp, closed.nngp, rtol=1e-10)
    np.testing.assert_allclose(given.slope, closed.slope, rtol=1e-10)
