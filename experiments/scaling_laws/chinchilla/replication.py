"""How Besiroglu et al. 2024 fitted Chinchilla's data: objective, start, resamples, optimizer.

Their point estimate does not minimise the Huber loss that their bootstrap minimises: it maximises
the likelihood of Huber's density with a free scale, by SciPy's BFGS. At the fitted scale of 5e-6
almost every residual lies outside the threshold, so the estimate is one of least absolute
deviations, and the optimizer stops near its kinks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from research.scaling_laws import laws
from research.scaling_laws.fits import newton_steps
from research.scaling_laws.runs import Runs

DELTA = 1e-3
NAMES = ("A", "B", "E", "alpha", "beta")
LOG_START = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)  # Hoffmann et al., unrounded
START = dict(zip(NAMES, (*np.exp(LOG_START[:3]), *LOG_START[3:])))
SEED = 42  # of the notebook's resamples


def point(runs: Runs) -> dict[str, float]:
    """The published estimate: BFGS on the negative log likelihood with a free scale."""
    columns = {"parameters": np.log(runs.parameters), "tokens": np.log(runs.tokens)}
    targets = np.log(runs.loss)

    def negative_log_likelihood(theta: jax.Array) -> jax.Array:
        named = dict(zip(NAMES, theta[:5]))
        residual = (targets - laws.chinchilla.log_value(named, columns)) / jnp.exp(theta[5])
        return jnp.sum(newton_steps.huber(residual, DELTA)) + len(targets) * theta[5]

    with jax.enable_x64(True):
        gradient = jax.jit(jax.value_and_grad(negative_log_likelihood))

        def call(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, grads = gradient(jnp.asarray(theta))
            return float(value), np.asarray(grads)

        end = scipy.optimize.minimize(call, [*LOG_START, 0.0], jac=True, method="BFGS")
    return dict(zip(NAMES, (*np.exp(end.x[:3]), *end.x[3:5])))


def counts(num_runs: int, num_resamples: int) -> np.ndarray:
    """[R, n] the notebook's own resamples: NumPy's legacy generator with its seed."""
    generator = np.random.RandomState(SEED)
    picks = [generator.choice(num_runs, size=num_runs) for _ in range(num_resamples)]
    return np.stack([np.bincount(row, minlength=num_runs) for row in picks])


def objective(runs: Runs, parameters: dict[str, float]) -> float:
    """Summed Huber loss of the log loss at given parameters."""
    predicted = laws.chinchilla.predict(parameters, parameters=runs.parameters, tokens=runs.tokens)
    size = np.abs(np.log(runs.loss) - np.log(predicted))
    return float(np.sum(np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))))
