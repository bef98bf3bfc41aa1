"""Moments of estimators of one gradient: their variance, and the signal in their noise."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key
from research.vae import bounds, gaussians, gradients

# Variance of each estimator of d/dmu E z^2, z ~ N(mu, 1), with one draw.
VARIANCES = {
    "path": lambda mu: 4.0 + 0 * mu,
    "score function": lambda mu: mu**4 + 14 * mu**2 + 15,
    "score, baseline": lambda mu: 8 * mu**2 + 10,
}


def spread(rng: Key, mean: float, num: int) -> dict[str, float]:
    """Variance over draws of each estimator of d/dmean E z^2, z ~ N(mean, 1)."""

    def one(estimate, key: Key) -> Array:
        return jax.grad(lambda mu: estimate(mu, key))(jnp.float32(mean))

    def by_path(mu: Array, key: Key) -> Array:
        return gradients.pathwise(jnp.square, key, mu, jnp.zeros(()))[0]

    def by_score(mu: Array, key: Key, baseline: float = 0.0) -> Array:
        z = jax.lax.stop_gradient(gaussians.sample(key, mu, jnp.zeros(()), (1,)))
        return gradients.score_function(z**2, gaussians.log_prob(z, mu), baseline)[0]

    estimates = (by_path, by_score, functools.partial(by_score, baseline=mean**2 + 1))
    keys = jax.random.split(rng, num)
    many = lambda estimate: jax.jit(jax.vmap(functools.partial(one, estimate)))(keys)
    return {
        name: float(np.asarray(many(estimate), np.float64).var())
        for name, estimate in zip(VARIANCES, estimates, strict=True)
    }


def signal_to_noise(rng: Key, count: int, num: int, dim: int, shift: float) -> dict[str, float]:
    """Of gradients of the bound of `count` draws: for mu, for b, and for b by `DReG`."""
    move, data, draws = jax.random.split(rng, 3)
    mu, b = shift * jax.random.normal(move, (2, dim))
    x = jax.random.normal(data, (1, dim)) * math.sqrt(2.0)  # of the marginal at mu = 0
    log_var = jnp.log(jnp.asarray(2 / 3, x.dtype))

    def estimates(key: Key) -> Array:  # [3, dim]
        def laws(mu: Array, b: Array):
            log_joint = lambda z: (
                gaussians.log_prob(z, mu[None, None]) + gaussians.log_prob(z, x[None])
            ).sum(-1)
            log_q = lambda b, z: gaussians.log_prob(z, (x / 2 + b[None])[None], log_var).sum(-1)
            z = gaussians.sample(key, x / 2 + b[None], log_var, (count,))
            return log_joint, log_q, z

        def plain(mu: Array, b: Array) -> Array:
            log_joint, log_q, z = laws(mu, b)
            return bounds.iwae(log_joint(z) - log_q(b, z))[0]

        def double(b: Array) -> Array:
            log_joint, log_q, z = laws(mu, b)
            return gradients.doubly_reparameterized(log_joint, log_q, b, z)[0]

        return jnp.stack([*jax.grad(plain, (0, 1))(mu, b), jax.grad(double)(b)])

    keys = jax.random.split(draws, num)
    batch = max(1, min(num, 100_000 // (count * dim)))
    found = jax.jit(lambda keys: jax.lax.map(estimates, keys, batch_size=batch))(keys)
    found = np.asarray(found, np.float64)  # [num, 3, dim]
    variance = found.var(0, ddof=1)
    signal = np.square(found.mean(0)) - variance / num  # without the bias of the finite sample
    ratio = np.sqrt(np.maximum((signal / variance).mean(-1), 0))
    return dict(zip(("mu", "b", "double"), ratio.tolist(), strict=True))
