"""float64 for small linear algebra in any session, and dtypes that stay where they are traced."""

import jax
import jax.numpy as jnp
import numpy as np

from research.ntk import precision


def test_what_is_computed_wide_is_float64_and_leaves_the_session_alone():
    third = np.float32(1 / 3)
    found = precision.wide(lambda x, n: {"sum": x + 1e-12, "n": n}, third, np.int32(2))
    assert found["sum"].dtype == np.float64 and found["n"].dtype == np.int32
    assert found["sum"] == np.float64(third) + 1e-12
    assert isinstance(found["sum"], np.ndarray) and not jax.config.jax_enable_x64


def test_results_come_back_in_the_float_of_the_session():
    assert precision.default_float() == jnp.float32
    assert precision.narrow({"a": np.float64([1.0, 2.0])})["a"].dtype == jnp.float32
    with jax.enable_x64(True):
        assert precision.default_float() == jnp.float64
        assert precision.narrow(np.float32(1)).dtype == jnp.float64


def test_nothing_is_cast_under_a_transformation():
    seen = {}

    def function(x):
        seen["traced"] = precision.traced({"x": x, "n": 1})
        inside = precision.wide(lambda y: 2 * y, x)
        seen["dtypes"] = inside.dtype, precision.narrow(x.astype(jnp.float16)).dtype
        return inside

    shape = jax.eval_shape(function, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert seen == {"traced": True, "dtypes": (jnp.float32, jnp.float16)}
    assert shape.dtype == jnp.float32
    assert not precision.traced([np.ones(2), jnp.ones(2), 3.0])
