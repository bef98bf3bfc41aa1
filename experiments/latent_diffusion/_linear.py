"""A linear-Gaussian first stage of digits: exact bounds, and diffusion at any scale of latents."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.data.sets import digits
from library.types import Array
from research.diffusion import (
    discrete,
    latent,
    likelihood,
    losses,
    mlp,
    moments,
    oracles,
    predictions,
    processes,
    samplers,
)
from research.sample_quality import frechet
from research.vae import likelihoods, linear


def rows(split: str) -> np.ndarray:
    """Digits [N, 64] in [-1, 1], float32."""
    images = digits.arrays(split)["image"]
    return images.reshape(len(images), -1).astype(np.float32) / 8 - 1


def first_stage(
    model: linear.LinearGaussian, widen: Array | float = 1.0, scale: Array | float = 1.0
) -> latent.FirstStage:
    """The model's posterior, its variance times `widen`, and its likelihood, in the data's dtype.

    The columns of its weights are orthogonal, as `linear.fit` gives them, so that the posterior's
    covariance is diagonal.
    """

    def encode(x: Array) -> tuple[Array, Array]:
        mean, covariance = model.posterior(x)
        log_var = jnp.log(widen * jnp.diagonal(covariance))
        return mean, jnp.broadcast_to(log_var[None], mean.shape)

    def decode(z: Array) -> likelihoods.Gaussian:
        image = jnp.einsum("dl,bl->bd", jnp.asarray(model.weights, z.dtype), z)
        spread = 0.5 * jnp.log(jnp.asarray(model.noise_variance, z.dtype))
        return likelihoods.Gaussian(image + jnp.asarray(model.mean, z.dtype)[None], spread)

    return latent.FirstStage(encode, decode, scale)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What holds where all is known; nats a dimension of data, the largest over examples.

    Attributes:
        exact: every draw's log weight less log p, q the exact posterior.
        widened: bound less ELBO by quadrature, q twice as wide.
        within: share of examples whose bound by draws lies within the 95 % interval of Student's t.
        evidence: mean of log p, nats.
    """

    exact: float
    widened: float
    within: float
    evidence: float


def bounds(model: linear.LinearGaussian, x: np.ndarray, num_samples: int, seed: int) -> Bounds:
    """Bounds by the exact latent score, in the floats of the model; scaled latents are N(0, 9).

    The integrand is quadratic in z, so its mean over the 2 L points mean +- sqrt(L) std e_i is its
    expectation under q.
    """
    from scipy import stats

    process = processes.vp(t_min=1e-7)
    dim, num_latents = np.shape(model.weights)
    score = oracles.gaussian(process, np.zeros(num_latents), 9.0)
    options = {
        "prior_log_prob": functools.partial(score.log_prob, t=process.t_max),
        "steps": likelihood.adaptive(1e-10, 1e-10, method=diffrax.Dopri8()),
    }

    @jax.jit
    def of(x: Array, rng: Array, widen: Array):
        stage = first_stage(model, widen, 3.0)
        bound = latent.log_likelihood_bound(stage, score, process, x, rng, num_samples, **options)
        mean, log_var = stage.encode(x)
        unit = jnp.eye(num_latents, dtype=mean.dtype) * num_latents**0.5
        points = jnp.concatenate([unit, -unit])[:, None]  # [2 L, 1, L]
        z = mean[None] + points * jnp.exp(log_var / 2)[None]
        nodes = latent.log_weights(stage, score, process, x, z, **options).mean(0)
        return bound, nodes, model.elbo(x, mean, widen * model.posterior(x)[1]), model.log_prob(x)

    (exact, _, _, evidence), (wide, nodes, elbo, _) = (
        jax.tree.map(np.asarray, of(x, jax.random.key(seed), widen)) for widen in (1.0, 2.0)
    )
    interval = stats.t.ppf(0.975, num_samples - 1)
    return Bounds(
        exact=float(np.abs(exact.log_weights - evidence).max() / dim),
        widened=float(np.abs(nodes - elbo).max() / dim),
        within=float(np.mean(np.abs(wide.value - elbo) < interval * wide.standard_error)),
        evidence=float(evidence.mean()),
    )


