"""The linear-Gaussian model, of which everything is known: the oracle of this topic.

x = W z + mean + sigma noise with z ~ N(0, I): probabilistic principal components, Tipping and
Bishop 1999, doi:10.1111/1467-9868.00196. Evidence, posterior and bound are exact, and so is the
best that a beta-VAE with linear encoder and decoder reaches on data of given eigenvalues.
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from library import checks
from library.types import Array, Key
from research.vae.checks import positive, wide


@flax.struct.dataclass
class LinearGaussian:
    """p(z) = N(0, I), p(x | z) = N(W z + mean, sigma^2 I).

    Attributes:
        weights: [D, L], W.
        mean: [D].
        noise_variance: [] > 0, sigma^2.
    """

    weights: Array
    mean: Array
    noise_variance: Array | float

    def log_prob(self, x: Array) -> Array:
        """log p(x) of x [B, D], [B] nats: the density of N(mean, W W' + sigma^2 I).

        ValueError for another shape.
        """
        weights, _, noise = self._wide()
        m, _ = self.posterior(x)
        # r' C^-1 r = |r - W m|^2 / sigma^2 + |m|^2: a sum of squares, where Woodbury's difference
        # loses digits at little noise.
        rest = jnp.square(self._residual(x, m)).sum(-1) / noise + jnp.square(m).sum(-1)
        dim, num_latents = weights.shape
        log_det = (dim - num_latents) * jnp.log(noise) + _log_det(self._inner())
        return -0.5 * (dim * math.log(2 * math.pi) + log_det + rest)

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean [B, L] and covariance [L, L] of p(z | x), for x [B, D].

        M^-1 W'(x - mean) and sigma^2 M^-1 with M = W'W + sigma^2 I. ValueError for another shape.
        """
        weights, mean, noise = self._wide()
        centred = self._centred(x, mean)
        inverse = _inverse(self._inner())
        projected = jnp.einsum("dl,bd->bl", weights, centred, precision="highest")
        return jnp.einsum("kl,bl->bk", inverse, projected, precision="highest"), noise * inverse

    def elbo(self, x: Array, m: Array, S: Array) -> Array:
        """E_q log p(x | z) - KL(q, p(z)) for q = N(m, S), exactly: log p(x) - KL(q, p(z | x)).

        Args:
            x: [B, D].
            m: [B, L], a mean for each example.
            S: [L, L] positive definite, one covariance for all.
        Returns:
            [B] nats.
        Raises:
            ValueError: for another shape.
        """
        weights, _, noise = self._wide()
        dim, num_latents = weights.shape
        if m.shape != (len(x), num_latents) or S.shape != (num_latents, num_latents):
            raise ValueError(
                f"m, S have shapes {m.shape}, {S.shape}: expected [B, L], [L, L] = "
                f"{(len(x), num_latents)}, {(num_latents, num_latents)}"
            )
        m, S = wide(m, S)
        spread = jnp.einsum("dk,kl,dl->", weights, S, weights, precision="highest")
        error = jnp.square(self._residual(x, m)).sum(-1) + spread
        log_likelihood = -0.5 * (dim * jnp.log(2 * math.pi * noise) + error / noise)
        kl = 0.5 * (jnp.trace(S) + jnp.square(m).sum(-1) - num_latents - _log_det(S))
        return log_likelihood - kl

    def log_joint(self, x: Array, z: Array) -> Array:
        """log p(x, z) of x [B, D] and z [..., B, L], [..., B] nats; ValueError as `elbo`."""
        weights, _, noise = self._wide()
        if z.shape[-2:] != (len(x), weights.shape[1]):
            raise ValueError(f"z has shape {z.shape}: expected [..., B, L] of B = {len(x)}")
        (z,) = wide(z)
        error = jnp.square(self._residual(x, z)).sum(-1)
        dims = weights.shape[0] * jnp.log(2 * math.pi * noise), z.shape[-1] * math.log(2 * math.pi)
        return -0.5 * (sum(dims) + error / noise + jnp.square(z).sum(-1))

    def sample(self, rng: Key, num_samples: int) -> tuple[Array, Array]:
        """Data [N, D] and the latents [N, L] that they were drawn from."""
        weights, mean, noise = self._wide()
        rng_z, rng_noise = jax.random.split(rng)
        z = jax.random.normal(rng_z, (num_samples, weights.shape[1]), weights.dtype)
        eps = jax.random.normal(rng_noise, (num_samples, weights.shape[0]), weights.dtype)
        clean = jnp.einsum("dl,nl->nd", weights, z, precision="highest") + mean[None]
        return clean + jnp.sqrt(noise) * eps, z

    def _wide(self) -> list[Array]:
        positive("noise_variance", self.noise_variance)
        if jnp.ndim(self.weights) != 2 or jnp.shape(self.mean) != jnp.shape(self.weights)[:1]:
            raise ValueError(
                f"weights, mean have shapes {jnp.shape(self.weights)}, {jnp.shape(self.mean)}: "
                "expected [D, L], [D]"
            )
        return wide(self.weights, self.mean, self.noise_variance)

    def _inner(self) -> Array:
        """M = W'W + sigma^2 I, [L, L]."""
        weights, _, noise = self._wide()
        inner = jnp.einsum("dk,dl->kl", weights, weights, precision="highest")
        return inner + noise * jnp.eye(len(inner), dtype=inner.dtype)

    def _centred(self, x: Array, mean: Array) -> Array:
        if x.ndim != 2 or x.shape[1:] != mean.shape:
            raise ValueError(f"x has shape {x.shape}: expected [B, D] of D = {len(mean)}")
        return wide(x)[0] - mean[None]

    def _residual(self, x: Array, z: Array) -> Array:
        """x - mean - W z, [..., B, D] of latents [..., B, L]."""
        weights, mean, _ = self._wide()
        image = jnp.einsum("dl,...bl->...bd", weights, z, precision="highest")
        centred = self._centred(x, mean)
        return jnp.broadcast_to(centred, image.shape) - image


def fit(x: Array, num_latents: int) -> LinearGaussian:
    """The model of maximum likelihood, Tipping and Bishop 1999, sec. 3.2.

    The noise is the mean of the discarded eigenvalues of the covariance (divisor N), and column j
    of W the j-th eigenvector times sqrt(eigenvalue_j - noise). Any rotation of the latents is as
    likely. The mean log-likelihood is -1/2 [sum of log kept + (D - L) log noise + D log 2 pi + D].

    Args:
        x: [N, D] float.
        num_latents: L < D.
    Raises:
        ValueError: if x is no matrix of two rows or more, L is not in 1 .. D - 1, or the data, as
            far as known, lie in L dimensions: their likelihood has no maximum.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {x.shape}: expected [N >= 2, D]")
    if checks.count("num_latents", num_latents) >= x.shape[1]:
        raise ValueError(f"num_latents={num_latents}: expected fewer than D = {x.shape[1]}")
    (x,) = wide(x)
    mean = x.mean(0)
    # Singular values of the data have twice the digits of the covariance's eigenvalues.
    _, singular, basis = jnp.linalg.svd(x - mean[None], full_matrices=False)  # [min(N, D), D]
    values = jnp.square(singular) / len(x)
    noise = values[num_latents:].sum() / (x.shape[1] - num_latents)
    if not isinstance(noise, jax.core.Tracer) and noise <= jnp.finfo(x.dtype).eps ** 2 * values[0]:
        raise ValueError(f"num_latents={num_latents}: the data lie in so many dimensions or fewer")
    scales = jnp.sqrt(jnp.maximum(values[:num_latents] - noise, 0))
    return LinearGaussian(basis[:num_latents].T * scales[None], mean, noise)


@flax.struct.dataclass
class RateDistortion:
    """What the best linear beta-VAE reaches.

    Attributes:
        rate: [] nats, the mean KL from posterior to prior.
        distortion: [], the mean square error of the reconstruction, summed over D.
        num_active: [] int32, latents that are used.
    """

    rate: Array
    distortion: Array
    num_active: Array


def rate_distortion(
    eigenvalues: Array, noise_variance: Array | float, beta: Array | float
) -> RateDistortion:
    """Rate and distortion of the best linear beta-VAE: reverse water-filling at beta sigma^2.

    Minimising distortion / 2 sigma^2 + beta rate over linear encoders and decoders with as many
    latents as dimensions gives, in the direction of eigenvalue l, the squared weight
    max(l - beta sigma^2, 0), posterior variance beta sigma^2 / l, distortion min(l, beta sigma^2)
    and rate max(0, 1/2 log(l / beta sigma^2)): the rate-distortion function of a Gaussian. A latent
    collapses exactly when l <= beta sigma^2.

    Args:
        eigenvalues: [D] >= 0, of the data's covariance.
        noise_variance: [] > 0, sigma^2 of the decoder, held fixed.
        beta: [] > 0, weight of the rate.
    Raises:
        ValueError: for what is no vector, or a number out of range.
    """
    eigenvalues = jnp.asarray(eigenvalues)
    if eigenvalues.ndim != 1:
        raise ValueError(f"eigenvalues have shape {eigenvalues.shape}: expected [D]")
    positive("eigenvalues", eigenvalues, zero=True)
    positive("noise_variance", noise_variance)
    positive("beta", beta)
    eigenvalues, noise_variance, beta = wide(eigenvalues, noise_variance, beta)
    level = beta * noise_variance
    active = eigenvalues > level
    return RateDistortion(
        rate=0.5 * jnp.log(jnp.where(active, eigenvalues / level, 1)).sum(),
        distortion=jnp.minimum(eigenvalues, level).sum(),
        num_active=active.sum().astype(jnp.int32),
    )


def _inverse(matrix: Array) -> Array:
    factor = jnp.linalg.cholesky(matrix)
    return cho_solve((factor, True), jnp.eye(len(matrix), dtype=matrix.dtype))


def _log_det(matrix: Array) -> Array:
    return 2 * jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))).sum()
