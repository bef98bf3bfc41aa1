"""Gauss rules of Lanczos and their stochastic means against dense linear algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import quadrature, trees


def symmetric(eigenvalues, seed=0):
    """A matrix of known spectrum and its eigenvectors in columns."""
    dim = len(eigenvalues)
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return jnp.asarray(vectors * np.asarray(eigenvalues) @ vectors.T), vectors


@partial(jax.jit, static_argnums=2)
def gauss_rule(matrix, vector, num_steps):
    return quadrature.quadratic_form(lambda v: matrix @ v, vector, num_steps)


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


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="num_probes=0"):
        quadrature.estimate(lambda v: v, jnp.ones(3), jax.random.key(0), 0, 2)
    with pytest.raises(ValueError, match="batch_size=0: expected a positive whole number"):
        quadrature.estimate(lambda v: v, jnp.ones(3), jax.random.key(0), 1, 2, batch_size=0)
    rules = quadrature.Quadrature(np.ones((1, 2)), np.ones((1, 2)))
    for width in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"width={width}: expected a positive number"):
            quadrature.density(rules, np.zeros(3), width)


def test_gaussian_probes_in_batches_have_the_weight_of_their_lengths(x64):
    """With K = D a rule is exact: sum_k w_k f(node_k) = v' f(A) v of each probe, whatever v."""
    matrix, _ = symmetric(np.linspace(0.5, 2, 5))
    rules = quadrature.estimate(
        lambda v: matrix @ v, jnp.zeros(5), jax.random.key(3), 6, 5, trees.gaussian, batch_size=4
    )
    probes = [
        trees.gaussian(jax.random.fold_in(jax.random.key(3), i), jnp.zeros(5)) for i in range(6)
    ]
    expected = [v @ matrix @ matrix @ v for v in probes]
    np.testing.assert_allclose(jnp.sum(rules.weights * rules.nodes**2, 1), expected, rtol=1e-10)
