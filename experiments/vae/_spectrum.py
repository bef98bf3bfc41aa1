"""Linear beta-VAEs on the exact objective of a spectrum, and gaps of the bound by draws."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.types import Array, Aux, Key
from research.vae import bounds, gaussians, linear


def centred(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, 1] as rows [N, D] of mean 0, in units where their total variance is D."""
    x = images.reshape(len(images), -1).astype(np.float64)
    x = x - x.mean(0)
    return x / np.sqrt(np.square(x).mean())


def levels(eigenvalues: np.ndarray, num_active: tuple[int, ...]) -> np.ndarray:
    """beta sigma^2 halfway, in logarithms, between eigenvalue k and the next, for each k.

    Raises:
        ValueError: for a number that leaves no eigenvalue on one side, or a next one of 0.
    """
    for count in num_active:
        if not 1 <= count < len(eigenvalues) or eigenvalues[count] <= 0:
            raise ValueError(f"num_active={num_active}: expected 1 to {len(eigenvalues) - 1}")
    return np.array([np.sqrt(eigenvalues[k - 1] * eigenvalues[k]) for k in num_active])


def water_filling(eigenvalues: np.ndarray, levels: np.ndarray) -> linear.RateDistortion:
    """Rate and distortion of the best linear beta-VAEs, by their beta sigma^2 [R]."""
    at = lambda level: linear.rate_distortion(jnp.asarray(eigenvalues), 1.0, level)
    return jax.jit(jax.vmap(at))(jnp.asarray(levels))


@flax.struct.dataclass
class Trained:
    """What [R] beta-VAEs reached.

    Attributes:
        rate: [R] nats.
        distortion: [R], mean square error summed over D.
        num_active: [R], latents of a rate above 1e-3 nats.
    """

    rate: Array
    distortion: Array
    num_active: Array


def train(
    covariance: np.ndarray,
    betas: np.ndarray,
    noise: float,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    rng: Key,
) -> Trained:
    """Trains beta-VAEs with as many latents as dimensions, all at once, from random starts.

    Encoder N(V x, diag(v)), decoder N(W z, noise): rate and distortion are functions of the
    covariance of x, so the objective distortion / 2 noise + beta rate is exact.
    """
    dim, count = len(covariance), len(betas)
    covariance, betas = jnp.asarray(covariance, jnp.float32), jnp.asarray(betas, jnp.float32)

    def init(rng: Key) -> dict[str, Array]:
        keys = jax.random.split(rng)
        weights = [jax.random.normal(key, (count, dim, dim)) / dim**0.5 for key in keys]
        return {"encode": weights[0], "decode": weights[1], "log_var": jnp.zeros((count, dim))}

    def loss(params, model_state, rng, batch):
        rates, distortions = jax.vmap(lambda p: rate_distortion(p, covariance))(params)
        value = (distortions / (2 * noise) + betas * rates.sum(1)).sum()
        return value, Aux(weight=jnp.ones(()))

    params = training.quick(
        loss, optimizer, init, lambda step: np.zeros(1), num_steps=num_steps, rng=rng,
        steps_per_call=min(1000, num_steps),
    )  # fmt: skip
    rates, distortions = jax.vmap(lambda p: rate_distortion(p, covariance))(params)
    return Trained(rates.sum(1), distortions, (rates > 1e-3).sum(1))


def rate_distortion(params: dict[str, Array], covariance: Array) -> tuple[Array, Array]:
    """Rates [L] in nats and mean square error [] of one model on data of this covariance [D, D]."""
    encode, decode, log_var = params["encode"], params["decode"], params["log_var"]
    # The mean over data of gaussians.kl(V x, log_var) is that at the root mean square of V x.
    spread = jnp.einsum("ld,de,le->l", encode, covariance, encode, precision="highest")
    rates = gaussians.kl(jnp.sqrt(jnp.maximum(spread, 1e-30)), log_var)
    left = jnp.eye(len(covariance)) - jnp.matmul(decode, encode, precision="highest")
    error = jnp.einsum("de,ef,df->", left, covariance, left, precision="highest")
    return rates, error + jnp.einsum("dl,l->", jnp.square(decode), jnp.exp(log_var))


def identity(x: np.ndarray, num_latents: int, seed: int) -> Array:
    """(ELBO + KL(q, posterior) - log p) / |log p| of rows x [N, D], 0 but for rounding, [N].

    Of the model of maximum likelihood; q is wider than its posterior, and beside it.
    """
    return _identity(jnp.asarray(x), jax.random.key(seed), num_latents)


@functools.partial(jax.jit, static_argnums=2)
def _identity(x: Array, rng: Key, num_latents: int) -> Array:
    model = linear.fit(x, num_latents)
    mean, covariance = model.posterior(x)
    shift = jax.random.normal(rng, mean.shape, mean.dtype)
    wide = covariance + 0.1 * jnp.eye(num_latents)
    inverse = jnp.linalg.inv(covariance)
    ratio = inverse @ wide
    kl = 0.5 * (
        jnp.trace(ratio) - num_latents - jnp.linalg.slogdet(ratio)[1]
        + jnp.einsum("bk,kl,bl->b", shift, inverse, shift)
    )  # fmt: skip
    log_prob = model.log_prob(x)
    return (model.elbo(x, mean + shift, wide) + kl - log_prob) / jnp.abs(log_prob)


def gaps(
    variance: float, counts: np.ndarray, num_draws: int, rng: Key
) -> tuple[np.ndarray, bounds.Diagnosis]:
    """log p minus the bound of K draws, for each K, and the diagnosis of the last weights.

    Posterior N(0, 1), proposal N(0, variance); log p = 0. Every K uses the same draws, cut into
    groups of K. Where the weights have a variance, the mean of all of them, whose expectation 1 is
    known, is a control variate: what is left has the size of the gap, not of its noise.
    """
    largest = int(counts[-1])
    num_groups = max(num_draws // largest, 1)
    log_var = jnp.float32(np.log(variance))
    means, weights = _bounds_of(rng, log_var, tuple(map(int, counts)), num_groups)
    means, log_weights = np.float64(means).mean(0), np.float64(weights)
    control = np.expm1(log_weights).mean() if variance > 0.5 else 0.0
    tail = weights.reshape(-1)[: 100 * largest]
    return control - means, bounds.diagnose(tail[:, None])


@functools.partial(jax.jit, static_argnums=(2, 3))
def _bounds_of(
    rng: Key, log_var: Array, counts: tuple[int, ...], num_groups: int
) -> tuple[Array, Array]:
    """Mean bounds of each count [G, len(counts)] and log weights [G, counts[-1]] by groups."""

    def group(rng: Key) -> tuple[Array, Array]:
        z = gaussians.sample(rng, jnp.zeros(()), log_var, (counts[-1],))
        weights = gaussians.log_prob(z) - gaussians.log_prob(z, 0.0, log_var)
        cut = [bounds.iwae(weights.reshape(-1, count).T).mean() for count in counts]
        return jnp.stack(cut), weights

    keys = jax.random.split(rng, num_groups)
    return jax.lax.map(group, keys, batch_size=min(64, num_groups))
