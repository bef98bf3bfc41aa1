"""The gradient noise scale in half precision; all else of the topic is float64 on the host."""

import jax.numpy as jnp
import pytest

from research.scaling_laws import noise_scale
from tests import half_precision


def linear(params, batch):
    return jnp.mean(batch @ params)


CASES: half_precision.Cases = {
    # 1,024 gradients of ones, whose sum stays at 256 in bfloat16.
    "noise_scale.squared_norms": lambda: (
        lambda w, x: noise_scale.squared_norms(linear, w, x, 1),
        (jnp.zeros(3), jnp.ones((1024, 3))),
    ),
    # A squared norm of 160,000, beyond float16.
    "noise_scale.squared_norms, large": lambda: (
        lambda w, x: noise_scale.squared_norms(linear, w, x, 2),
        (jnp.zeros(1), jnp.full((4, 1), 400.0)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    half_precision.check(CASES[name])
