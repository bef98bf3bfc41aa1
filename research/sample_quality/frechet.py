"""The Frechet distance between Gaussians fitted to two samples of features.

With the features of one particular Inception network it is the Frechet inception distance of Heusel
et al. 2017, arXiv:1706.08500; with any other features it is another number, and must be named so.
"""

from __future__ import annotations

import dataclasses

import chex
import numpy as np

from library import checks


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^{1/2}), the squared 2-Wasserstein distance.

    Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X. It is biased upwards in the sizes of
    the samples, so compare it with what a fresh sample of the same size shows; samples of no more
    than F rows have a singular covariance, and the bias is then most of the number.

    Args:
        x, y: [N, F] and [M, F] float, features of the two samples; computed in float64.
    Returns:
        A float >= 0, in squared units of the features.
    Raises:
        ValueError: if the samples are no matrices of one width, have fewer than two rows, are
            complex or hold what is not finite.
    """
    x, y = (_real(name, features) for name, features in (("x", x), ("y", y)))
    if x.ndim != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features have shapes {x.shape} and {y.shape}: expected [N >= 2, F] and [M >= 2, F]"
        )
    for name, features in (("x", x), ("y", y)):
        if not np.isfinite(features).all():
            row = np.flatnonzero(~np.isfinite(features).all(1))[0]
            raise ValueError(f"features {name}: row {row} is not finite")
    return between_gaussians(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """A Frechet distance without the bias of finite samples.

    Attributes:
        distance: at infinitely many samples; may be negative.
        slope: what one over the number of samples adds, in squared units of the features.
        sizes: [num_sizes] numbers of samples that were looked at.
        distances: [num_sizes] the distance at each.
    """

    distance: float
    slope: float
    sizes: np.ndarray
    distances: np.ndarray


def extrapolated(
    x: np.ndarray, y: np.ndarray, num_sizes: int = 15, least: int | None = None, seed: int = 0
) -> Extrapolation:
    """The distance at infinitely many samples y: the intercept of a line in one over their number.

    Chong and Forsyth 2020, arXiv:1911.07023, section 3.1: the bias falls as 1/M to first order.
    The reference x is used whole, so its own bias, of order 1/N, stays.

    Args:
        x, y: [N, F] and [M, F] float, features of the reference and of the samples.
        num_sizes: subsets of y, of sizes evenly spaced up to M; 15 as in the paper.
        least: size of the smallest subset; None for a tenth of M, or 2 F where that is more: with
            fewer rows than columns the bias is not of first order.
        seed: of the subsets.
    Raises:
        ValueError: as `distance`; or if there are fewer than two sizes, or the smallest is not
            below M.
    """
    checks.count("num_sizes", num_sizes, least=2)
    y = np.asarray(y)
    if y.ndim != 2:
        raise ValueError(f"features have shape {y.shape}: expected [M, F]")
    least = max(len(y) // 10, 2 * y.shape[1]) if least is None else least
    if not 2 <= least < len(y):
        raise ValueError(
            f"least={least}: expected at least 2 and fewer than the {len(y)} samples; more samples "
            f"than {2 * y.shape[1]}, twice the features, allow the default"
        )
    rng = np.random.default_rng(seed)
    sizes = np.linspace(least, len(y), num_sizes).astype(int)
    distances = np.array([distance(x, y[rng.permutation(len(y))[:size]]) for size in sizes])
    slope, intercept = np.polyfit(1 / sizes, distances, 1)
    return Extrapolation(float(intercept), float(slope), sizes, distances)


def between_gaussians(
    mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray
) -> float:
    """The same for given means [F] and covariances [F, F].

    The trace of (S_x S_y)^{1/2} is that of (S_x^{1/2} S_y S_x^{1/2})^{1/2}, which is symmetric, so
    that singular covariances, as of units that never fire, need no care. Computed in float64.

    Raises:
        ValueError: for means or covariances that are complex or not finite, or a covariance that is
            not symmetric or has an eigenvalue below zero by more than rounding.
    """
    named = {"mean_x": mean_x, "cov_x": cov_x, "mean_y": mean_y, "cov_y": cov_y}
    mean_x, cov_x, mean_y, cov_y = (_real(name, given) for name, given in named.items())
    cov_x, cov_y = np.atleast_2d(cov_x), np.atleast_2d(cov_y)
    chex.assert_shape([cov_x, cov_y], (len(cov_x), len(cov_x)))
    chex.assert_shape([mean_x, mean_y], (len(cov_x),))
    for name in named:
        if not np.isfinite(named[name]).all():
            raise ValueError(f"{name} is not finite")
    for name, covariance in (("cov_x", cov_x), ("cov_y", cov_y)):
        if np.abs(covariance - covariance.T).max() > 1e-6 * np.abs(covariance).max():
            raise ValueError(f"{name} is not symmetric")
    values, vectors = np.linalg.eigh(cov_x)
    _check_spectrum("cov_x", values)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    squares = np.linalg.eigvalsh(root @ cov_y @ root)
    _check_spectrum("cov_y", squares)
    cross = np.sqrt(np.maximum(squares, 0)).sum()
    shift = np.sum((mean_x - mean_y) ** 2)
    return float(max(shift + np.trace(cov_x) + np.trace(cov_y) - 2 * cross, 0.0))


def _real(name: str, given: np.ndarray) -> np.ndarray:
    given = np.asarray(given)
    if np.iscomplexobj(given):
        raise ValueError(f"{name} of type {given.dtype}: expected real numbers")
    return given.astype(np.float64)


def _check_spectrum(name: str, values: np.ndarray) -> None:
    # In float32 a singular covariance has eigenvalues of -1e-7 of the largest, times its size.
    if values[0] < -1e-5 * len(values) * np.abs(values).max():
        raise ValueError(f"{name} has an eigenvalue below zero: no covariance")
