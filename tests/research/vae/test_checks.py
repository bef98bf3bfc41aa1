"""The checks that the rooms share: dtypes, integers in range, positive numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import checks


def test_the_widest_dtype_holds_and_it_is_float32_at_least(x64):
    low, count, constant = checks.wide(jnp.ones(2, jnp.bfloat16), jnp.int8(3), 0.5)
    assert low.dtype == count.dtype == constant.dtype == jnp.float32
    low, high = checks.wide(jnp.ones(2, jnp.bfloat16), jnp.ones(3, jnp.float64))
    assert low.dtype == high.dtype == jnp.float64 and low.shape == (2,)


@pytest.mark.parametrize(
    "x, message",
    [
        (np.float32([0]), r"name has dtype float32: expected integers in 0 \.\. 3"),
        (np.array([True]), "name has dtype bool"),
        (np.array([0, 4]), r"name goes from 0 to 4: expected integers in 0 \.\. 3"),
        (np.array([-1, 2]), "name goes from -1 to 2"),
    ],
)
def test_levels_are_integers_within_range(x, message):
    with pytest.raises(ValueError, match=message):
        checks.whole_levels("name", x, 4)


def test_levels_within_range_and_unknown_ones_pass():
    assert checks.whole_levels("name", np.arange(4), 4).tolist() == [0, 1, 2, 3]
    assert checks.whole_levels("name", np.zeros((0, 2), int), 4).shape == (0, 2)
    assert jax.eval_shape(lambda x: checks.whole_levels("name", x, 4), jnp.array([9])).shape == (1,)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, np.array([1.0, 0.0])])
def test_numbers_that_are_not_positive_are_named(value):
    with pytest.raises(ValueError, match="name=.*expected a positive finite number"):
        checks.positive("name", value)


def test_zero_passes_where_it_may():
    checks.positive("name", 0.0, zero=True)
    checks.positive("name", jnp.array([1e-30, 2.0]))
    with pytest.raises(ValueError, match="name=-1: expected a finite number >= 0"):
        checks.positive("name", -1, zero=True)
