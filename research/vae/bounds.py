"""Bounds on the log-likelihood from log importance weights, and how far to trust them.

A log weight is log p(x, z) - log q(z | x) of one draw z of q, in nats, pixels and latents summed:
[K, B] of K draws for each of B examples, draws first. A bound is [B]; `average` takes the mean over
examples, which is the only average there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Batch, Key, at_least_float32
from research.vae.checks import positive, wide

# (x, key, num) -> [num, B] nats: num draws for every example, each with fresh noise
LogWeightsOf = Callable[[Batch, Key, int], Array]


def elbo(log_weights: Array) -> Array:
    """The evidence lower bound, the mean of K log weights; Kingma and Welling 2014, eq. (2).

    Args:
        log_weights: [K, B] nats.
    Returns:
        [B] nats.
    Raises:
        ValueError: if there is no axis of draws, or none in it.
    """
    return _checked(log_weights).mean(0)


def iwae(log_weights: Array) -> Array:
    """The importance weighted bound, log of the mean of K weights, which rises to log p(x) with K.

    Burda et al. 2016, arXiv:1509.00519, eq. (8). The gap falls as chi^2(p(z | x), q) / 2K where
    that is finite (`gaussians.log_chi_square`), slower where it is not (`diagnose`).

    Args:
        log_weights: [K, B] nats.
    Returns:
        [B] nats.
    Raises:
        ValueError: if there is no axis of draws, or none in it.
    """
    log_weights = _checked(log_weights)
    return jax.nn.logsumexp(log_weights, 0) - math.log(len(log_weights))


def beta_elbo(
    log_likelihood: Array, kl: Array, beta: Array | float = 1.0, free_bits: float = 0.0
) -> Array:
    """log p(x | z) - beta sum_j max(KL_j, free_bits): beta-VAE, and free bits for each latent.

    Higgins et al. 2017 (beta); Kingma et al. 2016, arXiv:1606.04934, sec. 2.4 and app. C.8 (free
    bits, by which the mean of KL_j over the batch is bounded). Free bits mix the examples of a
    batch, so accumulated batches differ from a whole one. Only beta = 1 without free bits is a
    bound; at beta > 1 it is a loose one.

    Args:
        log_likelihood: [B] nats, summed over pixels.
        kl: [B, ...] nats, of every latent (or group of them, if summed before).
        beta: weight of the divergence, >= 0; may be a traced schedule.
        free_bits: nats that a latent may use for free.
    Returns:
        [B] nats, whose mean is the objective. A latent below its free bits has no gradient.
    Raises:
        ValueError: if the batches differ, or beta or free_bits are negative.
    """
    positive("beta", beta, zero=True)
    positive("free_bits", free_bits, zero=True)
    if log_likelihood.ndim != 1 or kl.shape[:1] != log_likelihood.shape:
        shapes = f"{log_likelihood.shape}, kl {kl.shape}"
        raise ValueError(f"log_likelihood has shape {shapes}: expected [B] and [B, ...]")
    log_likelihood, kl = wide(log_likelihood, kl)
    used = kl.mean(0, keepdims=True) > free_bits
    kl = jnp.where(used | (free_bits == 0), kl, free_bits)
    return log_likelihood - beta * kl.sum(range(1, kl.ndim))


def average(bound: Array, weight: Array | None = None) -> Array:
    """The mean over examples, [] nats; a loss is minus it, with the sum of weights in its `Aux`.

    Args:
        bound: [B] nats, one number an example.
        weight: [B] >= 0, 0 for padding; all 1 by default.
    Raises:
        ValueError: if there is not one number an example.
    """
    if bound.ndim != 1 or (weight is not None and weight.shape != bound.shape):
        shapes = bound.shape if weight is None else f"{bound.shape}, weight {weight.shape}"
        raise ValueError(f"bound has shape {shapes}: expected one number an example, [B]")
    (bound,) = wide(bound)
    if weight is None:
        return bound.mean()
    _, weight = wide(bound, weight)
    return jnp.sum(jnp.where(weight > 0, bound, 0) * weight) / weight.sum()


def log_likelihood(
    log_weights_of: LogWeightsOf, x: Batch, rng: Key, num_samples: int = 5000, chunk: int = 100
) -> Array:
    """The bound of `iwae` with many draws, `chunk` of them in memory at a time.

    The sum of weights is carried relative to the largest so far. Chunk i draws with
    fold_in(rng, i), so the value depends on the size of chunks as on a seed. Not compiled as a
    whole: wrap it in jax.jit together with the model.

    Args:
        log_weights_of: (x, key, num) -> [num, B] nats.
        x: [B, ...] examples, an array or a tree of arrays.
        rng: key of all draws.
        num_samples: K, draws for each example.
        chunk: draws at a time; the last chunk may be smaller.
    Returns:
        [B] nats, below log p(x) in expectation.
    Raises:
        ValueError: if a count is not positive, or the weights are not [num, B].
    """
    num_samples = checks.count("num_samples", num_samples, of="draws")
    chunk = min(checks.count("chunk", chunk, of="draws"), num_samples)
    batch = len(jax.tree.leaves(x)[0])
    shape = jax.eval_shape(lambda x, rng: log_weights_of(x, rng, chunk), x, rng)
    if shape.shape != (chunk, batch):
        raise ValueError(
            f"log_weights_of gave shape {shape.shape}: expected [num, B] = {(chunk, batch)}"
        )

    def add(index: Array | int, carry: tuple[Array, Array], num: int = chunk):
        log_weights = _checked(log_weights_of(x, jax.random.fold_in(rng, index), num))
        largest, total = carry
        peak = jnp.maximum(largest, log_weights.max(0))
        shift = jnp.where(jnp.isneginf(peak), 0, peak)  # -inf - -inf is nan: no mass so far
        sums = jnp.exp(log_weights - shift[None]).sum(0)
        return peak, total * jnp.exp(largest - shift) + sums

    start = jnp.full(batch, -jnp.inf, at_least_float32(shape.dtype))
    num_chunks, rest = divmod(num_samples, chunk)
    peak, total = jax.lax.fori_loop(0, num_chunks, add, (start, jnp.zeros_like(start)))
    if rest:
        peak, total = add(num_chunks, (peak, total), rest)
    return peak + jnp.log(total) - math.log(num_samples)


@flax.struct.dataclass
class Diagnosis:
    """How well K draws of q represent the posterior, one number an example.

    Attributes:
        effective_sample_size: [B] in [1, K], (sum w)^2 / sum w^2.
        tail_index: [B], shape k of the generalised Pareto law that fits the largest weights: they
            have moments below the 1/k-th. Negative for bounded weights, -inf for equal ones.
        tail_error: [B], its standard error.
        finite_variance: [B] bool, whether k < 1/2, and with it a finite chi^2, is established at
            four standard errors: so many, since the tail of Gaussian weights nears its index slowly
            and from below. Where it is not, the gap of `iwae` need not fall as 1/K, and K draws
            tell little of the error that is left.
    """

    effective_sample_size: Array
    tail_index: Array
    tail_error: Array
    finite_variance: Array


def diagnose(log_weights: Array) -> Diagnosis:
    """Whether the weights have a variance, by the tail of their sample.

    The largest min(K / 5, 3 sqrt K) weights are fitted as in Vehtari et al. 2024, arXiv:1507.02646,
    sec. 2.4, by the estimator of Zhang and Stephens 2009, doi:10.1198/tech.2009.08017, without the
    prior that they add. A Gaussian q of a share r of the posterior's variance has k = 1 - r: r <=
    1/2 is what has no variance; for Gaussians `gaussians.log_chi_square` says so without sampling.

    Args:
        log_weights: [K, B] nats, K >= 100.
    Raises:
        ValueError: if there is no axis of draws, or fewer than 100 in it.
    """
    log_weights = _checked(log_weights)
    num = len(log_weights)
    if num < 100:
        raise ValueError(f"log_weights has shape {log_weights.shape}: a tail takes 100 draws")
    shares = jax.nn.softmax(log_weights, 0)
    num_tail = min(num // 5, math.ceil(3 * math.sqrt(num)))
    ordered = jnp.sort(log_weights, 0)
    threshold = ordered[-num_tail - 1][None]
    # In units of the threshold, where no weight underflows; e^60 squared is beyond float32.
    excess = jnp.expm1(jnp.minimum(ordered[-num_tail:] - threshold, 60.0))
    index = jax.vmap(_pareto_index, in_axes=1)(excess)
    error = jnp.maximum(1 + index, 0.5) / math.sqrt(num_tail)
    return Diagnosis(
        effective_sample_size=1 / jnp.square(shares).sum(0),
        tail_index=index,
        tail_error=error,
        finite_variance=index + 4 * error < 0.5,
    )


def _pareto_index(excess: Array) -> Array:
    """k of excesses [N] over a threshold, ascending: the mean of k(theta) under its likelihood."""
    num = len(excess)
    largest = jnp.where(excess[-1] > _FLAT, excess[-1], 1)
    quartile = jnp.maximum(excess[int(num / 4 + 0.5) - 1], _FLAT)
    num_grid = 30 + int(math.sqrt(num))
    places = jnp.arange(1, num_grid + 1, dtype=excess.dtype) - 0.5
    theta = 1 / largest + (1 - jnp.sqrt(num_grid / places)) / (3 * quartile)
    index_of = lambda theta: jnp.log1p(-theta * jnp.minimum(excess, largest)).mean()
    index = jax.vmap(index_of)(theta)
    log_likelihood = num * (jnp.log(-theta / index) - index - 1)
    index = index_of(jnp.sum(jax.nn.softmax(log_likelihood) * theta))
    return jnp.where(excess[-1] > _FLAT, index, -jnp.inf)


_FLAT = 1e-6  # relative differences of weights below this are rounding


def _checked(log_weights: Array) -> Array:
    """The weights in float32 at least, if they are [K, B]."""
    if log_weights.ndim != 2 or not len(log_weights):
        raise ValueError(
            f"log_weights has shape {log_weights.shape}: expected [K, B], at least one draw first"
        )
    return wide(log_weights)[0]
