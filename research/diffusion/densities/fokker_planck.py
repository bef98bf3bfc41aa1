"""How far a score field is from following from any law: the Fokker-Planck residual."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from library.types import Array
from research.diffusion.curves import wide
from research.diffusion.densities import divergence
from research.diffusion.predictions import Score
from research.diffusion.processes import Process


def residual(score: Score, process: Process, x: Array, t: Array) -> Array:
    """ds/dt - grad(g^2/2 (div s + |s|^2) - f x.s), zero for the score of every noised law.

    The gradient of the Fokker-Planck equation of log p_t under dx = f x dt + g dw; Lai et al. 2023,
    arXiv:2210.04296, eq. (6). For a network it says where in space and time the field is not that
    of a density. Costs D second derivatives a point.

    Args:
        score: (x [B, ...], t [B]) -> [B, ...].
        process: the noising process.
        x: [B, ...] float, points.
        t: [B] times.
    Returns:
        [B, ...] float32 or wider, in units of the score per unit time.
    Raises:
        ValueError: if the shapes of x and t do not agree.
    """
    if t.shape != x.shape[:1]:
        raise ValueError(f"t has shape {t.shape}: expected {x.shape[:1]}, one time for each point")
    x, t, axes = wide(x), wide(t), tuple(range(1, x.ndim))

    def growth(x: Array) -> Array:
        """The sum over points of d log p/dt, but for terms that are constant in x."""
        value, trace = divergence.exact(lambda x: score(x, t), x)
        spread = 0.5 * process.diffusion(t) ** 2 * (trace + jnp.sum(value**2, axes))
        return jnp.sum(spread - process.drift_rate(t) * jnp.sum(x * value, axes))

    _, in_time = jax.jvp(lambda t: score(x, t), (t,), (jnp.ones_like(t),))
    return in_time - jax.grad(growth)(x)
