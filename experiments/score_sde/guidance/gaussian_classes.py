"""Guidance between Gaussians: the law of the flow in closed form, by its map and by samples."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library import claims
from library.types import Array
from research.diffusion import guidance, moments, oracles, processes, samplers

PROCESS = processes.edm(0.002, 80.0)
CLASS = guidance.Normal(np.array([1.0, 0.3]), np.array([0.2, 0.5]))
ALL = guidance.Normal(np.array([0.2, -0.1]), np.array([1.0, 0.8]))
FORM = "closed form of the linear flow"


def measured(
    scales: Sequence[float], *, num_samples: int, num_steps: int, sde_steps: int
) -> claims.Result:
    """Closed form, map, samples and reverse SDE; the metrics hold the first direction's.

    Args:
        scales: guidance weights, 2.0 among them.
        num_samples: at every weight.
        num_steps: of RK4 in log SNR.
        sde_steps: of the recursion for the reverse SDE.
    """
    conditional, unconditional = (
        oracles.gaussian(PROCESS, law.mean, law.variance) for law in (CLASS, ALL)
    )

    @jax.jit
    def flow(scale: Array, x: Array) -> Array:
        score = guidance.classifier_free(PROCESS, conditional, unconditional, scale)
        options = {
            "solver": samplers.rk4("log_snr"),
            "grid": samplers.log_snr_grid(num_steps),
        }
        return samplers.integrate(score, PROCESS, x, **options)

    reverse_sde = jax.jit(functools.partial(_reverse_sde, sde_steps))
    metrics, map_errors, deviations = {}, [], []
    prior = PROCESS.prior_std * jax.random.normal(jax.random.key(0), (num_samples, 2))
    states = jnp.concatenate([jnp.array([[0.0, 0.0], [1.0, 1.0]]), prior])
    for scale in scales:
        law, tilted = _laws(scale)
        ends = np.asarray(flow(scale, states))  # the map is affine
        variance = ((ends[1] - ends[0]) * PROCESS.prior_std) ** 2
        map_errors += [*(ends[0] - law.mean), *(variance / law.variance - 1)]
        draws = ends[2:]
        num = len(draws)
        deviations += [*((draws.mean(0) - law.mean) / np.sqrt(law.variance / num))]
        deviations += [*((draws.var(0) / law.variance - 1) / np.sqrt(2 / num))]
        sde = reverse_sde(scale)
        values = {
            "closed_form": law.variance,
            "sampled": draws.var(0),
            "tilted": tilted.variance,
            "reverse_sde": np.asarray(sde[1]),
        }
        metrics |= {f"{name}_variance_w{scale:g}": float(v[0]) for name, v in values.items()}
        means = {"closed_form": law.mean, "tilted": tilted.mean, "sampled": draws.mean(0)}
        metrics |= {f"{name}_mean_w{scale:g}": float(m[0]) for name, m in means.items()}
    return claims.Result(metrics, _stated(map_errors, deviations))


def _stated(map_errors: list[float], deviations: list[float]) -> list[claims.Claim]:
    """The claims on the map, on the samples, and on the gap to the tilted law."""
    law, tilted = _laws(2.0)
    gap = float(np.abs(law.variance / tilted.variance - 1).min())
    return [
        claims.largest(
            "the sampler's map: error of mean and variance",
            map_errors,
            1e-8,
            claims.theorem(FORM),
        ),
        claims.largest(
            "samples: standard errors off in mean and variance",
            deviations,
            4.5,
            claims.theorem(f"{FORM}; false alarm below 2e-4"),
        ),
        claims.above(
            "w = 2: relative gap of the variance to the tilted law",
            gap,
            0.05,
            claims.bar("0 if guidance sampled p(x|c)^w p(x)^(1-w), as it is said to"),
        ),
    ]


def stds(scales: Sequence[float]) -> dict[str, list[float]]:
    """Of the first direction at each weight: of the flow, and of the tilted law."""
    pairs = [_laws(scale) for scale in scales]
    return {
        name: [law.variance[0] ** 0.5 for law in laws]
        for name, laws in zip(("flow", "tilted"), zip(*pairs))
    }


def _laws(scale: float) -> tuple[guidance.Normal, guidance.Normal]:
    return (
        guidance.guided_law(PROCESS, CLASS, ALL, scale),
        guidance.tilted_law(CLASS, ALL, scale),
    )


def _reverse_sde(num_steps: int, scale: Array) -> tuple[Array, Array]:
    """Mean and variance that the reverse SDE of the guided score ends in, by recursion."""

    def guided(t: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
        other = moments.linear_score(PROCESS, t, jnp.asarray(ALL.mean), jnp.asarray(ALL.variance))
        return (
            scale * slope + (1 - scale) * other[0],
            scale * offset + (1 - scale) * other[1],
        )

    solver, grid = samplers.dpm_solver_pp(2, eta=1.0), samplers.log_snr_grid(num_steps)
    return moments.sampled(solver, PROCESS, grid, CLASS.mean, CLASS.variance, perturb=guided)
