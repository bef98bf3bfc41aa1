"""Features of times and pixels against their closed forms."""

import math

import jax
import numpy as np
import pytest

from research.diffusion import embeddings


def test_fine_details_are_what_noise_leaves_of_a_sine(x64):
    """The damped sine of the clean pixel is the mean over noise of the plain sine."""
    sigma, x_0 = 0.02, 0.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    details = embeddings.FineDetails((4, 6), lambda t: t)
    noisy = np.sin(np.pi * 2.0 ** np.array([4, 4, 6, 6]) * (x_0 + sigma * nodes[:, None])
                   + np.array([0, 1, 0, 1]) * np.pi / 2)  # fmt: skip
    expected = weights @ noisy / weights.sum()
    found = jax.jit(details)(np.full((1, 1, 1, 1), x_0), np.array([sigma]))
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-10)


def test_sinusoidal_features_are_those_of_ddpm(x64):
    features = jax.jit(embeddings.Sinusoidal(8))(np.array([0.25]))
    frequencies = np.exp(-math.log(10_000) * np.arange(4) / 3)
    expected = np.concatenate([np.sin(250 * frequencies), np.cos(250 * frequencies)])
    np.testing.assert_allclose(features[0], expected, atol=1e-10)


def test_fourier_features_have_the_gaussian_kernel(x64):
    features = np.asarray(jax.jit(embeddings.Fourier(4096, scale=0.3))(np.array([0.0, 0.5])))
    kernel = (features[0] * features[1]).mean() * 2
    expected = math.exp(-0.5 * (2 * math.pi * 0.3 * 0.5) ** 2)
    assert abs(kernel - expected) < 4 / math.sqrt(2048)  # 4 standard deviations at most


def test_odd_feature_counts_are_refused():
    with pytest.raises(ValueError, match="dim=3"):
        embeddings.Sinusoidal(3)
