"""Unit vectors down to zero, and what numbers are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import checks


def test_unit_vectors(x64):
    z = np.array([[3.0, 4.0], [1e-9, 0.0], [3e-13, 0.0], [0.0, 0.0]])
    expected = [[0.6, 0.8], [1.0, 0.0], [0.3, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(checks.unit(jnp.asarray(z)), expected, rtol=1e-12)
    grad = jax.grad(lambda z: checks.unit(z).sum())(jnp.asarray(z))
    assert np.isfinite(grad).all()


def test_unit_vectors_whose_squares_overflow():
    z = jnp.array([[3e20, 4e20], [-1e37, 0.0], [0.0, jnp.inf]])
    found, grad = checks.unit(z), jax.grad(lambda z: checks.unit(z)[:, 0].sum())(z[:2])
    np.testing.assert_allclose(found[:2], [[0.6, 0.8], [-1.0, 0.0]], rtol=1e-6)
    assert jnp.isnan(found[2]).any()
    np.testing.assert_allclose(grad * 1e21, [[1.28, -0.96], [0.0, 0.0]], rtol=1e-5, atol=1e-12)


def test_sums_are_in_the_widest_dtype_and_float32_at_least():
    half, single = jnp.ones(2, jnp.bfloat16), jnp.ones(2)
    assert [x.dtype for x in checks.wide(half, half)] == [jnp.float32] * 2
    assert [x.dtype for x in checks.wide(half, single)] == [jnp.float32] * 2


@pytest.mark.parametrize(
    "value, zero", [(1, False), (0.1, False), (0, True), (np.float32(2), False)]
)
def test_what_is_positive(value, zero):
    checks.positive("x", value, zero=zero)
    checks.positive("x", jnp.asarray(value), zero=zero)
    checks.positive("x", np.asarray(value), zero=zero)
    jax.make_jaxpr(lambda x: checks.positive("x", x) or x)(-1.0)  # traced: nothing is known


@pytest.mark.parametrize("value, zero, message", [
    (0, False, "x=0: expected a positive finite number"),
    (jnp.zeros(()), False, "x=0.0: expected a positive"),
    (-1, True, "x=-1: expected a finite number >= 0"),
    (np.inf, True, "x=inf: expected a finite"),
    ("2", False, "x=2: expected a positive"),
    (np.ones(2), False, "expected a positive"),
])  # fmt: skip
def test_what_is_not(value, zero, message):
    with pytest.raises(ValueError, match=message):
        checks.positive("x", value, zero=zero)


Z = np.zeros((2, 3, 4))


@pytest.mark.parametrize("message, call", [
    ("a has shape .2, 3, 4.: expected .B, D.", lambda: checks.pair("a", Z, "b", Z)),
    ("b has shape .3, 3.: expected that of a", lambda: checks.pair("a", Z[0], "b", Z[0, :, :3])),
    ("z has 1 view: expected two views or more", lambda: checks.views("z", Z[:1])),
    ("z has 2 views: expected 3 views", lambda: checks.views("z", Z, 3)),
    ("z has shape .3, 4.: expected .V, B, D., 2 views", lambda: checks.views("z", Z[0], 2)),
    ("a batch of 1 in all: expected two .* for x", lambda: checks.batch(1, None, "x")),
])  # fmt: skip
def test_shapes(message, call):
    with pytest.raises(ValueError, match=message):
        call()
