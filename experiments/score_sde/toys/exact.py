"""Scores that are known: of Gaussians on a ring, and of a finite data set, which they recite."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde.toys import comparison, picture
from experiments.score_sde.toys.comparison import PROCESS
from library import claims
from research.diffusion import likelihood, oracles
from research.sample_quality import distances

RING, RADIUS, STD = 8, 1.5, 0.1  # Gaussians on a ring
ENTROPY = claims.theorem("ln K + ln(2 pi e s^2)")
RECITED = claims.theorem("the optimum of score matching on a finite set recites it")


def ring(sizes: comparison.Sizes) -> tuple[claims.Result, picture.Panel]:
    """The exact score of 8 Gaussians on a ring."""
    angles = 2 * np.pi * np.arange(RING) / RING
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
    law = oracles.mixture(PROCESS, np.full(RING, 1 / RING), means, STD**2)
    samples, path = comparison.sample(sizes, law)
    pool = law.sample(jax.random.key(1), 3 * sizes.num_samples)
    values = comparison.compared(sizes, samples, pool)
    with jax.enable_x64(True):  # the mean of -log p by quadrature over one Gaussian of the ring
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
        weights = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
        points = jnp.asarray(means[:1] + STD * grid)
        log_prob = jax.jit(lambda x: likelihood.log_prob(law, PROCESS, x))(points)
        values["entropy"] = -np.asarray(log_prob) @ weights
    expected = math.log(RING) + math.log(2 * math.pi * math.e * STD**2)
    entropy = claims.within(
        "ring: entropy through the flow, nats", values["entropy"], expected, 1e-3, ENTROPY
    )
    stated = [*comparison.within_floor("ring, exact score", values), entropy]
    panel = picture.Panel(samples, path, "8 Gaussians, exact score")
    return comparison.result("ring", values, stated), panel


def memorised(sizes: comparison.Sizes, num_points: int) -> tuple[claims.Result, picture.Panel]:
    """The exact score of a few points of a spiral, which is the optimum of training on them."""
    data = _spiral(np.random.default_rng(0), num_points)
    fresh = _spiral(np.random.default_rng(1), sizes.num_samples)
    score = oracles.empirical(PROCESS, jnp.asarray(data))
    samples, path = comparison.sample(sizes, score, to_zero=True)
    nearest, which = distances.nearest_neighbours(samples, data)
    values = {
        "median_distance_to_data": np.median(nearest),
        "median_distance_of_fresh": np.median(distances.nearest_neighbours(fresh, data)[0]),
        "share_of_data_recited": len(np.unique(which)) / len(data),
    }
    recited = claims.below(
        "memorised: median distance to the data set, over that of fresh draws",
        values["median_distance_to_data"] / values["median_distance_of_fresh"],
        0.01,
        RECITED,
    )
    panel = picture.Panel(samples, path, f"{len(data)} points, their own score")
    return comparison.result("memorised", values, [recited]), panel


def _spiral(rng: np.random.Generator, num: int) -> np.ndarray:
    """[num, 2] float32, points about a spiral."""
    turn = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, num))
    curve = 0.22 * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return (curve + 0.03 * rng.standard_normal((num, 2))).astype(np.float32)
