"""Finite augmentation graphs, on which losses of pairs and their optima are known exactly.

HaoChen et al. 2021, arXiv:2106.04156: states are augmented images, W_xy the probability that x and
y are two views of one image. W is symmetric and sums to 1; its row sums d are how often a state is
seen. Features F [N, k] are a free vector a state. A loss of the population is the limit of many
examples, without sampling.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from library import checks as library_checks
from library.types import Array, Key
from research.self_supervised import checks


@dataclasses.dataclass(frozen=True)
class Moments:
    """Means over pairs of views (x, y), which are as often (y, x).

    Attributes:
        mean: [k] of f_x.
        cross: [k, k] of f_x f_y^T.
        own: [k, k] of f_x f_x^T.
    """

    mean: Array
    cross: Array
    own: Array


def random(rng: Key, num_states: int, num_clusters: int = 4, within: float = 5.0) -> Array:
    """A graph whose states are in clusters, all pairs possible.

    Args:
        rng: [] key.
        num_states: N.
        num_clusters: state i is in cluster i mod this.
        within: how much likelier pairs of one cluster are, > 0.
    Returns:
        W [N, N] float: symmetric, positive, sum 1.
    Raises:
        ValueError: for counts or a factor that are not positive.
    """
    library_checks.count("num_states", num_states)
    library_checks.count("num_clusters", num_clusters)
    checks.positive("within", within)
    cluster = jnp.arange(num_states) % num_clusters
    same = cluster[:, None] == cluster[None, :]
    weights = jax.random.exponential(rng, (num_states, num_states)) + 0.1
    weights = (weights + weights.T) * jnp.where(same, within, 1.0)
    return weights / weights.sum()


def eigen(graph: Array) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [N], the first is 1, and vectors [N, N], columns, of D^-1/2 W D^-1/2.

    Raises:
        ValueError: for what is no graph: not symmetric, negative, of another sum than 1, or with a
            state that is never seen.
    """
    graph = np.asarray(graph, np.float64)
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
        raise ValueError(f"graph has shape {graph.shape}: expected [N, N]")
    seen = graph.sum(1)
    if (graph < 0).any() or not np.allclose(graph, graph.T, atol=1e-6 / len(graph) ** 2):
        raise ValueError("the graph is not symmetric, or has negative weights")
    if not np.isclose(graph.sum(), 1, atol=1e-5) or (seen <= 0).any():
        raise ValueError(f"the graph sums to {graph.sum():g}, rows from {seen.min():g}: expected 1")
    values, vectors = np.linalg.eigh(graph / np.sqrt(np.outer(seen, seen)))
    return values[::-1].copy(), vectors[:, ::-1].copy()


def spectral_minimum(graph: Array, dim: int) -> float:
    """The minimum of `spectral`: minus the sum of the squares of the `dim` largest eigenvalues > 0.

    Raises:
        ValueError: for a dimension below 1, or what `eigen` refuses.
    """
    library_checks.count("dim", dim)
    values = eigen(graph)[0][:dim]
    return float(-np.square(values[values > 0]).sum())


def spectral(graph: Array, features: Array) -> Array:
    """The spectral loss of the population: -2 sum W_xy f_x . f_y + sum d_x d_y (f_x . f_y)^2.

    Args:
        graph: W [N, N].
        features: F [N, k].
    Returns:
        [] float; `losses.spectral` in the limit of many examples.
    """
    products = jnp.einsum("xd,yd->xy", features, features)
    seen = graph.sum(1)
    both = jnp.einsum("x,y->xy", seen, seen)
    return (both * jnp.square(products)).sum() - 2 * (graph * products).sum()


