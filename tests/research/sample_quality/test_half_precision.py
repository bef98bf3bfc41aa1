"""Distances between samples in half precision: thousands of pairs, small differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.sample_quality import distances, frechet, manifolds
from tests import half_precision

RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(10 + RNG.normal(size=(80, 3)), jnp.float32) for _ in "xy")


def floor(pool):
    options = {"sizes": (30, 40), "num_draws": 3}
    return distances.fresh_sample_floor(
        jax.random.key(0), distances.energy_distance, pool, **options
    )


CASES = {
    "distances.energy_distance": lambda: (distances.energy_distance, (X, Y)),
    "distances.squared_mmd": lambda: (
        lambda x, y: distances.squared_mmd(x, y, distances.gaussian_kernel(1.0, 3.0)), (X, Y),
    ),
    "distances.sliced_wasserstein": lambda: (
        lambda x, y: distances.sliced_wasserstein(jax.random.key(0), x, y, num_projections=8),
        (X, Y),
    ),
    "distances.nearest_neighbours": lambda: (distances.nearest_neighbours, (X, Y)),
    "distances.fresh_sample_floor": lambda: (floor, (X,)),
    "distances.polynomial_mmd": lambda: (
        lambda x, y: distances.polynomial_mmd(x, y, degree=2), (X, Y),
    ),
    "manifolds.density_coverage": lambda: (manifolds.density_coverage, (X, Y)),
    "manifolds.precision_recall": lambda: (manifolds.precision_recall, (X, Y)),
    "manifolds.copying": lambda: (manifolds.copying, (X, Y, X[::2] + 1)),
    "frechet.distance": lambda: (lambda x, y: jnp.float32(frechet.distance(x, y)), (X, Y)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
