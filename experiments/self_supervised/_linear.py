"""Linear BYOL as it is trained: its cases, data, start and loss."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Aux, LossFn, Params
from research.self_supervised.linear_byol import Weights

NOISE = 0.5  # variance of a view about its example


class Case(NamedTuple):
    """What is trained, on which data, and how its embeddings end."""

    predictor: bool
    stop_gradient: bool
    decay: float
    strong: float  # variance of the first feature; that of the others is 1, or 0.3 beside 4
    ends: str


def views(case: Case, num_examples: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Two views [N, D] of examples without a mean."""
    rng = np.random.default_rng(0)
    variances = np.full(dim, 1.0 if case.strong == 1 else 0.3)
    variances[0] = case.strong
    x = rng.normal(size=(num_examples, dim)) * np.sqrt(variances)
    noise = np.sqrt(NOISE) * rng.normal(size=(2, *x.shape))
    return x + noise[0], x + noise[1]


def weights(rng: jax.Array, dim: int, predictor: bool) -> Weights:
    """A random encoder, and a symmetric predictor near half the identity, or the identity."""
    encoder, other = 0.3 * jax.random.normal(rng, (2, dim, dim))
    eye = jnp.eye(dim)
    return Weights(encoder, 0.5 * eye + 0.1 * (other + other.T) if predictor else eye)


def trained(weights: Weights, case: Case) -> Params:
    """What the sweep trains of them."""
    both = {"encoder": weights.encoder, "predictor": weights.predictor}
    return both if case.predictor else {"encoder": weights.encoder}


def loss(case: Case) -> LossFn:
    """Half the mean square error of predictions, both ways round."""

    def loss_fn(params, model_state, rng, batch):
        def one(x, y):
            z, target = x @ params["encoder"].T, y @ params["encoder"].T
            target = jax.lax.stop_gradient(target) if case.stop_gradient else target
            z = z @ params["predictor"].T if case.predictor else z
            return jnp.sum((z - target) ** 2) / 2

        both = one(batch["x1"], batch["x2"]) + one(batch["x2"], batch["x1"])
        return both / (2 * len(batch["x1"])), Aux(len(batch["x1"]))

    return loss_fn


def lengths(encoders: np.ndarray) -> np.ndarray:
    """[R, T], Frobenius norms."""
    return np.sqrt(np.sum(encoders**2, axis=(-2, -1)))
