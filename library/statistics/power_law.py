"""Power laws y = coefficient x^exponent through points, by least squares in logarithms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x^exponent.

    Attributes:
        exponent, coefficient: the law.
        intercept: log of the coefficient, natural.
        standard_error: of the exponent, from the residuals; means nothing for two points.
        r_squared: of the logarithms.
        x, y: [N] the points.
    """

    exponent: float
    coefficient: float
    intercept: float
    standard_error: float
    r_squared: float
    x: np.ndarray
    y: np.ndarray

    def __call__(self, x: Any) -> np.ndarray:
        """The law at x."""
        return self.coefficient * np.asarray(x, np.float64) ** self.exponent


def fit(x: Any, y: Any, weights: Any = None) -> PowerLaw:
    """Least squares of log y = exponent log x + intercept, centred.

    Args:
        x, y: [N] positive, N >= 2, at two x or more.
        weights: [N] >= 0 of the squares, in any unit; None weighs all alike.
    Raises:
        ValueError: if the points are not positive and finite, too few or all at the same x.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)  # [N]
    _check(x, y)
    log_x, log_y = np.log(x), np.log(y)
    if weights is None:
        slope, intercept, error, r_squared = _plain(log_x, log_y)
    else:
        weights = np.asarray(weights, np.float64)
        if weights.shape != x.shape or not (np.all(weights >= 0) and 0 < weights.sum() < np.inf):
            raise ValueError(
                f"weights of shape {weights.shape}: expected {len(x)} finite numbers >= 0"
            )
        if len(np.unique(x[weights > 0])) < 2:
            raise ValueError("all points of weight lie at one x: expected at least two places")
        slope, intercept, error, r_squared = _weighted(log_x, log_y, weights / weights.sum())
    return PowerLaw(
        exponent=float(slope),
        coefficient=float(np.exp(intercept)),
        intercept=float(intercept),
        standard_error=float(error),
        r_squared=float(r_squared),
        x=x,
        y=y,
    )


def _plain(log_x: np.ndarray, log_y: np.ndarray) -> tuple[float, float, float, float]:
    """Slope, intercept, the slope's standard error and R^2, all points alike."""
    centred = log_x - log_x.mean()
    slope = centred @ log_y / (centred @ centred)
    intercept = log_y.mean() - slope * log_x.mean()
    residual = log_y - slope * log_x - intercept
    variance = residual @ residual / (len(log_x) - 2) if len(log_x) > 2 else 0.0
    total = np.sum((log_y - log_y.mean()) ** 2)
    r_squared = 1 - residual @ residual / total if total > 0 else 1.0
    return slope, intercept, math.sqrt(variance / (centred @ centred)), r_squared


def _weighted(
    log_x: np.ndarray, log_y: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float, float]:
    """The same with weights [N] that sum to one."""
    mean_x, mean_y = weights @ log_x, weights @ log_y
    spread = weights @ (log_x - mean_x) ** 2
    slope = weights @ ((log_x - mean_x) * (log_y - mean_y)) / spread
    rest = log_y - mean_y - slope * (log_x - mean_x)
    variance = weights @ rest**2
    degrees = max(len(log_x) - 2, 1)
    total = weights @ (log_y - mean_y) ** 2
    r_squared = 1 - variance / total if total > 0 else 1.0
    return slope, mean_y - slope * mean_x, np.sqrt(variance / spread / degrees), r_squared


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}: expected [N], N >= 2")
    if not (np.all(np.isfinite([x, y])) and np.all(x > 0) and np.all(y > 0)):
        raise ValueError("a power law needs points that are positive and finite")
    if np.all(x == x[0]):
        raise ValueError(f"all points lie at x={x[0]}: expected at least two places")
