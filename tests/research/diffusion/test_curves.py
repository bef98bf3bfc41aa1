"""Scalar curves: derivatives of known curves, inverses to rounding, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np

from research.diffusion import curves


def test_derivatives_of_known_curves(x64):
    t = np.array([[0.1, 0.7], [1.3, 2.0]])
    slope = jax.jit(curves.derivative(lambda t: t**3 + jnp.sin(2 * t)))
    np.testing.assert_allclose(slope(t), 3 * t**2 + 2 * np.cos(2 * t), rtol=1e-13)
    second = jax.jit(curves.derivative(curves.derivative(jnp.exp)))
    np.testing.assert_allclose(second(t), np.exp(t), rtol=1e-13)


def test_bisection_inverts_to_rounding():
    """To rounding of the whole range, in either precision; what is never taken gives an end."""
    t = np.array([0.5, 0.75, 2.0, 3.5])
    invert = jax.jit(lambda value: curves.bisect(lambda t: jnp.exp(-t), value, 0.5, 4.0))
    for wide, bar in ((True, 2e-15), (False, 1e-6)):
        with jax.enable_x64(wide):
            value = np.exp(-t).astype(np.float64 if wide else np.float32)
            found = invert(value)
            assert found.dtype == value.dtype
            np.testing.assert_allclose(found, t, atol=4 * bar)
            ends = invert(np.array([2.0, 0.0, 0.1, 0.1], value.dtype))[:2]  # above all, below all
            np.testing.assert_allclose(ends, [0.5, 4.0], atol=4 * bar)


def test_bisection_keeps_the_digits_of_times_near_the_low_end():
    """Of 1e-8 in a range of 1 the rounding of the range would leave no digit."""
    t = np.array([1e-8, 1.3e-8, 1.00001e-6, 0.5], np.float32)
    invert = jax.jit(lambda value: curves.bisect(lambda t: -jnp.log(t), value, 1e-8, 1.0))
    np.testing.assert_allclose(invert(-np.log(t)), t, rtol=3e-6)  # log t errs by 1e-6


def test_expand_adds_axes_behind():
    x = np.ones((4, 2, 3))
    assert curves.expand(np.arange(4.0), x).shape == (4, 1, 1)
    assert curves.expand(np.array(2.0), x).shape == (1, 1, 1)
    scaled = curves.expand(np.arange(4.0), x) * x
    np.testing.assert_array_equal(scaled[:, 1, 2], np.arange(4.0))


def test_times_become_floats():
    dtypes = [curves.as_time(t).dtype for t in (1, 0.5, np.int32(3), jnp.arange(2))]
    assert dtypes == [jnp.float32] * 4
    assert curves.as_time(jnp.ones((), jnp.bfloat16)).dtype == jnp.float32
    assert [curves.wide(jnp.ones(1, d)).dtype for d in ("float16", "int8")] == [jnp.float32] * 2
    whole = curves.elementwise(lambda t: t / 2)
    assert whole(3) == 1.5 and whole(3).dtype == jnp.float32
