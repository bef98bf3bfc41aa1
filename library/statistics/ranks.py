"""Statistics of ranks: Spearman's correlation and Friedman's mean ranks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from library.types import Array


def spearman(a: Array, b: Array) -> Array:
    """Spearman's rank correlation of two samples [S], ties at their mean rank; 0 if constant.

    nan where a value is nan, which has no rank.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)

    def centred_ranks(values: Array) -> Array:
        below = values[:, None] > values[None]
        equal = values[:, None] == values[None]
        ranks = below.sum(1) + 0.5 * equal.sum(1)
        return ranks - ranks.mean()

    first, second = centred_ranks(a), centred_ranks(b)
    scale = jnp.sqrt(jnp.vdot(first, first) * jnp.vdot(second, second))
    found = jnp.vdot(first, second) / jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.isnan(a).any() | jnp.isnan(b).any(), jnp.nan, found)


def friedman(scores: np.ndarray) -> np.ndarray:
    """Mean rank of every method over data sets, 1 the best, ties sharing their ranks.

    Friedman 1937, J. Am. Stat. Assoc. 32, 675.

    Args:
        scores: [data sets, methods], higher is better.
    Returns:
        [methods] float.
    """
    from scipy import stats

    return stats.rankdata(-np.asarray(scores, np.float64), axis=1).mean(axis=0)
