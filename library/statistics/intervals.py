"""Intervals: percentiles of bootstrap draws, exact binomial ones, and those of a normal mean."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from library import checks


def tails(level: float) -> tuple[float, float]:
    """The two probabilities that cut off a central interval.

    Raises:
        ValueError: if the level is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a probability inside (0, 1), e.g. 0.95")
    return (1 - level) / 2, (1 + level) / 2


def percentile(draws: Any, level: float = 0.95) -> tuple[float, float]:
    """The central interval of draws, e.g. a bootstrap's; infinite where infinite draws decide.

    Args:
        draws: [R] float.
        level: share of the draws inside, in (0, 1).
    Returns:
        Low and high end.
    Raises:
        ValueError: if there are no draws, or the level does not fit.
    """
    draws = np.asarray(draws)
    if draws.size == 0:
        raise ValueError("there are no draws: expected one or more")
    draws = draws.astype(np.promote_types(draws.dtype, np.float32), copy=False)
    # Between two draws of which one is infinite there is no number.
    method = "linear" if np.all(np.isfinite(draws)) else "inverted_cdf"
    low, high = np.quantile(draws, tails(level), method=method)
    return float(low), float(high)


def resample_counts(rng: Any, num_runs: int, num_resamples: int) -> np.ndarray:
    """[R, n] how often each resample holds each run.

    Args:
        rng: a JAX key, whose data seed a NumPy generator; a NumPy generator; or a seed.
        num_runs: n.
        num_resamples: R.
    Raises:
        ValueError: for a number that is no positive whole number.
    """
    num_runs = checks.count("num_runs", num_runs)
    num_resamples = checks.count("num_resamples", num_resamples)
    rng = generator(rng)
    picks = rng.integers(num_runs, size=(num_resamples, num_runs))
    return np.stack([np.bincount(row, minlength=num_runs) for row in picks])


def generator(rng: Any) -> np.random.Generator:
    """A NumPy generator of a JAX key (its data are the seed), a seed, or a generator itself."""
    if isinstance(rng, int | np.integer):
        return np.random.default_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(np.asarray(jax.random.key_data(rng)).ravel().tolist())


def clopper_pearson(
    num_successes: int, num_trials: int, level: float = 0.95
) -> tuple[float, float]:
    """Exact interval of a probability: it covers the true one with at least `level`.

    Clopper and Pearson 1934, Biometrika 26, 404: each end is the probability at which the count, or
    one more extreme on that side, has half of 1 - level; these are quantiles of beta distributions.

    Args:
        num_successes: k, 0 ... n.
        num_trials: n >= 1.
        level: in (0, 1).
    Returns:
        Low and high end, in [0, 1].
    Raises:
        ValueError: if the counts or the level do not fit.
    """
    from scipy import special

    if not 0 <= num_successes <= num_trials or not 1 <= num_trials < math.inf:
        raise ValueError(f"{num_successes} successes of {num_trials} trials: expected 0 ... n >= 1")
    checks.count("num_trials", num_trials)
    checks.count("num_successes", num_successes, least=0)
    below, above = tails(level)
    k, n = num_successes, num_trials
    low = special.betaincinv(k, n - k + 1, below) if k > 0 else 0.0
    high = special.betaincinv(k + 1, n - k, above) if k < n else 1.0
    return float(low), float(high)


def normal_mean(values: Any, level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of a normal sample with unknown variance, by Student's t.

    Args:
        values: [N] float, N >= 2.
        level: in (0, 1).
    Returns:
        Low and high end.
    Raises:
        ValueError: if there are fewer than two values, or the level does not fit.
    """
    from scipy import special

    values = np.asarray(values, np.float64)  # [N]
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values of shape {values.shape}: expected [N], N >= 2")
    reach = special.stdtrit(len(values) - 1, tails(level)[1])
    reach *= values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)
