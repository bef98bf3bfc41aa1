"""Bounds on the log likelihood as losses: DDPM's two objectives and the continuous-time bound.

All are in nats a dimension, means over examples; `bits.bits_per_dim(-value * dim, dim, 1, 0, 1)`
turns those of discrete data into bits a dimension. Batches and `apply` are as in `losses`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from library.types import Array, Aux, Batch, Key, LossFn, Params
from research.diffusion import discrete, draws, losses, weightings
from research.diffusion.densities.bits import Decoder, gaussian_decoder
from research.diffusion.discrete import Betas
from research.diffusion.draws import Apply, Draw
from research.diffusion.processes import Process


def ddpm_simple(table: Betas, apply: Apply) -> LossFn:
    """E_i |eps - eps_hat|^2 / D over the steps of a table, Ho et al. 2020, arXiv:2006.11239, (14).

    Args:
        table: the noising steps, e.g. `discrete.linear_betas(1000)`.
        apply: the network; it predicts the noise at the times i/N.
    """
    times = weightings.on_steps(len(table.betas))
    return losses.denoising_score_matching(discrete.from_betas(table), apply, "noise", times=times)


def ddpm_variational(
    table: Betas,
    apply: Apply,
    variances: np.ndarray | None = None,
    decoder: Decoder = gaussian_decoder,
) -> LossFn:
    """The variational bound -log p(x_0) <= L_0 + ... + L_N of a table, arXiv:2006.11239, eq. (5).

    Each example draws one of the steps 1 ... N, whose term counts N times.

    Args:
        table: the noising steps.
        apply: the network; it predicts the noise at the times i/N.
        variances: [N], of the reverse steps i -> i - 1, positive; None is the table's betas.
        decoder: log p(x_0 | x_1): `bits.gaussian_decoder` for continuous data,
            `bits.discretised_decoder(...)` for discrete data.
    Returns:
        `LossFn`, nats a dimension, with the metrics "prior" and "steps".
    Raises:
        ValueError: if the variances are not [N] positive numbers.
    """
    num_steps = len(table.betas)
    variances = table.betas if variances is None else np.asarray(variances)
    if variances.shape != (num_steps,) or not np.all(variances > 0):
        raise ValueError(f"variances {variances.shape}: expected ({num_steps},) positive numbers")
    process, times = discrete.from_betas(table), weightings.on_steps(num_steps)

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        drawn = draws.draw(process, apply, times, params, rng, batch)
        steps = num_steps * reverse_step_cost(table, variances, decoder, drawn)  # [B]
        prior = prior_cost(process, drawn.x_0)  # [B]
        return _mean_of_parts({"steps": steps, "prior": prior}, batch)

    return loss_fn


def continuous_bound(
    process: Process,
    apply: Apply,
    kind: str = "noise",
    decoder: Decoder = gaussian_decoder,
    times: weightings.Times = weightings.uniform_log_snr,
    stratified: bool = True,
) -> LossFn:
    """The bound in continuous time, Kingma et al. 2021, arXiv:2107.00630, eq. (11) and (18).

    Prior, reconstruction at t_min, and (1/2) int |eps - eps_hat|^2 dgamma between, which depends
    on the ends of gamma = -log SNR alone.

    Args:
        process: the noising process.
        apply: the network, which predicts `kind`.
        kind: one of `predictions.KINDS`.
        decoder: log p(x_0 | x at t_min), given x/alpha and sigma/alpha there.
        times: where the integral is sampled; uniform in log SNR has the least to correct.
        stratified: spread the times of a batch evenly; they then depend on the batch split.
    Returns:
        `LossFn`, nats a dimension, with the metrics "diffusion", "prior" and "reconstruction".
    Raises:
        ValueError: for an unknown kind, or times that are not a function.
    """
    losses.check(kind, weightings.likelihood, times)

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        drawn = draws.draw(process, apply, times, params, rng, batch, stratified)
        weight = weightings.likelihood(process, drawn.t) * drawn.factor
        parts = {
            "diffusion": weight * losses.denoising_error(process, kind, drawn),
            "prior": prior_cost(process, drawn.x_0),
            "reconstruction": reconstruction_cost(process, decoder, drawn),
        }
        return _mean_of_parts(parts, batch)

    return loss_fn


def reverse_step_cost(table: Betas, variances: np.ndarray, decoder: Decoder, drawn: Draw) -> Array:
    """[B] nats a dimension: the bound's term of the reverse step that starts at each drawn time.

    KL(q(x_{i-1} | x_i, x_0) || N(mean, variance_i)), and -log p(x_0 | x_1) for i = 1.
    """
    process = discrete.from_betas(table)
    index = jnp.round(drawn.t * len(table.betas)).astype(int) - 1  # [B]
    take = lambda row: jnp.asarray(row, drawn.x_0.dtype)[index]  # noqa: E731
    betas, variance = take(table.betas), take(variances)
    noise_variance = take(-np.expm1(table.log_alpha_bar))
    ratio = take(np.append(1.0, (table.posterior_variance / variances)[1:]))
    gain = betas**2 / ((1 - betas) * noise_variance * variance)
    x = draws.noised(process, drawn)
    noise = drawn.predict(x, drawn.t)
    error = draws.mean_square(noise - drawn.noise)
    divergence = 0.5 * (gain * error + ratio - 1 - jnp.log(ratio))
    mean = (x - table.betas[0] ** 0.5 * noise) / (1 - table.betas[0]) ** 0.5  # for i = 1
    log_prob = decoder(drawn.x_0, mean, jnp.asarray(variances[0] ** 0.5, x.dtype))
    return jnp.where(index == 0, -log_prob / x[0].size, divergence)


def prior_cost(process: Process, x_0: Array) -> Array:
    """[B] nats a dimension: KL(N(alpha x_0, sigma^2 I) || prior) at t_max."""
    alpha, sigma = process.alpha(process.t_max), process.sigma(process.t_max)
    ratio = (sigma / process.prior_std) ** 2
    square = draws.mean_square(alpha * x_0 / process.prior_std)
    return 0.5 * (square + ratio - 1 - jnp.log(ratio))


def reconstruction_cost(process: Process, decoder: Decoder, drawn: Draw) -> Array:
    """[B] nats a dimension: -log p(x_0 | x) for a fresh noising x of x_0 to t_min."""
    std = process.sigma(process.t_min) / process.alpha(process.t_min)
    mean = drawn.x_0 + std * draws.normals(drawn.rngs, drawn.x_0)
    return -decoder(drawn.x_0, mean, std) / drawn.x_0[0].size


def _mean_of_parts(parts: dict[str, Array], batch: Batch) -> tuple[Array, Aux]:
    """The masked mean of the sum of the parts [B], which become metrics."""
    mask = batch.get("mask")
    means = {name: draws.masked_mean(part, mask)[0] for name, part in parts.items()}
    loss, aux = draws.masked_mean(sum(parts.values()), mask)
    return loss, aux.replace(metrics=means)
