"""Divergences of vector fields on examples: exactly, or from random probes.

Forward derivatives share one evaluation of the field. Hutchinson 1990, doi:10.1080/
03610919008812866: for probes v of unit covariance the mean of v.Av is the trace of A. Signs
(Rademacher) have the variance 2 sum_{i != j} A_ij^2 for symmetric A, standard normals 2 |A|_F^2.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key
from research.diffusion.curves import wide

Field = Callable[[Array], Array]  # [B, ...] -> [B, ...], example by example
ProbeLaw = Callable[[Key, tuple[int, ...], jnp.dtype], Array]  # e.g. jax.random.rademacher

_BLOCK = 64  # derivatives held at a time


def slopes(field: Field, x: Array, directions: Array) -> tuple[Array, Array]:
    """The field and its slopes v.(dF/dx)v along given directions.

    Args:
        field: F, acting on each example alone.
        x: [B, ...] float.
        directions: v, [K, B, ...].
    Returns:
        F(x) [B, ...] and the slopes [K, B], of x and v in float32 or wider.
    """
    x, directions = wide(x), wide(directions)
    chex.assert_shape(directions, (None, *x.shape))
    value, linear = jax.linearize(field, x)
    axes = tuple(range(1, x.ndim))
    slope = lambda v: jnp.sum(v * wide(linear(v)), axes)  # noqa: E731
    if directions.shape[0] <= _BLOCK:
        return value, jax.vmap(slope)(directions)
    return value, jax.lax.map(slope, directions, batch_size=_BLOCK)


def exact(field: Field, x: Array) -> tuple[Array, Array]:
    """The field [B, ...] and its divergence [B], by one forward derivative a dimension."""
    x = wide(x)
    dim = x[0].size
    basis = jnp.eye(dim, dtype=x.dtype).reshape(dim, 1, *x.shape[1:])
    value, diagonal = slopes(field, x, jnp.broadcast_to(basis, (dim, *x.shape)))
    return value, diagonal.sum(0)


def probes(law: ProbeLaw, rngs: Key, num_probes: int, x: Array) -> Array:
    """Random directions [K, B, ...], float32 or wider; an example's come from its key, rngs [B]."""
    x = wide(x)
    checks.count("num_probes", num_probes)
    chex.assert_shape(rngs, x.shape[:1])
    shape = (num_probes, *x.shape[1:])
    return jax.vmap(lambda rng: law(rng, shape, x.dtype), out_axes=1)(rngs)
