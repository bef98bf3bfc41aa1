"""Hutchinson estimates against closed forms: exact over all signs, variance, Hutch++."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.linalg import hutchinson, trees


def matrix_of(dim, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(dim, dim)))


def variance(matrix, sampler):
    """Of one probe, Avron and Toledo 2011: with S the symmetric part."""
    part = (matrix + matrix.T) / 2
    total = 2 * jnp.sum(part**2)
    return total if sampler is trees.gaussian else total - 2 * jnp.sum(jnp.diag(part) ** 2)


def test_over_all_signs_mean_and_variance_are_exact(x64):
    dim = 10
    matrix = matrix_of(dim)
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=dim)))  # [1024, 10]
    values = jax.vmap(
        lambda v: (
            hutchinson.trace(
                lambda u: matrix @ u, v, jax.random.key(0), 1, sampler=lambda rng, like: like
            ).value
        )
    )(signs)
    np.testing.assert_allclose(values.mean(), jnp.trace(matrix), rtol=1e-12)
    np.testing.assert_allclose(values.var(), variance(matrix, trees.rademacher), rtol=1e-12)
    diagonals = jax.vmap(
        lambda v: (
            hutchinson.diagonal(
                lambda u: matrix @ u, v, jax.random.key(0), 1, sampler=lambda rng, like: like
            ).value
        )
    )(signs)
    np.testing.assert_allclose(diagonals.mean(0), jnp.diag(matrix), rtol=1e-10)


@pytest.mark.parametrize("sampler", [trees.rademacher, trees.gaussian])
def test_variance_equals_the_closed_form(x64, sampler):
    matrix = matrix_of(30, seed=1)
    num = 20_000
    found = jax.jit(
        lambda rng: hutchinson.trace(lambda v: matrix @ v, jnp.zeros(30), rng, num, sampler, 1000)
    )(jax.random.key(0))
    assert abs(found.value - jnp.trace(matrix)) < 4 * found.standard_error  # false alarm 6e-5
    ratio = num * found.standard_error**2 / variance(matrix, sampler)
    # The variance of a sample variance is (kurtosis - 1)/M; kurtosis of a quadratic form of
    # normals is below 15, so four standard errors are 4 sqrt(14/20000) = 0.106.
    assert abs(ratio - 1) < 0.106


def test_diagonal_of_a_pytree_operator(x64):
    matrix = matrix_of(12, seed=2)
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(6)}
    operator = lambda t: jax.tree.map(lambda x: 2.0 * x, t)
    exact = hutchinson.diagonal(operator, like, jax.random.key(0), 1)
    assert (exact.value["a"] == 2).all() and exact.value["b"].shape == (6,)
    assert jnp.isnan(exact.standard_error["a"]).all()  # one sample has no error estimate
    found = jax.jit(
        lambda rng: hutchinson.diagonal(lambda v: matrix @ v, jnp.zeros(12), rng, 4000)
    )(jax.random.key(3))
    # false alarm 12 * 6e-5
    assert (jnp.abs(found.value - jnp.diag(matrix)) < 4 * found.standard_error).all()
    row = jnp.sum(matrix**2, 1) - jnp.diag(matrix) ** 2  # variance of one probe, Bekas et al. 2007
    np.testing.assert_allclose(4000 * found.standard_error**2, row, rtol=0.15)


def test_batching_does_not_change_the_probes(x64):
    matrix = matrix_of(8)
    args = (lambda v: matrix @ v, jnp.zeros(8), jax.random.key(0), 10)
    one, many = hutchinson.trace(*args), hutchinson.trace(*args, batch_size=4)
    np.testing.assert_allclose(one.value, many.value, rtol=1e-12)


def test_hutch_plus_plus_is_exact_at_low_rank_and_better_on_decaying_spectra(x64):
    factor = matrix_of(40)[:, :5]
    low_rank = factor @ factor.T
    found = hutchinson.hutch_plus_plus(lambda v: low_rank @ v, jnp.zeros(40), jax.random.key(0), 18)
    np.testing.assert_allclose(found.value, jnp.trace(low_rank), rtol=1e-10)
    full = hutchinson.hutch_plus_plus(lambda v: low_rank @ v, jnp.zeros(40), jax.random.key(0), 120)
    np.testing.assert_allclose(full.value, jnp.trace(low_rank), rtol=1e-10)
    orthogonal = np.linalg.qr(matrix_of(40, seed=5))[0]
    spectrum = 1.0 / np.arange(1, 41) ** 2
    decaying = jnp.asarray(orthogonal * spectrum @ orthogonal.T)

    def errors(estimator):
        keys = jax.random.split(jax.random.key(1), 50)
        return jax.jit(jax.vmap(lambda rng: estimator(rng).value))(keys) - spectrum.sum()

    plus = errors(
        lambda rng: hutchinson.hutch_plus_plus(lambda v: decaying @ v, jnp.zeros(40), rng, 24)
    )
    plain = errors(lambda rng: hutchinson.trace(lambda v: decaying @ v, jnp.zeros(40), rng, 24))
    assert abs(plus.mean()) < 4 * plus.std() / 50**0.5  # unbiased; false alarm 6e-5
    assert plus.std() < 0.3 * plain.std()


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="num_products=5: expected a whole number >= 6"):
        hutchinson.hutch_plus_plus(lambda v: v, jnp.ones(3), jax.random.key(0), 5)
    with pytest.raises(ValueError, match="num_probes=0"):
        hutchinson.trace(lambda v: v, jnp.ones(3), jax.random.key(0), 0)
    with pytest.raises(ValueError, match="num_probes=2.0"):
        hutchinson.diagonal(lambda v: v, jnp.ones(3), jax.random.key(0), 2.0)
    with pytest.raises(ValueError, match="num_samples=0"):
        hutchinson.mean_of(lambda key: key, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="batch_size=0: expected a positive whole"):
        hutchinson.trace(lambda v: v, jnp.ones(3), jax.random.key(0), 2, batch_size=0)
