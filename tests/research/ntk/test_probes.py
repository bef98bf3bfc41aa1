"""Deflation and the jackknife, the compiled half of spectra, on cases with known answers."""

import jax
import jax.numpy as jnp
import numpy as np

from research import ntk

RNG = jax.random.key(4)  # fixed: a right estimate passes each 3-sigma check with odds of 370 to 1


def test_what_is_known_is_not_found_again(x64):
    """In a kernel of rank one nothing but zeros is left, and none of it along the known vector."""
    known = np.linspace(1, 2, 6)[None] / np.linalg.norm(np.linspace(1, 2, 6))
    pairs = ntk.probes.deflated_pairs(
        jnp.ones(1), 3 * known.T, jnp.asarray(known), 9.0, RNG, apply=lambda w, x: x @ w,
        num=2, num_steps=4, batch_size=None,
    )  # fmt: skip
    np.testing.assert_allclose(pairs.values, 0, atol=1e-12)
    np.testing.assert_allclose(pairs.vectors @ known[0], 0, atol=1e-12)


def test_jackknife_of_a_mean_and_of_its_square(x64):
    """Identity: the mean and s / sqrt(M). Square: mean^2 - s^2 / M, which has no bias at all."""
    samples = jnp.asarray(np.random.default_rng(7).normal(2.0, 1.0, 9))
    spread = np.var(samples, ddof=1)
    mean = ntk.probes.jackknife(lambda m: m, samples)
    np.testing.assert_allclose(mean.value, np.mean(samples), rtol=1e-12)
    np.testing.assert_allclose(mean.standard_error, np.sqrt(spread / 9), rtol=1e-12)
    square = ntk.probes.jackknife(jnp.square, samples)
    np.testing.assert_allclose(square.value, np.mean(samples) ** 2 - spread / 9, rtol=1e-12)
