"""Counts are whole numbers from a least one on, shares lie in [0, 1]; all else is named."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from library import checks


@pytest.mark.parametrize("value", [1, np.int64(7), np.uint8(3), jnp.int32(2)])
def test_whole_numbers_of_any_kind_are_counts(value):
    assert checks.count("num", value) == int(value) and type(checks.count("num", value)) is int


@pytest.mark.parametrize(
    "value, least, message",
    [
        (0, 1, "num=0: expected a positive whole number of steps"),
        (2.0, 1, "num=2.0: expected a positive"),
        (True, 1, "num=True: expected a positive"),
        ("3", 1, "num=3: expected a positive"),
        (None, 1, "num=None: expected a positive"),
        (math.nan, 1, "num=nan: expected a positive"),
        (np.float32(2), 1, "num=2.0: expected a positive"),
        (-1, 0, "num=-1: expected a whole number >= 0 of steps"),
        (5, 6, "num=5: expected a whole number >= 6"),
    ],
)
def test_what_is_no_count_is_named(value, least, message):
    with pytest.raises(ValueError, match=message):
        checks.count("num", value, least, of="steps")
    assert checks.count("num", least, least) == least


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25)])
def test_shares_pass(value):
    assert checks.share("decay", value) == value


@pytest.mark.parametrize("value", [-0.2, 1.5, 999, math.nan, math.inf, True, None, "0.9"])
def test_what_is_no_share_is_named(value):
    with pytest.raises(ValueError, match=rf"decay={value}: expected a number in \[0, 1\]"):
        checks.share("decay", value)
