"""Dual kernels of any scalar function, by Gauss-Hermite quadrature of its Hermite coefficients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array
from research.ntk.layers import duals
from research.ntk.layers import state as states
from research.ntk.layers.duals import Dual, Pair


@flax.struct.dataclass
class Numerical:
    """Any scalar function, differentiable but for kinks; E f f by Mehler's formula.

    E f(u) f(v) = sum_k cos^k a_k(v1) a_k(v2), a_k(v) = E f(sqrt(v) z) h_k(z) for a standard normal
    z and the orthonormal Hermite polynomials h_k, k < num_nodes, the expectations by the
    Gauss-Hermite rule of num_nodes nodes. Exact for polynomials of degree < num_nodes; geometric
    convergence for entire functions, a power of num_nodes where f or f' jumps. The coefficients
    cost num_nodes evaluations a position of one example; pairs cost num_nodes multiplications.
    """

    function: Callable[[Array], Array] = flax.struct.field(pytree_node=False)
    num_nodes: int = flax.struct.field(pytree_node=False, default=64)

    def __call__(self, x: Array) -> Array:
        """f, elementwise."""
        return self.function(x)

    def dual(self, pair: Pair) -> Dual:
        """E f f, and E f' f' with f' by `jax.grad`."""
        lack = duals.one_minus_cosine(pair.var1, pair.var2, pair.nngp, pair.gap)
        nngp = self._series(self.function, pair, 1 - lack)
        return Dual(nngp, None, self._series(_derivative(self.function), pair, 1 - lack))

    def _series(self, function: Callable, pair: Pair, cosine: Array) -> Array:
        first, second = (self._coefficients(function, v) for v in (pair.var1, pair.var2))

        def step(total, ab):
            return (total * cosine + ab[0] * ab[1], None)

        return jax.lax.scan(step, jnp.zeros_like(cosine), (first, second), reverse=True)[0]

    def _coefficients(self, function: Callable, var: Array) -> Array:
        """a_k(v): [num_nodes, *var.shape]."""
        nodes, weighted = (jnp.asarray(a, var.dtype) for a in _rule(self.num_nodes))
        points = states.highest("...,m->...m", states.safe_sqrt(var), nodes)
        values = function(points.reshape(-1)).reshape(points.shape)
        return jnp.moveaxis(states.highest("...m,km->...k", values, weighted), -1, 0)


@flax.struct.dataclass
class WithKernel:
    """A scalar function with the user's kernel(v1, v2, q) = E f(u) f(v); slope by `jax.jvp`."""

    function: Callable[[Array], Array] = flax.struct.field(pytree_node=False)
    kernel: Callable[[Array, Array, Array], Array] = flax.struct.field(pytree_node=False)

    def __call__(self, x: Array) -> Array:
        """f, elementwise."""
        return self.function(x)

    def dual(self, pair: Pair) -> Dual:
        """Price's theorem: E f' f' is the kernel's derivative by q."""
        return duals.smooth(lambda p: self.kernel(p.var1, p.var2, p.nngp), pair)


def _derivative(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    one = jax.grad(lambda x: function(x[None])[0])
    return jax.vmap(one)


@functools.cache
def _rule(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [M], and h_k(node) times the node's weight [K, M], for the normal distribution."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    values = [np.ones(num_nodes), nodes]
    for k in range(1, num_nodes - 1):
        values.append((nodes * values[k] - np.sqrt(k) * values[k - 1]) / np.sqrt(k + 1))
    return nodes, np.stack(values[:num_nodes]) * weights
