"""A bound on log p(x) of a latent model: likelihood, density of the latent, entropy of q.

    log p(x) >= E_q [log p(x | z) + log p(z) - log q(z | x)]

with the density of the latent by the probability flow (`likelihood.estimate`), Vahdat et al. 2021,
arXiv:2106.05931, eq. (3). The model's density is one of scaled latents; that of z has the volume
of the scaling in it. The gap is KL(q(z | x), p(z | x)), zero for the exact posterior.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Key
from research.diffusion import draws
from research.diffusion.curves import wide
from research.diffusion.densities import likelihood
from research.diffusion.latent.first_stages import FirstStage
from research.diffusion.predictions import Score
from research.diffusion.processes import Process
from research.vae import gaussians, likelihoods


@flax.struct.dataclass
class Bound:
    """The bound, and the draws that it is a mean of.

    Attributes:
        value: [B] nats, below log p(x) in expectation.
        standard_error: [B] nats, of the mean over draws and random probes; nan for one draw.
        log_weights: [K, B] nats, one a draw: `vae.bounds.iwae` of them is tighter.
    """

    value: Array
    standard_error: Array
    log_weights: Array


def log_likelihood_bound(
    first_stage: FirstStage,
    score: Score,
    process: Process,
    x: Array,
    rng: Key,
    num_samples: int = 16,
    **options,
) -> Bound:
    """The evidence lower bound of a first stage with a latent score, by draws of its posterior.

    Args:
        first_stage: whose `encode` gives mean and log variance and whose `decode` a likelihood.
        score: of scaled latents, (z [B, ...], t [B]) -> [B, ...].
        process: the noising process of the score; latents are taken to lie at its t_min.
        x: [B, ...] data, as the likelihood expects them.
        rng: a key, or [B] keys: no example's draws depend on the batch.
        num_samples: K, draws for each example, one solve of the flow after the other.
        options: of `likelihood.estimate`: trace, num_probes, steps, prior_log_prob, ...
    Returns:
        `Bound`.
    Raises:
        ValueError: if num_samples is not positive, the encoder gives no posterior or the decoder
            no likelihood; as `likelihood.estimate`.
    """
    checks.count("num_samples", num_samples, of="draws")
    mean, log_var = _posterior(first_stage, x)
    keys, probe_keys = draws.example_keys(rng, len(mean), 2)  # each [B]
    draw = lambda key, mean, log_var: gaussians.sample(key, mean, log_var, (num_samples,))
    z = jax.vmap(draw, out_axes=1)(keys, mean, log_var)  # [K, B, ...]
    weights = log_weights(first_stage, score, process, x, z, probe_keys, **options)
    error = jnp.full_like(weights[0], jnp.nan)
    if num_samples > 1:
        error = weights.std(0, ddof=1) / math.sqrt(num_samples)
    return Bound(weights.mean(0), error, weights)


def log_weights(
    first_stage: FirstStage,
    score: Score,
    process: Process,
    x: Array,
    z: Array,
    rng: Key | None = None,
    **options,
) -> Array:
    """log p(x | z) + log p(z) - log q(z | x) at given latents; arguments as `log_likelihood_bound`.

    With the nodes of a quadrature under q for latents, the bound comes without sampling.

    Args:
        z: [K, B, ...] latents as the encoder gives them, unscaled.
        rng: [B] keys of the random probes, for trace="hutchinson" only.
    Returns:
        [K, B] nats.
    """
    mean, log_var = _posterior(first_stage, x)
    if z.shape[1:] != mean.shape:
        raise ValueError(f"z has shape {z.shape}: expected [K, B, ...] of {mean.shape}")
    if not hasattr(jax.eval_shape(first_stage.decode, mean), "log_prob"):
        raise ValueError("decode gives images: expected a likelihood, with log_prob")
    volume = first_stage.log_volume(mean.shape[1:])
    random = options.get("trace") == "hutchinson"

    def weight(index: Array, z: Array) -> Array:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(rng) if random else None
        found = likelihood.estimate(
            score, process, first_stage.scaled(z), rng=keys, **options
        ).log_prob
        log_likelihood = likelihoods.sum_pixels(first_stage.decode(z).log_prob(x))
        log_q = likelihoods.sum_pixels(gaussians.log_prob(z, mean, log_var))
        return log_likelihood + found + volume - log_q  # [B]

    return jax.lax.map(lambda pair: weight(*pair), (jnp.arange(len(z)), wide(z)))


def _posterior(first_stage: FirstStage, x: Array) -> tuple[Array, Array]:
    encoded = first_stage.encode(x)
    if not isinstance(encoded, tuple):
        raise ValueError("encode gives vectors: expected a posterior, its mean and log variance")
    return wide(encoded[0]), wide(encoded[1])
