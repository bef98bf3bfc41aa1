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


def test_scale_period_and_scalar_of_the_sinusoids(x64):
    """log sigma in place of the time, four frequencies from 3 down to 3 / 50."""
    features = embeddings.Sinusoidal(8, scale=3.0, max_period=50.0, of=lambda t: t**2)
    frequencies = 3 * 50.0 ** (-np.arange(4) / 3)
    expected = np.concatenate([np.sin(0.49 * frequencies), np.cos(0.49 * frequencies)])
    np.testing.assert_allclose(jax.jit(features)(np.array([0.7]))[0], expected, atol=1e-12)


def test_seed_and_scalar_of_the_fourier_features(x64):
    make = lambda **options: jax.jit(embeddings.Fourier(8, scale=0.5, **options))
    t = np.array([0.3, 0.8])
    squared = make(of=lambda t: t**2)(np.sqrt(t))
    np.testing.assert_allclose(squared, make()(t), rtol=1e-12)
    normal = jax.random.normal(jax.random.key(5), (4,), np.float32)
    angles = t[:, None] * np.pi * np.float64(normal)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    np.testing.assert_allclose(make(seed=5)(t), expected, atol=1e-6)  # float32 frequencies


def test_fourier_features_have_the_gaussian_kernel(x64):
    features = np.asarray(jax.jit(embeddings.Fourier(4096, scale=0.3))(np.array([0.0, 0.5])))
    kernel = (features[0] * features[1]).mean() * 2
    expected = math.exp(-0.5 * (2 * math.pi * 0.3 * 0.5) ** 2)
    assert abs(kernel - expected) < 4 / math.sqrt(2048)  # 4 standard deviations at most


@pytest.mark.parametrize("make", [embeddings.Sinusoidal, embeddings.Fourier])
@pytest.mark.parametrize("dim", [3, 0, 4.0])
def test_odd_feature_counts_are_refused(make, dim):
    with pytest.raises(ValueError, match=f"dim={dim}: expected"):
        make(dim)
