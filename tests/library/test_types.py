"""The dtype that sums are taken in."""

import jax
import jax.numpy as jnp
import pytest

from library import types


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_sums_are_at_least_float32_whatever_promotion_is_allowed(promotion, x64):
    with jax.numpy_dtype_promotion(promotion):
        narrow = [types.at_least_float32(d) for d in (jnp.float16, jnp.bfloat16, jnp.int8, bool)]
        assert set(narrow) == {jnp.dtype(jnp.float32)}
        assert types.at_least_float32(jnp.float64) == jnp.float64
        assert types.at_least_float32(jnp.zeros(1, jnp.bfloat16), jnp.zeros(1)) == jnp.float64
        assert types.at_least_float32(jnp.bfloat16, jnp.float16) == jnp.float32
