"""Divergences of linear fields: the exact trace, and probes with their exact variance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import divergence


class TestDivergence:
    """Probes on a fixed linear field."""

    def test_exact_is_the_trace(self, x64):
        matrix = np.random.default_rng(0).normal(size=(70, 70))  # more than one block
        field = lambda x: jnp.einsum("de,be->bd", matrix, x)
        value, trace = jax.jit(lambda x: divergence.exact(field, x))(jnp.ones((2, 70)))
        np.testing.assert_allclose(trace, np.full(2, np.trace(matrix)), rtol=1e-12)
        np.testing.assert_allclose(value, np.ones((2, 1)) * matrix.sum(1), rtol=1e-12)

    def test_variance_over_all_signs_and_mean_over_a_hadamard_basis(self, x64):
        root = np.random.default_rng(0).normal(size=(8, 8))
        matrix = root + root.T
        field = lambda x: jnp.einsum("de,be->bd", matrix, x)
        signs = np.array(np.meshgrid(*8 * [[-1.0, 1.0]])).reshape(8, 256).T
        x = jnp.zeros((1, 8))
        slopes = jax.jit(lambda v: divergence.slopes(field, x, v)[1])
        values = np.asarray(slopes(signs[:, None]))
        off_diagonal = matrix - np.diag(np.diag(matrix))
        np.testing.assert_allclose(values.var(), 2 * np.sum(off_diagonal**2), rtol=1e-12)
        np.testing.assert_allclose(values.mean(), np.trace(matrix), rtol=1e-12)
        hadamard = np.array([[1.0, 1], [1, -1]])
        hadamard = np.kron(np.kron(hadamard, hadamard), hadamard)
        values = np.asarray(slopes(hadamard[:, None]))
        np.testing.assert_allclose(values.mean(), np.trace(matrix), rtol=1e-12)

    @pytest.mark.parametrize("law", [jax.random.rademacher, jax.random.normal])
    def test_sampled_variance(self, law, x64):
        matrix = np.array([[1.0, 0.5, -0.3], [0.5, 2.0, 0.8], [-0.3, 0.8, -1.0]])
        field = lambda x: jnp.einsum("de,be->bd", matrix, x)
        x = jnp.zeros((20_000, 3))
        keys = jax.random.split(jax.random.key(0), 20_000)
        draw = lambda: divergence.slopes(field, x, divergence.probes(law, keys, 2, x))[1]
        values = np.asarray(jax.jit(draw)())
        kept = matrix if law is jax.random.normal else matrix - np.diag(np.diag(matrix))
        expected = 2 * np.sum(kept**2)
        assert abs(values.var() / expected - 1) < 0.05
        assert abs(values.mean() - 2.0) < 4 * math.sqrt(expected / 40_000)
