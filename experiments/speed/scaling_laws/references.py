"""The field's ways to fit: SciPy with finite differences or autograd, and with exact gradients."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import scipy.optimize

from research.scaling_laws import fitting
from research.scaling_laws.runs import Runs

HOFFMANN = np.array(
    [np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28]
)  # a, b, e, alpha, beta
GRID = (
    (0, 5, 10, 15, 20, 25),
    (0, 5, 10, 15, 20, 25),
    (-1, -0.5, 0, 0.5, 1),
    (0, 0.5, 1, 1.5, 2),
    (0, 0.5, 1, 1.5, 2),
)
DELTA = 1e-3
NUM_RESAMPLES = 4000


def grid() -> np.ndarray:
    """[4500, 5] the starts of Hoffmann et al. and of the replication, in one fixed random order."""
    grid = np.array(list(itertools.product(*GRID)), float)
    return grid[np.random.default_rng(0).permutation(len(grid))]


def seconds(runs: Runs, num_starts: int, num_resamples: int) -> dict[str, float]:
    """Seconds for all 4,500 starts and 4,000 resamples, by each reference, from a sample."""
    log_n, log_d, log_l = (np.log(v) for v in (runs.parameters, runs.tokens, runs.loss))
    counts = fitting.resample_counts(np.random.default_rng(42), len(runs), num_resamples)
    starts = grid()[:num_starts]
    scale = (len(grid()) / len(starts), NUM_RESAMPLES / len(counts))

    def time_both(one_start: Callable, resample: Callable) -> float:
        began = time.perf_counter()
        for start in starts:
            one_start(start)
        middle = time.perf_counter()
        for row in counts:
            picks = np.repeat(np.arange(len(runs)), row)
            resample(log_n[picks], log_d[picks], log_l[picks])
        return scale[0] * (middle - began) + scale[1] * (time.perf_counter() - middle)

    minimize, data = scipy.optimize.minimize, (log_n, log_d, log_l)
    found = {
        "analytic": time_both(
            lambda start: minimize(_with_gradient, start, data, "L-BFGS-B", jac=True),
            lambda *args: minimize(_with_gradient, HOFFMANN, args, "BFGS", jac=True),
        )
    }
    try:
        import autograd
        import autograd.numpy as anp
    except ModuleNotFoundError:
        return found

    def objective(theta: np.ndarray, log_n, log_d, log_l):
        return _objective(theta, log_n, log_d, log_l, anp)

    gradient = autograd.grad(objective)
    found["reference"] = time_both(
        lambda start: minimize(_objective, start, data, "L-BFGS-B"),
        lambda *args: minimize(objective, HOFFMANN, args, "BFGS", jac=gradient),
    )
    return found


def _objective(theta: np.ndarray, log_n, log_d, log_l, numpy=np):
    """Summed Huber loss of the log loss."""
    a, b, e, alpha, beta = theta
    predicted = numpy.log(numpy.exp(a - alpha * log_n) + numpy.exp(b - beta * log_d) + numpy.exp(e))
    size = numpy.abs(log_l - predicted)
    return numpy.sum(numpy.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA)))


def _with_gradient(theta: np.ndarray, log_n, log_d, log_l) -> tuple[float, np.ndarray]:
    """The same and its gradient, by hand."""
    a, b, e, alpha, beta = theta
    size, tokens, rest = np.exp(a - alpha * log_n), np.exp(b - beta * log_d), np.exp(e)
    total = size + tokens + rest
    residual = log_l - np.log(total)
    big = np.abs(residual)
    value = np.sum(np.where(big <= DELTA, 0.5 * residual**2, DELTA * (big - 0.5 * DELTA)))
    pull = -np.clip(residual, -DELTA, DELTA) / total
    by_size, by_tokens = pull * size, pull * tokens
    return value, np.array([
        by_size.sum(), by_tokens.sum(), pull.sum() * rest, -by_size @ log_n, -by_tokens @ log_d,
    ])  # fmt: skip
