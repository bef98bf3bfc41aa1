"""Inpainting of a correlated Gaussian pair: the law of the hidden value follows by recursion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde.inpainting import methods
from experiments.score_sde.inpainting.methods import BIASED, PROCESS
from library import claims
from library.types import Array
from research.diffusion import inverse_problems, moments, oracles, samplers

Y = 1.5  # the value seen


def measured(
    names: Sequence[str], rho: float, num_steps: Sequence[int], num_draws: int
) -> tuple[claims.Result, dict[str, np.ndarray]]:
    """Errors [S, 2] of mean and standard deviation of the hidden value, by method.

    Args:
        names: of the methods.
        rho: correlation of the pair, whose variances are 1.
        num_steps: [S], rising.
        num_draws: samples at the second number of steps.
    """
    covariance = np.array([[1.0, rho], [rho, 1.0]])
    measurement = inverse_problems.inpainting(np.array([True, False]), np.array([Y, 0.0]))
    prior = oracles.gaussian(PROCESS, np.zeros(2), covariance)
    exact = inverse_problems.exact_conditional(PROCESS, np.zeros(2), covariance, measurement)
    project = inverse_problems.replaced_moments(PROCESS, measurement, (2,))
    spread = (1 - rho**2) ** 0.5
    metrics, curves, laws, deviations = {}, {}, {}, []
    asked = methods.on_problem(names, prior, exact, measurement, covariance)
    for name, method in asked.items():

        @jax.jit
        def law(method: methods.Method = method) -> Array:
            hook = project if method.replaces else None
            rows = []
            for num in num_steps:
                grid = samplers.log_snr_grid(num)
                mean, cov = moments.sampled_jointly(
                    method.solver, PROCESS, grid, method.score, 2, project=hook
                )
                rows.append(jnp.stack([mean[1], cov[1, 1] ** 0.5]))
            return jnp.stack(rows)

        laws[name] = np.asarray(law())  # [S, 2]
        curves[name] = np.abs(laws[name] - [rho * Y, spread])
        metrics[f"pair_mean_error_{name}"] = float(laws[name][-1, 0] - rho * Y)
        metrics[f"pair_std_error_{name}"] = float(laws[name][-1, 1] - spread)
        grid = samplers.log_snr_grid(num_steps[1])
        draws = methods.draw(method, measurement, 2, grid, num_draws)[:, 1]
        mean, std = laws[name][1]
        deviations += [(draws.mean() - mean) / (std / len(draws) ** 0.5)]
        deviations += [(draws.std() / std - 1) * (2 * len(draws)) ** 0.5]
    return claims.Result(metrics) + _orders(curves, laws, deviations), curves


def _orders(
    curves: Mapping[str, np.ndarray], laws: Mapping[str, np.ndarray], deviations: Sequence[float]
) -> claims.Result:
    """Orders of the biases and the claims, from errors and laws [S, 2] of each method."""
    metrics, halved = {}, curves["exact"][-2] / curves["exact"][-1]
    stated = [
        claims.within(
            "pair: order at which the exact score's error of the std falls",
            np.log2(halved[1]),
            1,
            0.15,
            claims.theorem("first order of the sampler"),
        ),
        claims.largest(
            "pair: samples, standard errors off the recursion",
            deviations,
            4.5,
            claims.theorem("moment recursion; false alarm below 1e-4"),
        ),
    ]
    if "guidance_true_covariance" in laws:
        same = laws["guidance_true_covariance"] - laws["exact"]
        name = "pair: true-covariance guidance less the exact score"
        stated.append(claims.largest(name, same, 1e-8, claims.theorem("exact conditional")))
    for name in (name for name in BIASED if name in laws):
        bias = curves[name].max(1)
        halvings = float(np.log2(bias[-2] / bias[-1]))
        metrics[f"pair_last_order_{name}"] = halvings
        if name != "replacement_pc":
            stays = claims.bar("0 if the bias stays, 1 for a method that is right")
            title = f"pair: order at which the bias of {name} falls"
            stated.append(claims.below(title, halvings, 0.1, stays))
        title = f"pair: bias of {name} over that of the exact score"
        ratio = bias[-1] / curves["exact"][-1].max()
        stated.append(claims.above(title, ratio, 10, claims.bar("1 for a method that is right")))
    return claims.Result(metrics, stated)
