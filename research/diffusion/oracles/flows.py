"""The exact probability-flow map of a mixture on the line: what solvers of the ODE must reach."""

from __future__ import annotations

import numpy as np

from research.diffusion.oracles.gaussians import Mixture


def mixture_flow(oracle: Mixture, x: np.ndarray, t_from: float, t_to: float) -> np.ndarray:
    """The exact probability-flow map of a mixture on the line: it keeps quantiles.

    Args:
        oracle: a mixture of points [1].
        x: [N] float64, states at t_from.
    Returns:
        [N] float64, the states at t_to, by SciPy's normal law and root finder.
    Raises:
        ValueError: if the mixture or x is not of points on the line, or a time out of range.
    """
    import scipy.optimize  # late: it takes as long to import as JAX
    import scipy.stats

    oracle.process.check_times([t_from, t_to], "t_from, t_to")
    weights = np.exp(oracle.log_weights)
    means, variances = oracle.components.mean[:, 0], oracle.components.eigenvalues[:, 0]
    if oracle.components.mean.shape[1] != 1 or np.ndim(x) != 1:
        raise ValueError(
            f"a mixture of means {oracle.components.mean.shape} and x {np.shape(x)}: expected "
            "points on the line, [K, 1] and [N]"
        )

    def cdf(x: float, t: float) -> float:
        alpha, sigma = float(oracle.process.alpha(t)), float(oracle.process.sigma(t))
        stds = np.sqrt(alpha**2 * variances + sigma**2)
        return weights @ scipy.stats.norm.cdf((x - alpha * means) / stds)

    def carried(point: float) -> float:
        level = cdf(point, t_from)
        return scipy.optimize.brentq(lambda y: cdf(y, t_to) - level, -20, 20, xtol=1e-14)

    return np.array([carried(point) for point in x])
