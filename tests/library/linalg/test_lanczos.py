"""Lanczos against dense linear algebra in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import lanczos, quadrature, trees


def symmetric(eigenvalues, seed=0):
    """A matrix of known spectrum and its eigenvectors in columns."""
    dim = len(eigenvalues)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return jnp.asarray(vectors * np.asarray(eigenvalues) @ vectors.T), vectors


@jax.jit
def tridiagonalise_full(matrix, start):
    return lanczos.tridiagonalise(lambda v: matrix @ v, start, start.size)


@partial(jax.jit, static_argnums=2)
def gauss_rule(matrix, vector, num_steps):
    return quadrature.quadratic_form(lambda v: matrix @ v, vector, num_steps)


SPECTRA = {
    "spread": np.concatenate([np.linspace(-1, 1, 30), [5.0, 40.0, 1e4, -300.0], 1e-9 * np.ones(6)]),
    "multiple": np.repeat([3.0, 2.0, -1.0, 0.0], 10),
    "identity": np.ones(40),
    "zero": np.zeros(40),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_full_lanczos_gives_a_known_spectrum(x64, name):
    spectrum = np.sort(SPECTRA[name])
    matrix, _ = symmetric(spectrum)
    start = jax.random.normal(jax.random.key(1), (len(spectrum),))
    form = tridiagonalise_full(matrix, start)
    scale = max(np.abs(spectrum).max(), 1.0)
    np.testing.assert_allclose(form.basis @ form.basis.T, np.eye(len(spectrum)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(form.matrix), spectrum, atol=1e-10 * scale)
    np.testing.assert_allclose(form.basis @ matrix @ form.basis.T, form.matrix, atol=1e-11 * scale)


def test_breakdown_separates_the_krylov_space_exactly(x64):
    matrix, vectors = symmetric(np.arange(1.0, 13.0))
    start = jnp.asarray(vectors[:, [0, 4, 9]].sum(1))
    form = jax.jit(lambda v: lanczos.tridiagonalise(lambda u: matrix @ u, v, 8))(start)
    assert form.off_diagonal[2] == 0 and (form.off_diagonal[:2] > 0.1).all()
    np.testing.assert_allclose(np.linalg.eigvalsh(form.matrix[:3, :3]), [1, 5, 10], atol=1e-10)
    nodes, weights = gauss_rule(matrix, start, 8)
    np.testing.assert_allclose(weights[weights > 1e-12], [1, 1, 1], atol=1e-10)
    np.testing.assert_allclose(nodes[weights > 1e-12], [1, 5, 10], atol=1e-10)


def test_top_eigenpairs_of_a_pytree_operator(x64):
    matrix, vectors = symmetric(np.geomspace(1e-3, 100, 40))
    like = {"a": jnp.zeros((5, 4)), "b": jnp.zeros(20)}
    _, flat, unravel = trees.flatten(lambda v: v, like)

    def operator(tree):
        return unravel(matrix @ jnp.concatenate([tree["a"].ravel(), tree["b"]]))

    pairs = jax.jit(lambda rng: lanczos.top_eigenpairs(operator, like, 4, rng, 30))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(pairs.values, np.geomspace(1e-3, 100, 40)[::-1][:4], rtol=1e-10)
    assert pairs.vectors["a"].shape == (4, 5, 4)
    flat_vectors = jax.vmap(lambda v: trees.flatten(lambda u: u, v)[1])(pairs.vectors)
    overlaps = np.abs(np.einsum("nd,dn->n", flat_vectors, vectors[:, ::-1][:, :4]))
    np.testing.assert_allclose(overlaps, 1, atol=1e-10)
    assert (pairs.residuals < 1e-8).all()


def test_ritz_residuals_bound_the_error_before_convergence(x64):
    spectrum = np.linspace(0, 1, 60)
    matrix, _ = symmetric(spectrum)
    pairs = jax.jit(
        lambda rng: lanczos.top_eigenpairs(lambda v: matrix @ v, jnp.zeros(60), 3, rng, 10)
    )(jax.random.key(0))
    errors = np.abs(np.asarray(pairs.values)[:, None] - spectrum).min(1)
    assert (errors <= pairs.residuals + 1e-12).all() and pairs.residuals.max() > 1e-4


def test_float32_lanczos_stays_orthonormal():
    matrix, _ = symmetric(np.geomspace(1e-6, 1e3, 50))
    form = tridiagonalise_full(jnp.float32(matrix), jax.random.normal(jax.random.key(0), (50,)))
    assert form.basis.dtype == jnp.float32
    np.testing.assert_allclose(form.basis @ form.basis.T, np.eye(50), atol=2e-6)


@pytest.mark.parametrize("num_steps", [0, 6])
def test_lanczos_names_a_wrong_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps}: expected 1 to 5"):
        lanczos.tridiagonalise(lambda v: v, jnp.ones(5), num_steps)
    with pytest.raises(ValueError, match="num_steps=2.0: expected a positive whole number"):
        lanczos.tridiagonalise(lambda v: v, jnp.ones(5), 2.0)
    with pytest.raises(ValueError, match="num=2.0: expected a positive whole number"):
        lanczos.top_eigenpairs(lambda v: v, jnp.ones(5), 2.0, jax.random.key(0))


def test_more_pairs_than_steps_are_refused():
    with pytest.raises(ValueError, match="num=9: expected 1 to num_steps=5"):
        lanczos.top_eigenpairs(lambda v: v, jnp.ones(5), 9, jax.random.key(0), 5)
