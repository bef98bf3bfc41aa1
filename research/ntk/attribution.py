"""Which training examples a prediction rests on, from (projected) gradients; and how to score that.

A linearised network is a kernel machine, whose output at z moves with the weight of training
example i in proportion to phi(z) (Phi' Phi)^-1 phi_i times the slope of its loss. Park et al. 2023
(TRAK), arXiv:2303.14186.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from library.statistics.ranks import spearman
from library.types import Array, at_least_float32


def margin(logits: Array, labels: Array) -> Array:
    """log p / (1 - p) of the right class: the output whose gradients are taken.

    Args:
        logits: [N, C] float.
        labels: [N] int.
    Returns:
        [N] float32 or wider, nats.
    """
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    logits = logits.astype(at_least_float32(logits.dtype))
    right = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    others = jnp.where(right, -jnp.inf, logits)
    return jnp.sum(jnp.where(right, logits, 0), axis=1) - jax.nn.logsumexp(others, axis=1)


def scores(
    train_features: Array, test_features: Array, slopes: Array, *, ridge: float = 1e-3
) -> Array:
    """How much each training example raises the output of each test example.

    TRAK's eq. (17) for one model: phi(z) (Phi' Phi + r)^-1 Phi' diag(slopes). Average over models.

    Args:
        train_features: [N, K] float, (projected) gradients of the output.
        test_features: [M, K] float, under the same projection.
        slopes: [N] float, minus the derivative of each training loss by its output: 1 - p for the
            margin and the logistic loss.
        ridge: > 0, r in units of the mean eigenvalue of Phi' Phi.
    Returns:
        [M, N] float32 or wider.
    Raises:
        ValueError: if shapes do not fit or the ridge is not positive.
    """
    shapes = train_features.shape, test_features.shape, slopes.shape
    num, dim = train_features.shape
    if test_features.shape[1:] != (dim,) or slopes.shape != (num,):
        raise ValueError(f"features and slopes of shapes {shapes}: expected [N, K], [M, K], [N]")
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: expected a positive number")
    train_features, test_features, slopes = (
        array.astype(at_least_float32(array.dtype))
        for array in (train_features, test_features, slopes)
    )
    gram = jnp.einsum("nk,nl->kl", train_features, train_features)
    lift = ridge * jnp.trace(gram) / dim
    solved = jax.scipy.linalg.solve(
        gram + lift * jnp.eye(dim, dtype=gram.dtype), test_features.T, assume_a="pos"
    )  # [K, M]
    return jnp.einsum("nk,km->mn", train_features, solved) * slopes[None]


def linear_datamodeling_score(scores: Array, subsets: Array, outputs: Array) -> Array:
    """Rank correlation of outputs after retraining on subsets with the sums of scores in them.

    Ilyas et al. 2022, arXiv:2202.00622; Park et al. 2023, definition 2.3.

    Args:
        scores: [M, N] float, of every training example for every test example.
        subsets: [S, N] bool, which examples each retraining saw.
        outputs: [S, M] float, what it gave.
    Returns:
        [M] float in [-1, 1], Spearman's coefficient of every test example.
    Raises:
        ValueError: if shapes do not fit.
    """
    expected = (len(subsets), len(scores))
    if outputs.shape != expected or subsets.shape[1] != scores.shape[1]:
        raise ValueError(
            f"scores {scores.shape}, subsets {subsets.shape} and outputs {outputs.shape}: "
            "expected [M, N], [S, N] and [S, M]"
        )
    scores = scores.astype(at_least_float32(scores.dtype))
    predicted = jnp.einsum("mn,sn->sm", scores, subsets.astype(scores.dtype))
    return jax.vmap(spearman, in_axes=1)(predicted, outputs)
