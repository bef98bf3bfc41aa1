"""What else must be right: the spread of probes, the std of the prior, the variational bound."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde.likelihood.densities import BAR, COVARIANCE, FORM
from library import claims
from library.types import Array
from research.diffusion import likelihood, oracles, processes, variational

VP = processes.vp()
MISTAKE = -math.log(80) + 0.5 * (1 - 80**-2)  # of the prior std sigma^2 at sigma = 80: -3.882105


def hutchinson(size: int, num_images: int, num_probes: int) -> claims.Result:
    """Random signs on a field of size x size: their spread in closed form, the mean within it.

    The flow is linear, so a probe v gives v.Mv with M the sum of the derivatives along the path:
    a circulant matrix with the modes' log gains l as eigenvalues. Its diagonal is their mean, so
    the variance 2 sum_{i != j} M_ij^2 is 2 sum_k (l_k - mean l)^2.
    """
    field = oracles.random_field(VP, (size, size, 1))
    x = field.sample(jax.random.key(0), num_images)

    @jax.jit
    def estimate(x: Array, rng: Array) -> likelihood.Estimate:
        options = {"trace": "hutchinson", "rng": rng, "num_probes": num_probes}
        return likelihood.estimate(field, VP, x, **options)

    result = estimate(x, jax.random.key(1))
    gap = result.prior_log_prob - field.log_prob(result.end, VP.t_max)
    errors = np.asarray(result.log_prob - field.log_prob(x, VP.t_min) - gap)
    start, end = (
        VP.alpha(t) ** 2 * field.spectrum + VP.sigma(t) ** 2 for t in (VP.t_min, VP.t_max)
    )
    gains = 0.5 * np.log(np.asarray(end / start))
    expected = math.sqrt(2 * np.sum((gains - gains.mean()) ** 2))  # of one probe, nats
    total = num_images * num_probes
    spread = float(np.sqrt(np.mean(result.standard_error**2) * num_probes))
    freedom = num_images * (num_probes - 1)
    deviation = errors.mean() / (expected / math.sqrt(total))
    metrics = {
        "hutchinson_spread_of_a_probe": spread,
        "hutchinson_spread_expected": expected,
        "hutchinson_standard_error_per_dim": spread / math.sqrt(num_probes) / x[0].size,
        "hutchinson_mean_error_in_standard_errors": float(deviation),
    }
    return claims.Result(
        metrics,
        [
            claims.within(
                "Hutchinson on the field: spread of one probe, nats",
                spread,
                expected,
                4 * expected / math.sqrt(2 * freedom),
                claims.theorem("closed form, 4 standard errors"),
            ),
            claims.largest(
                "Hutchinson on the field: mean error in standard errors",
                [deviation],
                4,
                claims.theorem("the estimate is unbiased"),
            ),
        ],
    )


def mistaken_prior() -> claims.Result:
    """The error with a prior of std sigma^2, at points that end on the prior's typical shell."""
    process = processes.edm(0.002, 80.0)
    oracle = oracles.gaussian(process, np.full(4, 0.3), 0.25)
    x = oracle.transport(80.0 * jnp.array([[1.0, -1.0, 1.0, 1.0]]), process.t_max, process.t_min)

    def wrong(x: Array) -> Array:
        std = 80.0**2
        return -0.5 * jnp.sum((x / std) ** 2, 1) - 4 * math.log(std * math.sqrt(2 * math.pi))

    steps = likelihood.adaptive(1e-10, 1e-10)
    estimate = jax.jit(
        lambda x: likelihood.estimate(oracle, process, x, steps=steps, prior_log_prob=wrong)
    )
    result = estimate(x)
    mistaken = result.log_prob - oracle.log_prob(x, process.t_min)
    right = mistaken + process.prior_log_prob(result.end) - wrong(result.end)
    at_end = process.prior_log_prob(result.end) - oracle.log_prob(result.end, process.t_max)
    own, error, gap = (float(each[0] / 4) for each in (right, mistaken, at_end))
    metrics = {
        "error_of_mistaken_prior": error,
        "error_with_own_prior": own,
        "gap_of_own_prior_there": gap,
    }
    return claims.Result(
        metrics,
        [
            claims.within(
                "mistaken prior std sigma^2 at 80: error, nats a dimension",
                error - own,
                MISTAKE,
                1e-6,
                claims.theorem("-ln sigma + (1 - sigma^-2)/2"),
            ),
            claims.largest(
                "the right prior at 80: error beyond its gap there, nats a dimension",
                [own - gap],
                BAR,
                FORM,
            ),
        ],
    )


def bound(num_draws: int) -> claims.Result:
    """The variational bound of the exact denoiser, and of one that is 10 % too small.

    By I-MMSE the first is entropy + prior gap; the second adds (d^2/2) int E|eps*|^2 dlogSNR.
    """
    process, shrink, variances = processes.vp(t_min=1e-3), 0.1, np.diag(COVARIANCE)
    ends = jnp.asarray([process.t_min, process.t_max])
    snr = np.exp(np.asarray(process.log_snr(ends)))
    entropy = 0.5 * np.mean(np.log(2 * math.pi * math.e * (variances + 1 / snr[0])))
    gap = float(likelihood.prior_gap(process, jnp.zeros(3), jnp.asarray(variances)))
    log_parts = np.log(snr[:, None] / (1 + variances[None] * snr[:, None]))  # [2, D]
    excess = 0.5 * shrink**2 * np.mean(log_parts[0] - log_parts[1])
    rows = variances[None]

    def denoise(scale: Array, x: Array, t: Array, labels: None, rng: Array) -> Array:
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return scale * sigma * x / (alpha**2 * rows + sigma**2)

    loss_fn = variational.continuous_bound(process, denoise, stratified=False)

    @jax.jit
    def draw(rng: Array) -> Array:
        x = jnp.sqrt(rows) * jax.random.normal(rng, (num_draws // 20, 3))
        rng = jax.random.fold_in(rng, 1)
        return jnp.stack([loss_fn(s, {}, rng, {"image": x})[0] for s in (1.0, 1 - shrink)])

    draws = np.array([draw(key) for key in jax.random.split(jax.random.key(2), 20)])  # [20, 2]
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(20)
    metrics = {
        "bound": mean[0],
        "bound_standard_error": error[0],
        "entropy": entropy,
        "bound_of_shrunk_denoiser": mean[1],
        "bound_of_shrunk_standard_error": error[1],
    }
    known = {
        "exact": (entropy + gap, "entropy + prior gap (I-MMSE)"),
        "shrunk": (entropy + gap + excess, "the same + closed-form excess"),
    }
    stated = [
        claims.within(
            f"variational bound of the {kind} denoiser, nats a dimension",
            mean[k],
            expected,
            4 * error[k],
            claims.theorem(f"{text}, 4 standard errors"),
        )
        for k, (kind, (expected, text)) in enumerate(known.items())
    ]
    return claims.Result(metrics, stated)
