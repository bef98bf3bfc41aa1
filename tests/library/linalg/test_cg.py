"""Conjugate gradients against dense solves, in exact steps and in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import cg


def symmetric(eigenvalues, seed=0):
    """A matrix of known spectrum and its eigenvectors in columns."""
    dim = len(eigenvalues)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return jnp.asarray(vectors * np.asarray(eigenvalues) @ vectors.T), vectors


def spd(condition, dim=40):
    return symmetric(np.geomspace(1.0, condition, dim))[0]


@partial(jax.jit, static_argnames=("rtol", "max_steps"))
def solve_dense(matrix, b, scales, rtol, max_steps=400):
    """Diagonally preconditioned by `scales`, with one compilation for several tests."""
    return cg.solve(
        lambda v: matrix @ v, b, preconditioner=cg.jacobi(scales), rtol=rtol, max_steps=max_steps
    )


def test_cg_against_a_solve_on_pytrees(x64):
    matrix = spd(50.0)
    b = jax.random.normal(jax.random.key(0), (40,))
    split = lambda v: {"a": v[:10].reshape(2, 5), "b": v[10:]}
    join = lambda t: jnp.concatenate([t["a"].ravel(), t["b"]])
    found = jax.jit(lambda b: cg.solve(lambda t: split(matrix @ join(t)), b, rtol=1e-12))(split(b))
    np.testing.assert_allclose(join(found.x), np.linalg.solve(matrix, b), rtol=1e-9, atol=1e-12)
    assert found.converged and found.num_steps <= 90
    np.testing.assert_allclose(
        found.relative_residual,
        np.linalg.norm(b - matrix @ join(found.x)) / np.linalg.norm(b),
        rtol=0.5,
        atol=1e-16,
    )  # both are rounding noise of size 1e-13; only their size is defined


def test_preconditioned_cg_on_an_ill_conditioned_system(x64):
    scales = jnp.geomspace(1, 1e5, 40)
    matrix = jnp.outer(scales, scales) * spd(10.0)  # condition about 1e11
    x = jax.random.normal(jax.random.key(1), (40,)) / scales
    b = matrix @ x
    plain = solve_dense(matrix, b, jnp.ones(40), 1e-12)
    assert not plain.converged and not plain.indefinite
    found = solve_dense(matrix, b, jnp.diag(matrix), 1e-12)
    assert found.converged and found.num_steps < 60
    np.testing.assert_allclose(found.x, x, rtol=1e-6)  # condition 1e11 leaves 5 of 16 digits


def test_cg_steps_of_exact_arithmetic(x64):
    matrix, _ = symmetric(np.repeat([1.0, 5.0, 9.0], 10))
    ones = jnp.ones(30)
    found = solve_dense(matrix, ones, ones, 1e-10)
    assert found.num_steps == 3  # one per distinct eigenvalue
    warm = jax.jit(lambda x0: cg.solve(lambda v: matrix @ v, ones, x0, rtol=1e-9))(found.x)
    assert warm.num_steps == 0
    zero = solve_dense(matrix, jnp.zeros(30), ones, 1e-10)
    assert zero.converged and zero.num_steps == 0 and (zero.x == 0).all()


def test_cg_reports_what_it_cannot_solve(x64):
    matrix, _ = symmetric(np.linspace(-1, 2, 20))
    found = solve_dense(matrix, jnp.ones(20), jnp.ones(20), 1e-10)
    assert found.indefinite and not found.converged and jnp.isfinite(found.x).all()
    short = solve_dense(spd(1e4), jnp.ones(40), jnp.ones(40), 1e-10, max_steps=7)
    assert short.num_steps == 7 and not short.converged and short.relative_residual > 1e-10


def test_float32_cg_reports_the_true_residual():
    matrix = jnp.float32(spd(1e3))
    b = jax.random.normal(jax.random.key(0), (40,))
    found = solve_dense(matrix, b, jnp.ones(40), 1e-9)
    true = np.linalg.norm(np.float64(b) - np.float64(matrix) @ np.float64(found.x))
    true /= np.linalg.norm(b)
    assert not found.converged and found.relative_residual > 1e-9  # float32 cannot reach 1e-9
    assert 0.5 * true < found.relative_residual < 2 * true


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="rtol=0"):
        cg.solve(lambda v: v, jnp.ones(3), rtol=0)
