"""Guidance between two classes on a line: the flow's density beside the tilted one."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde.guidance.gaussian_classes import PROCESS
from library import claims
from library.types import Array
from research.diffusion import guidance, likelihood, oracles, samplers

# p(x) is the mean of the two classes, the guided class is the first.
MEANS, VARIANCES = np.array([[1.0], [-1.0]]), np.array([[0.5], [0.3]])


def at_two(num_points: int, num_samples: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """At w = 2: densities at some points "x" of the line, [P] each, and sorted samples [N]."""
    parts = [oracles.gaussian(PROCESS, *law) for law in zip(MEANS, VARIANCES)]
    everything = oracles.mixture(PROCESS, [0.5, 0.5], MEANS, VARIANCES)
    guided = guidance.classifier_free(PROCESS, parts[0], everything, 2.0)
    x = jnp.linspace(-3.0, 6.0, num_points)[:, None]
    step = float(x[1, 0] - x[0, 0])

    @jax.jit
    def laws(x: Array) -> dict[str, Array]:
        conditional, marginal = parts[0].log_prob(x), everything.log_prob(x)
        tilted = jnp.exp(2 * conditional - marginal)
        steps = likelihood.adaptive(1e-7, 1e-7)
        return {
            "x": x[:, 0],
            "class": jnp.exp(conditional),
            "all": jnp.exp(marginal),
            "tilted": tilted / (tilted.sum() * step),
            "flow": jnp.exp(likelihood.log_prob(guided, PROCESS, x, steps=steps)),
        }

    densities = {name: np.asarray(value) for name, value in laws(x).items()}

    @jax.jit
    def draw(rng: Array) -> Array:
        solver, grid = samplers.heun("log_snr"), samplers.log_snr_grid(100)
        shape = (num_samples, 1)
        return samplers.sample(guided, PROCESS, rng, shape, solver=solver, grid=grid)[0]

    return densities, np.sort(np.asarray(draw(jax.random.key(1)))[:, 0])


def compared(densities: Mapping[str, np.ndarray], samples: np.ndarray) -> claims.Result:
    """The distance of the two laws, and of the samples to the flow's."""
    x = densities["x"]
    step = float(x[1] - x[0])
    mass = float(densities["flow"].sum() * step)
    variation = float(0.5 * np.abs(densities["flow"] - densities["tilted"]).sum() * step)
    cdf = (np.cumsum(densities["flow"]) - 0.5 * densities["flow"]) * step
    ranks = (np.arange(len(samples)) + 0.5) / len(samples)
    kolmogorov = float(np.abs(np.interp(samples, densities["x"], cdf) - ranks).max())
    metrics = {
        "mixture_mass_of_flow": mass,
        "mixture_total_variation_flow_to_tilted": variation,
        "mixture_kolmogorov_samples_to_flow": kolmogorov,
    }
    stated = [
        claims.above(
            "mixture, w = 2: total variation between flow and tilted law",
            variation,
            0.1,
            claims.bar("0 if guidance sampled p(x|c)^w p(x)^(1-w)"),
        ),
        claims.at_most(
            "mixture: Kolmogorov distance of samples to the flow's likelihood",
            kolmogorov,
            1.95 / len(samples) ** 0.5,
            claims.theorem("Kolmogorov's law at 0.1 % false alarm"),
        ),
    ]
    return claims.Result(metrics, stated)
