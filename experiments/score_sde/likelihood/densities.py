"""Log densities along the flow where they are known: a Gaussian, a mixture, a random field."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from library import claims
from library.types import Array
from research.diffusion import likelihood, oracles

MEAN = np.array([0.3, -0.5, 0.1])
COVARIANCE = np.array([[0.5, 0.3, 0.1], [0.3, 0.4, 0.0], [0.1, 0.0, 0.2]])
WEIGHTS, MEANS = [0.3, 0.7], np.array([[1.0, 0.0, -0.5], [-1.0, 0.5, 0.2]])
COVARIANCES = np.stack([COVARIANCE, 0.1 * np.eye(3)])
BAR = 1e-4  # nats a dimension
FORM = claims.theorem("closed form")


def on_points(
    name: str, tolerances: Sequence[float], num_points: int
) -> tuple[claims.Result, list[dict[str, float]]]:
    """Errors and prior gaps on the Gaussian and the mixture, and records for the figure.

    Args:
        name: of the process.
        tolerances: of a step, tightest last.
        num_points: drawn from each law.
    """
    process = _exact.all_processes()[name]
    mixture = oracles.mixture(process, WEIGHTS, MEANS, COVARIANCES)
    gaussian = oracles.gaussian(process, MEAN, COVARIANCE)
    twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), gaussian)  # a mixture of equal parts

    @jax.jit
    def solve(components: oracles.Gaussian, x: Array, tolerance: Array) -> likelihood.Estimate:
        score = oracles.Mixture(process, mixture.log_weights, components)
        steps = likelihood.adaptive(tolerance, tolerance, 4000)
        return likelihood.estimate(score, process, x, steps=steps)

    metrics, records = {}, []
    for law, oracle, parts in (
        ("mixture", mixture, mixture.components),
        ("gaussian", gaussian, twice),
    ):
        x = oracle.sample(jax.random.key(0), num_points)
        for tolerance in tolerances:
            result = solve(parts, x, jnp.asarray(tolerance))
            error, gap = _error(oracle, x, result)
            if law == "mixture":
                records.append({"nfe": float(result.nfe.mean()), name: error})
            if tolerance == 1e-6:  # the default of `likelihood.adaptive`
                metrics[f"error_{law}_{name}"] = error
        metrics[f"error_at_tightest_{law}_{name}"] = error
        metrics[f"largest_prior_gap_{law}_{name}"] = gap
    moments = jnp.asarray(MEAN), jnp.asarray(COVARIANCE)
    metrics[f"mean_prior_gap_gaussian_{name}"] = float(likelihood.prior_gap(process, *moments))
    return _result(metrics), records


def on_field(name: str, size: int) -> claims.Result:
    """Error and prior gap on images of size x size pixels, by the exact trace of all of them."""
    process = _exact.all_processes()[name]
    field = oracles.random_field(process, (size, size, 1))
    x = field.sample(jax.random.key(0), 2)
    result = jax.jit(lambda x: likelihood.estimate(field, process, x))(x)
    error, gap = _error(field, x, result)
    return _result(
        {
            f"error_field_{name}": error,
            f"largest_prior_gap_field_{name}": gap,
            f"nfe_field_{name}": float(result.nfe.mean()),
        }
    )


def _error(
    oracle: oracles.Gaussian | oracles.RandomField, x: Array, result: likelihood.Estimate
) -> tuple[float, float]:
    """Largest error beyond the prior gap, and largest prior gap, in nats a dimension."""
    process, dim = oracle.process, x[0].size
    gap = result.prior_log_prob - oracle.log_prob(result.end, process.t_max)  # [B]
    error = result.log_prob - oracle.log_prob(x, process.t_min) - gap
    return float(jnp.abs(error).max() / dim), float(jnp.abs(gap).max() / dim)


def _result(metrics: dict[str, float]) -> claims.Result:
    """With the claim that every error among the metrics is small."""
    stated = [
        claims.largest(f"{name}, nats a dimension", [value], BAR, FORM)
        for name, value in metrics.items()
        if name.startswith("error_")
    ]
    return claims.Result(metrics, stated)
