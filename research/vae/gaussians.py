"""Diagonal Gaussians by mean and log variance, elementwise: divergence, density, draws.

Nothing here sums or averages: an entry of a result belongs to an entry of the latent. A bound sums
them over the latent axes. Results are float32, or wider where the arguments are.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from library.types import Array, Key
from research.vae.checks import wide


def kl(
    mean: Array, log_var: Array, mean_p: Array | float = 0.0, log_var_p: Array | float = 0.0
) -> Array:
    """KL(N(mean, e^log_var), N(mean_p, e^log_var_p)) in nats, one number an entry.

    Kingma and Welling 2014, arXiv:1312.6114, appendix B, for a standard normal prior.

    Args:
        mean, log_var: float, the posterior q.
        mean_p, log_var_p: the prior p, of the same shape or scalar.
    Returns:
        float >= 0 of the common shape.
    """
    mean, log_var, mean_p, log_var_p = wide(mean, log_var, mean_p, log_var_p)
    gap = log_var - log_var_p
    # expm1: exp(gap) - 1 - gap loses all digits where posterior and prior are close.
    return 0.5 * (jnp.expm1(gap) - gap + jnp.square(mean - mean_p) * jnp.exp(-log_var_p))


def log_chi_square(
    mean: Array, log_var: Array, mean_p: Array | float = 0.0, log_var_p: Array | float = 0.0
) -> Array:
    """log(1 + chi^2(p, q)) = log E_q (p/q)^2 of a proposal q for p; infinite if v <= v_p / 2.

    With r = v / v_p it is log r - log(2r - 1) / 2 + (mean - mean_p)^2 / (v_p (2r - 1)). Summed over
    the latent it is that of the whole; K independent weights then estimate with relative variance
    chi^2 / K, and the gap of IWAE falls as chi^2 / 2K. Where it is infinite the gap falls slower.

    Args:
        mean, log_var: float, the proposal q.
        mean_p, log_var_p: the target p, of the same shape or scalar.
    Returns:
        float >= 0 of the common shape, inf where q is too narrow for p.
    """
    mean, log_var, mean_p, log_var_p = wide(mean, log_var, mean_p, log_var_p)
    gap = log_var - log_var_p
    inner = 1 + 2 * jnp.expm1(gap)  # 2r - 1
    finite = inner > 8 * jnp.finfo(gap.dtype).eps
    inner = jnp.where(finite, inner, 1)
    value = gap - 0.5 * jnp.log(inner) + jnp.square(mean - mean_p) * jnp.exp(-log_var_p) / inner
    return jnp.where(finite, value, jnp.inf)


def log_prob(x: Array, mean: Array | float = 0.0, log_var: Array | float = 0.0) -> Array:
    """log N(x; mean, e^log_var) in nats, one number an entry; by default a standard normal."""
    x, mean, log_var = wide(x, mean, log_var)
    return -0.5 * (math.log(2 * math.pi) + log_var + jnp.square(x - mean) * jnp.exp(-log_var))


def sample(rng: Key, mean: Array, log_var: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draws mean + e^(log_var / 2) noise, through which gradients flow (reparameterisation).

    Args:
        rng: key of the noise.
        mean, log_var: float, of one shape, or one of them scalar.
        shape: of the draws of each entry; (K,) gives [K, ...].
    Returns:
        float of shape `shape` + that of the entries.
    """
    mean, log_var = wide(mean, log_var)
    entries = jnp.broadcast_shapes(mean.shape, log_var.shape)
    noise = jax.random.normal(rng, shape + entries, mean.dtype)
    mean, std = (jnp.broadcast_to(value, noise.shape) for value in (mean, jnp.exp(log_var / 2)))
    return mean + std * noise
