"""Sampling given a linear measurement y = H x_0 + noise: inpainting, colourisation, any matrix.

A measurement is kept in coordinates in which the rows of H are orthonormal; every linear problem
has such coordinates by the singular value decomposition. Three ways to use a score:

    replacement               overwrite the measured part at every step; biased even if exact
    posterior_mean_guidance   add grad log p(y | x_t) by a Gaussian around E[x_0 | x_t]
    exact_conditional         for Gaussian data, the conditional score itself: the oracle
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array, Key
from research.diffusion import oracles, predictions
from research.diffusion.curves import wide
from research.diffusion.predictions import Score
from research.diffusion.processes import Process


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """y = H x_0 + noise_std z with orthonormal rows of H, the same for all samples.

    Attributes:
        observe: H, [B, ...] -> [B, M].
        lift: the transpose of H, [B, M] -> [B, ...].
        observed: [M], y.
        noise_std: [M], in the units of y; zero for exact measurements.
    """

    observe: Callable[[Array], Array]
    lift: Callable[[Array], Array]
    observed: np.ndarray
    noise_std: np.ndarray


def inpainting(mask: np.ndarray, image: np.ndarray, noise_std: float = 0.0) -> Measurement:
    """The values of an image where a mask is true.

    Args:
        mask: shape of one example, bool, or 0 and 1.
        image: shape of one example; read where the mask is true.
        noise_std: standard deviation of the noise in it.
    Raises:
        ValueError: if the shapes differ, the mask is nowhere true or has other values, the image
            is not finite there, or noise_std is negative.
    """
    mask, image = np.asarray(mask), np.asarray(image)
    if not np.all((mask == 0) | (mask == 1)):
        raise ValueError(f"mask has values from {mask.min()} to {mask.max()}: expected 0 and 1")
    mask = mask.astype(bool)
    if mask.shape != image.shape or not mask.any():
        raise ValueError(
            f"mask {mask.shape} with {mask.sum()} true, image {image.shape}: expected equal "
            "shapes and a mask that is true somewhere"
        )
    (places,) = np.nonzero(mask.reshape(-1))

    def lift(y: Array) -> Array:
        flat = jnp.zeros((y.shape[0], mask.size), y.dtype).at[:, places].set(y)
        return flat.reshape(y.shape[0], *mask.shape)

    return _measurement(
        lambda x: wide(x).reshape(x.shape[0], -1)[:, places], lift, image[mask], noise_std
    )


def colourisation(grey: np.ndarray, num_channels: int = 3, noise_std: float = 0.0) -> Measurement:
    """The mean over channels of an image [H, W, C].

    Args:
        grey: [H, W], the mean.
        num_channels: C.
        noise_std: standard deviation of the noise in it.
    Raises:
        ValueError: if grey is no image of finite numbers, num_channels no positive whole number, or
            noise_std negative.
    """
    checks.count("num_channels", num_channels)
    grey = np.asarray(grey)
    if not grey.ndim:
        raise ValueError(f"grey={grey}: expected an image [H, W]")
    root = num_channels**0.5  # H = 1/root everywhere has rows of norm 1

    def lift(y: Array) -> Array:
        pixels = y.reshape(y.shape[0], *grey.shape, 1) / root
        return jnp.broadcast_to(pixels, (y.shape[0], *grey.shape, num_channels))

    def observe(x: Array) -> Array:
        return (wide(x).sum(-1) / root).reshape(x.shape[0], -1)

    return _measurement(observe, lift, root * grey.reshape(-1), root * noise_std)


def linear(
    matrix: np.ndarray, observed: np.ndarray, shape: tuple[int, ...], noise_std: float = 0.0
) -> Measurement:
    """Any linear measurement of an example, brought to orthonormal rows.

    With matrix = U S V^T the coordinates are S^{-1} U^T y; what lies outside the range of the
    matrix, and so says nothing about x, is dropped.

    Args:
        matrix: [M, D].
        observed: [M], y.
        shape: of one example, of size D.
        noise_std: standard deviation of the noise in y.
    Raises:
        ValueError: if the shapes do not fit.
    """
    matrix, observed = np.asarray(matrix, np.float64), np.asarray(observed, np.float64)
    if matrix.shape != (observed.size, np.prod(shape)) or observed.ndim != 1:
        raise ValueError(
            f"matrix {matrix.shape}, observed {observed.shape}, shape {shape}: expected "
            "[M, D], [M] and a shape of size D"
        )
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    kept = singular > singular.max() * max(matrix.shape) * np.finfo(np.float64).eps
    left, singular, right = left[:, kept], singular[kept], right[kept]

    def observe(x: Array) -> Array:
        flat = wide(x).reshape(x.shape[0], -1)
        return jnp.einsum("md,bd->bm", jnp.asarray(right, flat.dtype), flat, precision="highest")

    def lift(y: Array) -> Array:
        y = wide(y)
        flat = jnp.einsum("md,bm->bd", jnp.asarray(right, y.dtype), y, precision="highest")
        return flat.reshape(y.shape[0], *shape)

    return _measurement(observe, lift, left.T @ observed / singular, noise_std / singular)


def replacement(process: Process, measurement: Measurement) -> Callable[[Array, Array, Key], Array]:
    """The hook that overwrites the measured part of a state by a fresh noising of y.

    Song et al. 2021, arXiv:2011.13456, appendix I.2. The unmeasured part never learns that it does
    not fit, so the result is biased even with an exact score; each step's noise is independent.

    Args:
        process: the noising process.
        measurement: y; its own noise counts towards the noise of the state where it is smaller.
    Returns:
        project(x [B, ...], t [B], rngs [B]) -> x, for `samplers.sample(..., project=...)`; needs
        a sampler that passes keys.
    """

    def project(x: Array, t: Array, rngs: Key) -> Array:
        x = wide(x)
        measured = jnp.asarray(measurement.observed, x.dtype)
        noise = jax.vmap(lambda key: jax.random.normal(key, measured.shape, x.dtype))(rngs)
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        own = alpha * jnp.asarray(measurement.noise_std, x.dtype)[None]
        spread = jnp.sqrt(jnp.maximum(sigma**2 - own**2, 0))
        target = alpha * measured[None] + spread * noise  # [B, M]
        return x + measurement.lift(target - measurement.observe(x))

    return project


def replaced_moments(
    process: Process, measurement: Measurement, shape: tuple[int, ...]
) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """What `replacement` does to the mean and covariance of a state, for `moments`.

    With P = I - H^T H the mean becomes P m + alpha H^T y, the covariance P C P + H^T (sigma^2 -
    (alpha noise_std)^2) H.

    Args:
        process: the noising process.
        measurement: y.
        shape: of one example, of size D.
    Returns:
        project(mean [D], covariance [D, D], t []) -> (mean [D], covariance [D, D]).
    """
    rows = _matrix(measurement, shape).reshape(len(measurement.observed), -1)  # [M, D]
    kept = np.eye(rows.shape[1]) - rows.T @ rows

    def project(mean: Array, covariance: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = process.alpha(t), process.sigma(t)
        spread = jnp.maximum(sigma**2 - (alpha * measurement.noise_std) ** 2, 0)  # [M]
        mean = kept @ mean + alpha * (rows.T @ measurement.observed)
        return mean, kept @ covariance @ kept.T + (rows.T * spread[None]) @ rows

    return project


def posterior_mean_guidance(
    process: Process,
    score: Score,
    measurement: Measurement,
    *,
    data_std: float | None = 1.0,
    covariance: Callable[[Array], Array] | None = None,
    scale: float = 1.0,
) -> Score:
    """score + grad log N(y; H E[x_0 | x_t], C_t + noise^2), the gradient through the network.

    Song et al. 2023 (pseudoinverse guidance), with r_t^2 = d^2 tau^2 / (d^2 + tau^2) for C_t, tau =
    sigma/alpha: the posterior variance of independent data of standard deviation d. Chung et al.
    2023, arXiv:2209.14687, is the limit of C_t = 0 with a hand-set scale. With the covariance of
    H x_0 given x_t the score is exact for Gaussian data.

    Args:
        process: the noising process.
        score: of the unconditional law.
        measurement: y.
        data_std: d; not used if `covariance` is given.
        covariance: t [B] -> [B, M, M], of H x_0 given x_t.
        scale: factor on the added gradient.
    Raises:
        ValueError: if neither data_std nor covariance is given, or the scale is not finite.
    """
    if not np.all(np.isfinite(scale)):
        raise ValueError(f"scale={scale}: expected a finite number")
    if covariance is None and not (data_std and 0 < data_std < np.inf):
        raise ValueError(f"data_std={data_std}: expected a positive number, or a covariance")
    denoise = predictions.to_kind(process, score, "score", "data")
    noise = np.asarray(measurement.noise_std) ** 2  # [M]

    def precise(residual: Array, t: Array) -> Array:
        """(C_t + noise^2)^{-1} residual, [B, M]."""
        own = jnp.asarray(noise, residual.dtype)[None]
        if covariance is None:
            squared = jnp.exp(-process.log_snr(t))[:, None]  # tau^2
            return residual / (squared * data_std**2 / (data_std**2 + squared) + own)
        total = covariance(t) + jax.vmap(jnp.diag)(jnp.broadcast_to(own, residual.shape))
        return jnp.linalg.solve(total, residual[..., None])[..., 0]

    def guided(x: Array, t: Array) -> Array:
        x = wide(x)
        mean, pull_back = jax.vjp(lambda x: measurement.observe(denoise(x, t)), x)
        residual = jnp.asarray(measurement.observed, x.dtype)[None] - mean
        (gradient,) = pull_back(precise(residual, t))
        return wide(score(x, t)) + scale * gradient

    return guided


def exact_conditional(
    process: Process, mean: np.ndarray, covariance: np.ndarray, measurement: Measurement
) -> oracles.Gaussian:
    """The exact score of Gaussian data given a measurement: again a Gaussian's.

    Args:
        process: the noising process.
        mean, covariance: [D], [D, D], of the data; an example is a vector [D].
        measurement: y.
    Returns:
        `oracles.Gaussian` of the conditional law; measured directions without noise have
        variance zero in it.
    """
    prior = oracles.gaussian(process, mean, covariance)  # checks them
    covariance = prior.covariance
    rows = _matrix(measurement, prior.mean.shape)  # [M, D]
    noise = np.diag(np.asarray(measurement.noise_std, np.float64) ** 2)
    gain = np.linalg.solve(rows @ covariance @ rows.T + noise, rows @ covariance).T  # [D, M]
    posterior_mean = prior.mean + gain @ (measurement.observed - rows @ prior.mean)
    posterior = covariance - gain @ rows @ covariance
    eigenvalues, eigenvectors = np.linalg.eigh((posterior + posterior.T) / 2)
    return oracles.Gaussian(process, posterior_mean, np.maximum(eigenvalues, 0), eigenvectors)


def gaussian_covariance(
    process: Process, covariance: np.ndarray, measurement: Measurement
) -> Callable[[Array], Array]:
    """Of H x_0 given x_t for Gaussian data: t [B] -> [B, M, M], for `posterior_mean_guidance`.

    H (S^{-1} + I/tau^2)^{-1} H^T with tau = sigma/alpha.

    Raises:
        ValueError: if the covariance is not symmetric positive definite.
    """
    covariance = np.asarray(covariance, np.float64)
    if covariance.ndim != 2:
        raise ValueError(f"covariance has shape {covariance.shape}: expected [D, D]")
    oracles.gaussian(process, np.zeros(len(covariance)), covariance)  # checks it
    eigenvalues, basis = np.linalg.eigh(np.asarray(covariance, np.float64))
    rows = _matrix(measurement, eigenvalues.shape) @ basis  # [M, D]

    def at(t: Array) -> Array:
        squared = jnp.exp(-process.log_snr(t))[:, None]  # [B, 1]
        variances = jnp.asarray(eigenvalues, squared.dtype)[None]
        kept = variances * squared / (variances + squared)  # [B, D]
        turned = jnp.asarray(rows, squared.dtype)
        return jnp.einsum("md,bd,nd->bmn", turned, kept, turned, precision="highest")

    return at


def _matrix(measurement: Measurement, shape: tuple[int, ...]) -> np.ndarray:
    """H as an array [M, D], float64 where JAX computes in it."""
    num_measured = len(measurement.observed)
    rows = measurement.lift(jnp.eye(num_measured))
    return np.asarray(rows.reshape(num_measured, *shape), np.float64)


def _measurement(
    observe: Callable[[Array], Array],
    lift: Callable[[Array], Array],
    observed: np.ndarray,
    noise_std: float | np.ndarray,
) -> Measurement:
    if not np.all((np.asarray(noise_std) >= 0) & np.isfinite(noise_std)):
        raise ValueError(f"noise_std={noise_std}: expected numbers >= 0")
    observed = np.asarray(observed).reshape(-1)
    if not np.isfinite(observed).all():
        raise ValueError("the measured values are not finite")
    return Measurement(observe, lift, observed, np.broadcast_to(noise_std, observed.shape))
