"""Exact scores of Gaussians and Gaussian mixtures under any process, with densities and maps.

If x_0 ~ N(m, S) then x_t ~ N(alpha m, alpha^2 S + sigma^2 I); a mixture keeps its weights and its
score is the responsibility-weighted mean of its components' scores. Fields and data sets of image
size come from `fields`, beside this file.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key
from research.diffusion.oracles.fields import Empirical, RandomField, empirical, random_field
from research.diffusion.processes import Process, alpha_sigma

__all__ = [
    "Empirical",
    "Gaussian",
    "Mixture",
    "RandomField",
    "empirical",
    "gaussian",
    "mixture",
    "random_field",
]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "eigenvalues", "eigenvectors"],
    meta_fields=["process"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """The exact score of N(mean, covariance) noised by a process; call it as score(x, t).

    Attributes:
        process: the noising process.
        mean: [D].
        eigenvalues: [D], of the covariance, positive.
        eigenvectors: [D, D], columns, in the order of the eigenvalues.
    """

    process: Process
    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): states [B, D], times [B] or [] -> [B, D]."""
        alpha, variances = self._marginal(x, t)
        return -self._unrotate(self._rotate(x, alpha) / variances)

    def log_prob(self, x: Array, t: Array | float | None = None) -> Array:
        """log p_t(x), [B] nats, of states [B, D] at times [B] or []; of the data if t is None."""
        alpha, variances = self._marginal(x, t)
        square = jnp.sum(self._rotate(x, alpha) ** 2 / variances, -1)
        log_norm = jnp.sum(jnp.log(2 * math.pi * variances), -1)
        return -0.5 * (square + jnp.broadcast_to(log_norm, square.shape))

    def transport(self, x: Array, t_from: Array | float, t_to: Array | float) -> Array:
        """The exact probability-flow map from time t_from to t_to, [B, D] -> [B, D].

        x -> alpha' m + (V' V^{-1})^{1/2} (x - alpha m), with V and V' the two covariances.
        """
        alpha_from, variances_from = self._marginal(x, t_from)
        alpha_to, variances_to = self._marginal(x, t_to)
        moved = jnp.sqrt(variances_to / variances_from) * self._rotate(x, alpha_from)
        return alpha_to * jnp.asarray(self.mean, x.dtype)[None] + self._unrotate(moved)

    def sample(self, rng: Key, num_samples: int) -> Array:
        """Draws from the data distribution, [num_samples, D]."""
        normal = jax.random.normal(rng, (num_samples, self.mean.shape[0]))
        mean = jnp.asarray(self.mean, normal.dtype)[None]
        stds = jnp.asarray(self.eigenvalues**0.5, normal.dtype)[None]
        return mean + self._unrotate(normal * stds)

    def _marginal(self, x: Array, t: Array | float | None) -> tuple[Array, Array]:
        """alpha [B, 1] and the eigenvalues [B, D] of the covariance of x_t; B may be 1."""
        alpha, sigma = alpha_sigma(self.process, x, t)
        return alpha, alpha**2 * jnp.asarray(self.eigenvalues, x.dtype)[None] + sigma**2

    def _rotate(self, x: Array, alpha: Array) -> Array:
        """x - alpha m in the eigenbasis, [B, D]."""
        basis = jnp.asarray(self.eigenvectors, x.dtype)
        centred = x - alpha * jnp.asarray(self.mean, x.dtype)[None]
        return jnp.einsum("bd,de->be", centred, basis, precision="highest")

    def _unrotate(self, z: Array) -> Array:
        basis = jnp.asarray(self.eigenvectors, z.dtype)
        return jnp.einsum("be,de->bd", z, basis, precision="highest")


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """The exact score of a Gaussian mixture noised by a process; call it as score(x, t).

    Attributes:
        process: the noising process.
        log_weights: [K] nats.
        components: K Gaussians stacked along the first axis of their arrays.
    """

    process: Process
    log_weights: np.ndarray
    components: Gaussian

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): states [B, D], times [B] or [] -> [B, D]."""
        weights = jax.nn.softmax(self._joint(x, t), axis=0)  # [K, B]
        scores = jax.vmap(lambda part: part(x, t))(self.components)  # [K, B, D]
        return jnp.einsum("kb,kbd->bd", weights, scores, precision="highest")

    def log_prob(self, x: Array, t: Array | float | None = None) -> Array:
        """log p_t(x), [B] nats, of states [B, D] at times [B] or []; of the data if t is None."""
        return jax.scipy.special.logsumexp(self._joint(x, t), axis=0)

    def responsibilities(self, x: Array, t: Array | float | None = None) -> Array:
        """Posterior probability of each component, [B, K], of states [B, D]."""
        return jax.nn.softmax(self._joint(x, t), axis=0).T

    def sample(self, rng: Key, num_samples: int) -> Array:
        """Draws from the data distribution, [num_samples, D]."""
        choice_rng, normal_rng = jax.random.split(rng)
        log_weights = jnp.asarray(self.log_weights)
        choice = jax.random.categorical(choice_rng, log_weights, shape=(num_samples,))
        parts = jax.tree.map(lambda leaf: jnp.asarray(leaf)[choice], self.components)
        rngs = jax.random.split(normal_rng, num_samples)
        return jax.vmap(lambda part, key: part.sample(key, 1)[0])(parts, rngs)

    def _joint(self, x: Array, t: Array | float | None) -> Array:
        """log (weight_k N_k(x)), [K, B]."""
        log_probs = jax.vmap(lambda part: part.log_prob(x, t))(self.components)
        return log_probs + jnp.asarray(self.log_weights, log_probs.dtype)[:, None]


def gaussian(process: Process, mean: np.ndarray, covariance: np.ndarray | float) -> Gaussian:
    """The exact score of N(mean, covariance) under a process.

    Args:
        process: the noising process.
        mean: [D], concrete.
        covariance: [D, D] symmetric positive definite, [D] variances, or one variance; concrete.
    Returns:
        `Gaussian`, callable as score(x [B, D], t [B]) -> [B, D].
    Raises:
        ValueError: if the shapes disagree or the covariance is not symmetric positive definite.
    """
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 1:
        raise ValueError(f"mean has shape {mean.shape}: expected [D]")
    eigenvalues, eigenvectors = _eigen(covariance, mean.shape[0])
    return Gaussian(process, mean, eigenvalues, eigenvectors)


def mixture(
    process: Process, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> Mixture:
    """The exact score of sum_k weights_k N(means_k, covariances_k) under a process.

    Args:
        process: the noising process.
        weights: [K] positive, summing to one.
        means: [K, D].
        covariances: [K, D, D], [K, D] variances, [K] one variance each, or one variance for all.
    Returns:
        `Mixture`, callable as score(x [B, D], t [B]) -> [B, D].
    Raises:
        ValueError: if the shapes disagree, the weights are not a distribution, or a covariance is
            not symmetric positive definite.
    """
    weights, means = np.asarray(weights, np.float64), np.asarray(means, np.float64)
    covariances = np.asarray(covariances, np.float64)
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"weights {weights.shape}, means {means.shape}: expected shapes [K] and [K, D]"
        )
    if not (np.all(weights > 0) and math.isclose(weights.sum(), 1, rel_tol=1e-6)):
        raise ValueError(f"weights={weights}: expected positive numbers that sum to one")
    if covariances.ndim == 0:
        covariances = np.full(weights.shape, covariances)
    if covariances.shape[0] != weights.shape[0]:
        raise ValueError(f"{covariances.shape[0]} covariances for {weights.shape[0]} weights")
    parts = [gaussian(process, mean, part) for mean, part in zip(means, covariances)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    return Mixture(process, np.log(weights / weights.sum()), stacked)


def _eigen(covariance: np.ndarray | float, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [D] and eigenvectors [D, D] of a covariance given in any accepted form."""
    covariance = np.asarray(covariance, np.float64)
    if covariance.ndim == 0:
        covariance = np.full(dim, covariance)
    if covariance.shape not in ((dim,), (dim, dim)):
        raise ValueError(
            f"covariance has shape {covariance.shape}: expected ({dim}, {dim}), ({dim},) or ()"
        )
    if covariance.ndim == 1:
        eigenvalues, eigenvectors = covariance, np.eye(dim)
    else:
        if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
            raise ValueError("covariance is not symmetric")
        eigenvalues, eigenvectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    if not (np.all(np.isfinite(eigenvalues)) and eigenvalues.min() > 0):
        raise ValueError(
            f"covariance is not positive definite: smallest eigenvalue {eigenvalues.min():.3g}"
        )
    return eigenvalues, eigenvectors