def info_nce(graph: Array, scores: Array) -> Array:
    """InfoNCE of the population with many negatives, less the logarithm of their number.

    -sum W_xy s_xy + sum d_x log sum d_y exp s_xy, van den Oord et al. 2018, arXiv:1807.03748. Its
    minimum is minus the mutual information of two views, where s_xy is `log_ratio` plus any
    function of x.

    Args:
        graph: W [N, N].
        scores: s [N, N], e.g. cosines of features by a temperature, as `losses.nt_xent` has them.
    Returns:
        [] float, nats.
    """
    seen = graph.sum(1)
    log_total = jax.nn.logsumexp(scores + jnp.log(seen)[None, :], axis=1)
    return (seen * log_total).sum() - (graph * scores).sum()


def log_ratio(graph: Array) -> Array:
    """log p(x, y) / (p(x) p(y)), [N, N] float, nats."""
    log_seen = jnp.log(graph.sum(1))
    return jnp.log(graph) - log_seen[:, None] - log_seen[None, :]


def moments(graph: Array, features: Array) -> Moments:
    """What losses of second moments, such as Barlow Twins and VICReg, are made of.

    Args:
        graph: W [N, N].
        features: F [N, k].
    """
    seen = graph.sum(1)
    return Moments(
        mean=jnp.einsum("x,xi->i", seen, features),
        cross=jnp.einsum("xy,xi,yj->ij", graph, features, features),
        own=jnp.einsum("x,xi,xj->ij", seen, features, features),
    )


def barlow_twins(graph: Array, features: Array, weight: float = 5e-3) -> Array:
    """Barlow Twins' loss of the population, `losses.barlow_twins` in the limit of many examples.

    Args:
        graph, features: W [N, N], F [N, k].
        weight: of what is off the diagonal.
    """
    found = moments(graph, features)
    product = jnp.einsum("i,j->ij", found.mean, found.mean)
    deviation = jnp.sqrt(jnp.diagonal(found.own - product))
    correlation = (found.cross - product) / jnp.einsum("i,j->ij", deviation, deviation)
    on = jnp.diagonal(correlation)
    off = jnp.where(jnp.eye(len(on), dtype=bool), 0, correlation)
    return jnp.square(1 - on).sum() + weight * jnp.square(off).sum()


def vicreg(
    graph: Array,
    features: Array,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Array:
    """VICReg's loss of the population, `losses.vicreg` in the limit of many examples.

    Args:
        graph, features: W [N, N], F [N, k].
        invariance, variance, covariance: weights, as there.
    """
    found = moments(graph, features)
    moved = found.own - jnp.einsum("i,j->ij", found.mean, found.mean)
    on = jnp.diagonal(moved)
    off = jnp.where(jnp.eye(len(on), dtype=bool), 0, moved)
    apart = 2 * jnp.diagonal(found.own - found.cross).mean()
    hinge = jnp.maximum(0, 1 - jnp.sqrt(on + 1e-4)).mean()
    return invariance * apart + 2 * (
        variance * hinge + covariance * jnp.square(off).sum() / len(on)
    )


def angle(graph: Array, features: Array, dim: int | None = None) -> float:
    """The largest principal angle, radians, between the features' span and the top eigenspace.

    Args:
        graph: W [N, N].
        features: F [N, k], of rank k.
        dim: dimension of the eigenspace; k by default.
    Returns:
        In [0, pi/2], between the columns of D^1/2 F and the first eigenvectors of `eigen`.
    """
    weighted = np.sqrt(np.asarray(graph, np.float64).sum(1))[:, None] * np.asarray(features)
    found = np.linalg.qr(weighted)[0]
    top = eigen(graph)[1][:, : dim or found.shape[1]]
    # By the sine, as the cosine has no digits near an angle of 0.
    apart = found - np.einsum("xi,yi,yj->xj", top, top, found)
    return float(np.arcsin(min(1.0, np.linalg.norm(apart, 2))))


def pairs(rng: Key, graph: Array, num: int) -> tuple[Array, Array]:
    """States (x, y) [num] each, drawn as two views: pair by pair with probability W_xy."""
    drawn = jax.random.categorical(rng, jnp.log(graph).ravel(), shape=(num,))
    return drawn // len(graph), drawn % len(graph)
