"""Active units, information and its limits, the parts of a bound, traversals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import diagnostics, gaussians

MEAN = np.array([[-1.0], [0.5], [2.0]])
LOG_VAR = np.log([[0.3], [1.0], [0.1]])


def test_units_whose_mean_moves_are_active():
    mean = jnp.array([[0.0, 0.0, 1.0], [0.18, 0.22, 1.0]])  # variances 0.0081, 0.0121, 0
    np.testing.assert_array_equal(diagnostics.active_units(mean), [False, True, False])
    np.testing.assert_array_equal(diagnostics.active_units(mean, 0.005), [True, True, False])
    images = jnp.stack([mean, mean], -1)
    assert diagnostics.active_units(images).shape == (3, 2)


def test_information_by_quadrature(x64):
    grid = np.linspace(-12, 12, 20_001)
    step = grid[1] - grid[0]
    q = np.exp(-0.5 * (grid - MEAN) ** 2 / np.exp(LOG_VAR)) / np.sqrt(2 * np.pi * np.exp(LOG_VAR))
    aggregate = q.mean(0)
    ratio = np.where(q > 0, np.log(np.maximum(q, 1e-300) / np.maximum(aggregate, 1e-300)), 0)
    expected = (q * ratio).sum(1).mean() * step
    found = diagnostics.mutual_information(jax.random.key(0), MEAN, LOG_VAR, num=20_000, block=2)
    assert abs(found.value - expected) < 4 * found.standard_error
    assert 0 < found.standard_error < 0.01
    parts = diagnostics.surgery(
        jax.random.key(0), jnp.arange(3.0), MEAN, LOG_VAR, num=20_000, block=2
    )
    assert parts.information == found.value and parts.log_likelihood == 1
    log_prior = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi)
    marginal = (aggregate * (np.log(np.maximum(aggregate, 1e-300)) - log_prior)).sum() * step
    assert abs(parts.marginal_kl - marginal) < 4 * parts.standard_error
    total = gaussians.kl(MEAN, LOG_VAR).sum(1).mean()
    np.testing.assert_allclose(parts.information + parts.marginal_kl, total, rtol=1e-12)


def test_the_standard_error_is_that_of_repetitions():
    """400 estimates of 5 draws: their spread is the error they state, within 15 %."""
    keys = jax.random.split(jax.random.key(0), 400)
    found = jax.jit(
        jax.vmap(lambda key: diagnostics.mutual_information(key, MEAN, LOG_VAR, num=5))
    )(keys)
    stated = np.sqrt(np.square(np.asarray(found.standard_error)).mean())
    assert abs(np.asarray(found.value).std() / stated - 1) < 0.15
    assert np.isnan(diagnostics.mutual_information(keys[0], MEAN, LOG_VAR, num=1).standard_error)


def test_information_goes_from_none_to_all():
    measure = jax.jit(
        lambda m: diagnostics.mutual_information(jax.random.key(0), m, jnp.zeros_like(m))
    )
    same = measure(jnp.ones((7, 7)))
    np.testing.assert_allclose(same.value, 0, atol=1e-6)
    known = measure(100 * jnp.eye(7))
    np.testing.assert_allclose(known.value, np.log(7), rtol=1e-6)


def test_a_traversal_moves_one_latent():
    rows = diagnostics.traversal(lambda z: 2 * z, jnp.array([1.0, 2, 3]), 1, jnp.array([5.0, 6]))
    np.testing.assert_array_equal(rows, [[2, 10, 6], [2, 12, 6]])
    first = diagnostics.traversal(lambda z: z, jnp.array([1.0, 2]), 0, jnp.array([5.0, 6]))
    np.testing.assert_array_equal(first, [[5, 2], [6, 2]])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: diagnostics.active_units(MEAN[:1]), r"mean \[1, 1\]: expected \[N >= 2"),
        (lambda: diagnostics.active_units(MEAN[:, 0]), r"mean \[3\]: expected"),
        (lambda: diagnostics.active_units(MEAN, 0.0), "threshold=0: expected a positive"),
        (
            lambda: diagnostics.mutual_information(jax.random.key(0), MEAN, LOG_VAR, num=0),
            "num=0: expected a positive whole number of draws",
        ),
        (
            lambda: diagnostics.mutual_information(jax.random.key(0), MEAN, LOG_VAR, block=0),
            "block=0: expected a positive",
        ),
        (
            lambda: diagnostics.mutual_information(jax.random.key(0), MEAN, LOG_VAR[:2]),
            r"log_var \[2, 1\]: expected \[N, L\] both",
        ),
        (
            lambda: diagnostics.surgery(jax.random.key(0), MEAN, MEAN, LOG_VAR),
            r"log_likelihood \[3, 1\], mean .*: expected \[N\], \[N, L\]",
        ),
        (
            lambda: diagnostics.traversal(lambda z: z, jnp.ones(2), 2, jnp.ones(3)),
            "index=2: expected one of 2 latents, from 0",
        ),
        (
            lambda: diagnostics.traversal(lambda z: z, jnp.ones((2, 2)), 1, jnp.ones(3)),
            r"z \[2, 2\], values \[3\]: expected",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
