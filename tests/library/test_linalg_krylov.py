"""Lanczos, quadrature and conjugate gradients against dense linear algebra in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import cg, lanczos, operators, quadrature, trees


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


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_gauss_rule_is_exact_to_degree_2k_minus_1_and_no_further(x64, num_steps):
    matrix, _ = symmetric(np.linspace(-1.2, 1.7, 15))
    vector = jax.random.normal(jax.random.key(2), (15,))
    nodes, weights = gauss_rule(matrix, vector, num_steps)
    power = vector
    for degree in range(2 * num_steps + 1):
        exact, rule = vector @ power, jnp.sum(weights * nodes**degree)
        if degree < 2 * num_steps:
            np.testing.assert_allclose(rule, exact, rtol=1e-10, atol=1e-10)
        else:
            assert abs(rule - exact) > 1e-6 * abs(exact)
        power = matrix @ power


def test_quadrature_over_all_unit_vectors_is_the_trace(x64):
    matrix, _ = symmetric(np.linspace(0.5, 2, 6))
    nodes, weights = jax.jit(jax.vmap(lambda v: gauss_rule(matrix, v, 6)))(jnp.eye(6))
    total = jnp.sum(weights * jnp.log(nodes))
    np.testing.assert_allclose(total, np.log(np.linspace(0.5, 2, 6)).sum(), rtol=1e-12)


def test_stochastic_quadrature_within_its_error_and_density_integrates_to_one(x64):
    spectrum = np.concatenate([np.linspace(0.1, 1, 35), np.linspace(4, 5, 5)])
    matrix, _ = symmetric(spectrum)
    rules = jax.jit(
        lambda rng: quadrature.estimate(lambda v: matrix @ v, jnp.zeros(40), rng, 200, 12)
    )(jax.random.key(0))
    np.testing.assert_allclose(rules.weights.sum(1), 40, rtol=1e-12)
    for function in (jnp.log, jnp.exp, lambda x: x):
        found = quadrature.trace(rules, function)
        exact = function(jnp.asarray(spectrum)).sum()
        assert abs(found.value - exact) < 4 * found.standard_error  # false alarm 6e-5 each
        assert found.standard_error < 0.05 * abs(exact)
    grid = jnp.linspace(-1, 7, 400)
    density = quadrature.density(rules, grid, 0.15)
    np.testing.assert_allclose(jnp.trapezoid(density.value, grid), 1, atol=1e-6)
    exact = np.exp(-0.5 * ((np.asarray(grid)[:, None] - spectrum) / 0.15) ** 2).mean(1)
    exact /= 0.15 * np.sqrt(2 * np.pi)
    # A 12-point rule resolves this width up to about a per cent of the peak.
    assert (np.abs(density.value - exact) < 5 * density.standard_error + 0.02).all()


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


@pytest.mark.parametrize("num_steps", [0, 6])
def test_lanczos_names_a_wrong_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps}: expected 1 to 5"):
        lanczos.tridiagonalise(lambda v: v, jnp.ones(5), num_steps)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="num=9: expected 1 to num_steps=5"):
        lanczos.top_eigenpairs(lambda v: v, jnp.ones(5), 9, jax.random.key(0), 5)
    with pytest.raises(ValueError, match="rtol=0"):
        cg.solve(lambda v: v, jnp.ones(3), rtol=0)
    with pytest.raises(ValueError, match="num_probes=0"):
        quadrature.estimate(lambda v: v, jnp.ones(3), jax.random.key(0), 0, 2)
    with pytest.raises(ValueError, match="no batch"):
        operators.mean_over(lambda b: lambda v: v, jnp.zeros((0, 3)))
