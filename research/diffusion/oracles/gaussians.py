"""Exact scores of Gaussians and Gaussian mixtures under any process, with densities and maps.

If x_0 ~ N(m, S) then x_t ~ N(alpha m, alpha^2 S + sigma^2 I); a mixture keeps its weights and its
score is the responsibility-weighted mean of its components' scores. Fields and data sets of image
size come from `fields`, beside this file.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key, PyTree
from research.diffusion.curves import as_time, wide
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

    Everything is computed and returned in float32, or in float64 where the states are.

    Attributes:
        process: the noising process.
        mean: [D].
        eigenvalues: [D], of the covariance, positive; [1] where all are equal.
        eigenvectors: [D, D], columns, in the order of the eigenvalues; None for the axes
            themselves: nothing of size D^2 is held for independent directions.
    """

    process: Process
    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray | None

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], of the data."""
        dim = self.mean.shape[0]
        basis = np.eye(dim) if self.eigenvectors is None else self.eigenvectors
        return basis * np.broadcast_to(self.eigenvalues, dim) @ basis.T

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): states [B, D], times [B] or [] -> [B, D]."""
        x = wide(x)
        alpha, variances = self._marginal(x, t)
        return -self._unrotate(self._rotate(x, alpha) / variances)

    def log_prob(self, x: Array, t: Array | float | None = None) -> Array:
        """log p_t(x), [B] nats, of states [B, D] at times [B] or []; of the data if t is None."""
        x = wide(x)
        alpha, variances = self._marginal(x, t)
        square = jnp.sum(self._rotate(x, alpha) ** 2 / variances, -1)
        times = x.shape[-1] // variances.shape[-1]  # D where one variance stands for all
        log_norm = times * jnp.sum(jnp.log(2 * math.pi * variances), -1)
        return -0.5 * (square + jnp.broadcast_to(log_norm, square.shape))

    def energies(self, x: Array, t: Array | float | None) -> Array:
        """What the directions add to -2 log p_t(x), less log 2 pi of each: [B, D]."""
        x = wide(x)
        alpha, variances = self._marginal(x, t)
        return self._rotate(x, alpha) ** 2 / variances + jnp.log(variances)

    def transport(self, x: Array, t_from: Array | float, t_to: Array | float) -> Array:
        """The exact probability-flow map from time t_from to t_to, [B, D] -> [B, D].

        x -> alpha' m + (V' V^{-1})^{1/2} (x - alpha m), with V and V' the two covariances.
        """
        x = wide(x)
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
        """alpha [B, 1] and the eigenvalues [B, D or 1] of the covariance of x_t; B may be 1."""
        alpha, sigma = alpha_sigma(self.process, x, t)
        return alpha, alpha**2 * jnp.asarray(self.eigenvalues, x.dtype)[None] + sigma**2

    def _rotate(self, x: Array, alpha: Array) -> Array:
        """x - alpha m in the eigenbasis, [B, D]."""
        centred = x - alpha * jnp.asarray(self.mean, x.dtype)[None]
        if self.eigenvectors is None:
            return centred
        basis = jnp.asarray(self.eigenvectors, x.dtype)
        return jnp.einsum("bd,de->be", centred, basis, precision="highest")

    def _unrotate(self, z: Array) -> Array:
        if self.eigenvectors is None:
            return z
        basis = jnp.asarray(self.eigenvectors, z.dtype)
        return jnp.einsum("be,de->bd", z, basis, precision="highest")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_weights", "components"],
    meta_fields=["process"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """The exact score of a Gaussian mixture noised by a process; call it as score(x, t).

    Attributes:
        process: the noising process.
        log_weights: [K] nats.
        components: K Gaussians stacked along the first axis of their arrays.

    Beside the K D numbers (K D^2 of full covariances) the states take B K numbers and blocks of
    about four million: components are followed in turn where they are many. It is a pytree: pass
    a large one to a jitted function as an argument, or XLA copies it into the program.
    """

    process: Process
    log_weights: np.ndarray
    components: Gaussian

    def __call__(self, x: Array, t: Array) -> Array:
        """grad log p_t(x): states [B, D], times [B] or [] -> [B, D]."""
        x, components = wide(x), jax.tree.map(jnp.asarray, self.components)
        weights = jax.nn.softmax(self._joint(components, x, t)[0], axis=0)  # [K, B]

        def weighted(parts: Gaussian, shares: Array) -> Array:
            scores = jax.vmap(lambda part: part(x, t))(parts)  # [k, B, D]
            return jnp.einsum("kb,kbd->bd", shares, scores, precision="highest")

        blocks = _Blocks.of(components, x)
        if blocks.num == 1:
            return weighted(components, weights)

        def add(total: Array, number: Array) -> tuple[Array, None]:
            start, shares = blocks.start(number), blocks.take(weights, number)
            fresh = start + jnp.arange(blocks.size) >= number * blocks.size
            shares = jnp.where(fresh[:, None], shares, 0)
            return total + weighted(blocks.take(components, number), shares), None

        # Without the checkpoint a derivative would keep all of [K, B, D].
        return jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(x), jnp.arange(blocks.num))[0]

    def log_prob(self, x: Array, t: Array | float | None = None) -> Array:
        """log p_t(x), [B] nats, of states [B, D] at times [B] or []; of the data if t is None."""
        components = jax.tree.map(jnp.asarray, self.components)
        joint, likeliest = self._joint(components, x, t)
        return likeliest + jax.scipy.special.logsumexp(joint, axis=0)

    def responsibilities(self, x: Array, t: Array | float | None = None) -> Array:
        """Posterior probability of each component, [B, K], of states [B, D]."""
        components = jax.tree.map(jnp.asarray, self.components)
        return jax.nn.softmax(self._joint(components, x, t)[0], axis=0).T

    def sample(self, rng: Key, num_samples: int) -> Array:
        """Draws from the data distribution, [num_samples, D]."""
        choice_rng, normal_rng = jax.random.split(rng)
        log_weights = jnp.asarray(self.log_weights)
        choice = jax.random.categorical(choice_rng, log_weights, shape=(num_samples,))
        components = jax.tree.map(jnp.asarray, self.components)
        size = max(1, _BLOCK // sum(leaf[0].size for leaf in jax.tree.leaves(components)))

        def draw(which: tuple[Array, Key]) -> Array:
            part = jax.tree.map(lambda leaf: leaf[which[0]], components)
            return part.sample(which[1], 1)[0]

        rngs = jax.random.split(normal_rng, num_samples)
        return jax.lax.map(draw, (choice, rngs), batch_size=size)

    def _joint(
        self, components: Gaussian, x: Array, t: Array | float | None
    ) -> tuple[Array, Array]:
        """log (weight_k N_k(x)) less that of the likeliest component [K, B], and the latter [B].

        Both are sums of D terms, of the size of D/2, whose rounding would be that of the weights.
        Their difference is taken direction by direction, where it is small.
        """
        x = wide(x)
        log_weights = jnp.asarray(self.log_weights, x.dtype)
        still = jax.lax.stop_gradient(x)
        coarse = _each(lambda part: part.log_prob(still, t), components, x) + log_weights[:, None]
        best = jnp.argmax(coarse, 0)  # [B]
        nearest = jax.tree.map(lambda leaf: leaf[best], components)
        times = None if t is None else jnp.broadcast_to(as_time(t), best.shape)
        own = jax.vmap(lambda part, x, t: part.energies(x[None], t)[0])(nearest, x, times)  # [B, D]
        gap = lambda part: jnp.sum(part.energies(x, t) - own, -1)  # noqa: E731
        gaps = _each(gap, components, x)  # [K, B]
        joint = log_weights[:, None] - log_weights[best][None] - 0.5 * gaps
        log_norm = x.shape[-1] * math.log(2 * math.pi)
        return joint, log_weights[best] - 0.5 * (jnp.sum(own, -1) + log_norm)


def gaussian(process: Process, mean: np.ndarray, covariance: np.ndarray | float) -> Gaussian:
    """The exact score of N(mean, covariance) under a process.

    Args:
        process: the noising process.
        mean: [D], concrete.
        covariance: [D, D] symmetric positive definite, [D] variances, or one variance; concrete.
    Returns:
        `Gaussian`, callable as score(x [B, D], t [B]) -> [B, D].
    Raises:
        ValueError: if the shapes disagree, the mean is not finite, or the covariance is not
            symmetric positive definite.
    """
    mean = _floats(mean)
    if mean.ndim != 1 or not mean.size or not np.isfinite(mean).all():
        raise ValueError(f"mean has shape {mean.shape}: expected finite numbers [D]")
    eigenvalues, eigenvectors = _eigen(_floats(covariance), mean.shape[0])
    return Gaussian(process, mean, eigenvalues, eigenvectors)


def mixture(
    process: Process, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> Mixture:
    """The exact score of sum_k weights_k N(means_k, covariances_k) under a process.

    With one variance it is a smoothed data set: K D numbers, whatever D; of points without any
    variance see `fields.empirical`.

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
    weights, means = np.asarray(weights, np.float64), _floats(means)
    covariances = _floats(covariances)
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"weights {weights.shape}, means {means.shape}: expected shapes [K] and [K, D]"
        )
    if not np.isfinite(means).all():
        raise ValueError("means are not finite")
    if not (np.all(weights > 0) and math.isclose(weights.sum(), 1, rel_tol=1e-6)):
        raise ValueError(f"weights={weights}: expected positive numbers that sum to one")
    if covariances.ndim == 0:
        covariances = np.full(weights.shape, covariances)
    if covariances.shape[0] != weights.shape[0]:
        raise ValueError(f"{covariances.shape[0]} covariances for {weights.shape[0]} weights")
    parts = [_eigen(part, means.shape[1]) for part in covariances]
    eigenvalues = np.stack([values for values, _ in parts])
    eigenvectors = None if covariances.ndim < 3 else np.stack([vectors for _, vectors in parts])
    components = Gaussian(process, means, eigenvalues, eigenvectors)
    return Mixture(process, np.log(weights / weights.sum()), components)


_BLOCK = 2**22  # numbers in work at a time


def _each(function: Callable[[Gaussian], Array], components: Gaussian, x: Array) -> Array:
    """function(component) [B] of all components, [K, B], a block after the other."""
    blocks = _Blocks.of(components, x)
    if blocks.num == 1:
        return jax.vmap(function)(components)

    def of_block(number: Array) -> Array:
        return jax.vmap(function)(blocks.take(components, number))

    parts = jax.lax.map(jax.checkpoint(of_block), jnp.arange(blocks.num))  # [blocks, k, B]
    seen = blocks.size * blocks.num - blocks.total  # in the block before the last
    return jnp.concatenate([parts[:-1].reshape(-1, parts.shape[2]), parts[-1, seen:]])


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Components in turn, `size` at a time; the last block reaches back to be as long.

    Slices of the whole, since a reshape of a constant would be a copy of it in the program.
    """

    total: int
    size: int

    @staticmethod
    def of(components: Gaussian, x: Array) -> _Blocks:
        total = components.mean.shape[0]
        return _Blocks(total, min(total, max(1, _BLOCK // max(x.size, 1))))

    @property
    def num(self) -> int:
        return -(-self.total // self.size)

    def start(self, number: Array) -> Array:
        return jnp.minimum(number * self.size, self.total - self.size)

    def take(self, tree: PyTree, number: Array) -> PyTree:
        cut = jax.lax.dynamic_slice_in_dim
        return jax.tree.map(
            lambda leaf: cut(jnp.asarray(leaf), self.start(number), self.size), tree
        )


def _floats(values: np.ndarray | float) -> np.ndarray:
    """float64, or float32 as it came: half the memory of a large set."""
    values = np.asarray(values)
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _eigen(covariance: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Eigenvalues [D], or [1] of a scalar, and eigenvectors [D, D], None unless needed."""
    if covariance.shape not in ((), (dim,), (dim, dim)):
        raise ValueError(
            f"covariance has shape {covariance.shape}: expected ({dim}, {dim}), ({dim},) or ()"
        )
    if covariance.ndim < 2:
        eigenvalues, eigenvectors = np.atleast_1d(covariance), None
    else:
        if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
            raise ValueError("covariance is not symmetric")
        eigenvalues, eigenvectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    if not (np.all(np.isfinite(eigenvalues)) and eigenvalues.min() > 0):
        raise ValueError(
            f"covariance is not positive definite: smallest eigenvalue {eigenvalues.min():.3g}"
        )
    return eigenvalues, eigenvectors