def stable_diffusion() -> processes.Process:
    """Its noising process, Rombach et al. 2022: sqrt(beta) equally spaced, sigma/alpha to 14.6."""
    return discrete.from_betas(discrete.Betas(np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2))


def exact_cost(process: processes.Process, factors: np.ndarray, num_steps: int) -> dict[str, Array]:
    """What a Gaussian latent of standard deviation `factors` [R] loses with its exact score.

    Returns:
        "sampler": KL from the law that so many DDIM steps sample to the latent's, "prior": that
        from the noised latent to the prior; [R] nats a dimension.
    """
    variance = jnp.square(jnp.asarray(factors, float))
    zero = jnp.zeros_like(variance)
    mean, sampled = moments.sampled(
        samplers.ddim(), process, samplers.log_snr_grid(num_steps), zero, variance
    )
    kl = jax.vmap(lambda *four: moments.kl_divergence(*(each[None] for each in four)))
    gap = jax.vmap(lambda v: likelihood.prior_gap(process, jnp.zeros(1), v[None]))
    return {"sampler": kl(mean, sampled, zero, variance), "prior": gap(variance)}


@dataclasses.dataclass(frozen=True)
class Reached:
    """What a network reached at one scale.

    Attributes:
        bound: mean bound on log p of held-out data, nats.
        error: its standard error over the data.
        frechet: distance of sampled latents to held-out ones, both unscaled.
    """

    bound: float
    error: float
    frechet: float


def diffuse(
    model: linear.LinearGaussian,
    scales: Sequence[Array],
    train: np.ndarray,
    test: np.ndarray,
    *,
    width: int,
    num_steps: int,
    batch_size: int,
    solver_steps: int,
    num_draws: int,
    seed: int,
) -> list[Reached]:
    """Trains a perceptron on latents of each scale [L], and judges its density and its samples.

    Noise prediction, uniform times, Adam at 1e-3 falling by half a cosine; DDIM.
    """
    process, net = stable_diffusion(), mlp.MLP(width)
    num_latents = np.shape(model.weights)[1]
    apply = lambda params, x, t, *_: net.apply({"params": params}, x, t)
    loss_fn = latent.on_latents(
        losses.denoising_score_matching(process, apply),
        lambda state: first_stage(model, scale=state["scale"]),
    )

    @jax.jit
    def judge(params, scale: Array, x: Array, rng: Array):
        stage = first_stage(model, scale=scale)
        score = predictions.to_score(process, functools.partial(apply, params), kind="noise")
        bound = latent.log_likelihood_bound(
            stage, score, process, x, rng, num_draws, steps=likelihood.adaptive(1e-3, 1e-3)
        )
        z, _ = samplers.sample(
            score, process, rng, (10 * len(x), num_latents), solver=samplers.ddim(),
            grid=samplers.log_snr_grid(solver_steps),
        )  # fmt: skip
        held_out = stage.to_latent(jnp.tile(x, (10, 1)), rng)
        return bound.value, stage.unscaled(z), stage.unscaled(held_out)

    found = []
    for scale in scales:
        params = training.quick(
            loss_fn, optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
            lambda rng: net.init(rng, jnp.zeros((1, num_latents)), jnp.zeros(1))["params"],
            training.batches({"image": train}, batch_size, seed), num_steps=num_steps,
            rng=jax.random.key(seed), model_state={"scale": scale}, rng_per_example=True,
            steps_per_call=min(100, num_steps),
        )  # fmt: skip
        each = judge(params, scale, test, jax.random.key(seed + 1))
        values, sampled, held_out = map(np.asarray, each)
        error = values.std(ddof=1) / np.sqrt(len(values))
        away = frechet.distance(sampled, held_out)
        found.append(Reached(float(values.mean()), float(error), away))
    return found
