"""BYOL of linear networks as a differential equation, and when it collapses.

Tian, Chen and Ganguli 2021, arXiv:2102.06810, section 3. An encoder W and a predictor P minimise

    L = 1/2 E |P W x1 - [W x2]|^2

by gradient flow, [.] without gradient; x1, x2 are two views of one example. Only two matrices of
the data matter: the second moment of a view E x x^T and that of two views E x1 x2^T.

    law = Law(moment, between)
    weights = flow(law, Weights(encoder, predictor), time=60.0, num_steps=600)
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from library import checks
from library.types import Array


@flax.struct.dataclass
class Weights:
    """Encoder W [K, D] and predictor P [K, K]."""

    encoder: Array
    predictor: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """The data and what is trained.

    Attributes:
        moment: [D, D], E x x^T of a view.
        between: [D, D], E x1 x2^T of two views of an example; symmetric, as views are exchangeable.
        predictor: whether there is one; without, P stays as it is, e.g. the identity.
        stop_gradient: whether the target's branch is held still.
        decay: weight decay of both, added to the gradient.
    """

    moment: np.ndarray
    between: np.ndarray
    predictor: bool = True
    stop_gradient: bool = True
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("moment", "between"):
            matrix = np.asarray(getattr(self, name))
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
                raise ValueError(f"{name} {list(matrix.shape)}: expected [D, D]")
            if not np.allclose(matrix, matrix.T):
                raise ValueError(f"{name}: expected a symmetric matrix")
        if np.shape(self.moment) != np.shape(self.between):
            raise ValueError(
                f"moment {list(np.shape(self.moment))}, between {list(np.shape(self.between))}: "
                "expected two of one size"
            )
        if not self.decay >= 0:
            raise ValueError(f"decay={self.decay}: expected a number >= 0")


def moments(x1: np.ndarray, x2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E x x^T, E x1 x2^T) of views x1, x2 [N, D], each pair counted both ways round."""
    x1, x2 = np.asarray(x1, np.float64), np.asarray(x2, np.float64)
    between = x1.T @ x2 / len(x1)
    return (x1.T @ x1 + x2.T @ x2) / (2 * len(x1)), (between + between.T) / 2


def loss(law: Law, weights: Weights) -> Array:
    """[] the expected loss, without decay."""
    w, pw = weights.encoder, weights.predictor @ weights.encoder
    return (_inner(pw, pw, law.moment) + _inner(w, w, law.moment)) / 2 - _inner(pw, w, law.between)


def field(law: Law, weights: Weights) -> Weights:
    """The weights' velocity: minus the gradient, by the law's rules, minus the decay."""
    w, p = weights.encoder, weights.predictor
    error = p @ w @ law.moment - w @ law.between  # E (P W x1 - W x2) x1^T, [K, D]
    slope = p.T @ error
    if not law.stop_gradient:
        slope = slope - (p @ w @ law.between - w @ law.moment)
    predictor = jnp.zeros_like(p)
    if law.predictor:
        predictor = -(error @ w.T) - law.decay * p
    return Weights(-slope - law.decay * w, predictor)


def flow(law: Law, weights: Weights, time: float, num_steps: int) -> Weights:
    """The weights at `num_steps` equal steps up to `time`, each leaf [num_steps, ...]; RK4.

    Raises:
        ValueError: for a time or number of steps that is not positive.
    """
    checks.count("num_steps", num_steps, of="steps")
    if not time > 0:
        raise ValueError(f"time={time}: expected a positive number")
    h = time / num_steps

    def moved(weights: Weights, slope: Weights, factor: float) -> Weights:
        return jax.tree.map(lambda a, b: a + factor * b, weights, slope)

    def step(at: Weights, _: None) -> tuple[Weights, Weights]:
        k1 = field(law, at)
        k2 = field(law, moved(at, k1, h / 2))
        k3 = field(law, moved(at, k2, h / 2))
        k4 = field(law, moved(at, k3, h))
        slope = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        after = moved(at, slope, h)
        return after, after

    return jax.lax.scan(step, weights, None, length=num_steps)[1]


def misalignment(law: Law, weights: Weights) -> Array:
    """[] how far predictor and features' moment W E[x x^T] W^T are from sharing eigenvectors.

    The norm of their commutator over twice the product of their norms. Decay brings it to 0 where
    the data are isotropic and the predictor starts symmetric (theorem 3).
    """
    f = weights.encoder @ law.moment @ weights.encoder.T
    p = weights.predictor
    return jnp.linalg.norm(f @ p - p @ f) / (2 * jnp.linalg.norm(f) * jnp.linalg.norm(p))


def _inner(a: Array, b: Array, metric: Array) -> Array:
    return jnp.einsum("kd,de,ke->", a, metric, b)
