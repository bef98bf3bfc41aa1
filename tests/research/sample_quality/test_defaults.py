"""What distances between samples compute where a keyword is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.sample_quality import distances
from tests import defaults

KEY = jax.random.key(0)
POINTS = np.random.default_rng(0).normal(size=(2, 9, 2)).astype(np.float32)
MANY = jax.ShapeDtypeStruct((1200, 1), jnp.float32)
KERNEL = distances.gaussian_kernel(1.0)

mmd = functools.partial(distances.squared_mmd, kernel=KERNEL)
sliced = functools.partial(distances.sliced_wasserstein, KEY)
mean = lambda x, y: x.mean() - y.mean()
CASES = {
    "energy_distance": (
        functools.partial(defaults.program, distances.energy_distance, MANY, MANY),
        {"unbiased": (True, False), "block": (512, 600)},
    ),
    "squared_mmd": (
        functools.partial(defaults.program, mmd, MANY, MANY),
        {"unbiased": (True, False), "block": (512, 600)},
    ),
    "polynomial_mmd": (
        functools.partial(defaults.program, distances.polynomial_mmd, MANY, MANY),
        {"degree": (3, 2), "unbiased": (True, False), "block": (512, 600)},
    ),
    "sliced_wasserstein": (
        functools.partial(defaults.program, sliced, MANY, MANY),
        {"num_projections": (256, 255), "block": (32, 33)},
    ),
    "nearest_neighbours": (
        functools.partial(defaults.program, distances.nearest_neighbours, MANY, MANY),
        {"block": (512, 600)},
    ),
    "fresh_sample_floor": (
        functools.partial(distances.fresh_sample_floor, KEY, mean, POINTS[0], (4, 5)),
        {"num_draws": (100, 99), "level": (0.95, 0.9)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
