"""Variance and signal-to-noise of gradients, by NumPy on the same noise."""

import jax
import numpy as np
import pytest

from experiments.vae import _estimators

KEY = jax.random.key(3)


def test_variances_are_those_of_the_estimators_written_out():
    mean, num = 0.7, 500
    keys = jax.random.split(KEY, num)
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys), float)[:, 0]
    z = mean + noise
    found = _estimators.spread(KEY, mean, num)
    expected = {
        "path": (2 * z).var(),
        "score function": (z**2 * noise).var(),
        "score, baseline": ((z**2 - mean**2 - 1) * noise).var(),
    }
    assert list(found) == list(_estimators.VARIANCES)
    assert found == pytest.approx(expected, rel=1e-5)


def test_closed_forms_are_those_of_quadrature():
    noise, weight = np.polynomial.hermite_e.hermegauss(20)
    weight = weight / weight.sum()
    for mean in (0.0, 0.5, 1.0):
        z = mean + noise
        values = (2 * z, z**2 * noise, (z**2 - mean**2 - 1) * noise)
        for value, exact in zip(values, _estimators.VARIANCES.values()):
            variance = weight @ value**2 - (weight @ value) ** 2
            assert exact(mean) == pytest.approx(variance, rel=1e-12)
    assert [exact(1.0) for exact in _estimators.VARIANCES.values()] == [4, 30, 18]


def by_hand(rng, count, num, dim, shift):
    """Gradients of log mean w for mu and b, with weights of sum 1, and for b with their squares."""
    move, data, draws = jax.random.split(rng, 3)
    mu, b = shift * np.asarray(jax.random.normal(move, (2, dim)), float)
    x = np.asarray(jax.random.normal(data, (1, dim)), float)[0] * 2**0.5
    keys = jax.random.split(draws, num)
    noise = jax.vmap(lambda key: jax.random.normal(key, (count, 1, dim)))(keys)
    z = x / 2 + b + (2 / 3) ** 0.5 * np.asarray(noise, float)[:, :, 0]  # [num, K, dim]
    to_prior, to_data, to_q = z - mu, z - x, (z - x / 2 - b) / (2 / 3)
    log_weight = (-(to_prior**2) - to_data**2 + to_q**2 * (2 / 3)).sum(-1) / 2
    share = np.exp(log_weight - log_weight.max(1, keepdims=True))
    share = (share / share.sum(1, keepdims=True))[..., None]
    gradients = {
        "mu": (share * to_prior).sum(1),
        "b": (share * -(to_prior + to_data)).sum(1),  # the path through q cancels its score
        "double": (share**2 * (to_q - to_prior - to_data)).sum(1),
    }
    ratios = {}
    for name, g in gradients.items():
        variance = g.var(0, ddof=1)
        ratios[name] = np.sqrt(max(((g.mean(0) ** 2 - variance / num) / variance).mean(), 0))
    return ratios


@pytest.mark.parametrize("count, num, dim, shift", [(4, 200, 3, 0.5), (1, 50, 2, 0.3)])
def test_signal_to_noise_is_that_of_gradients_written_out(x64, count, num, dim, shift):
    found = _estimators.signal_to_noise(KEY, count, num, dim, shift)
    assert found == pytest.approx(by_hand(KEY, count, num, dim, shift), rel=1e-9, abs=1e-12)
    assert found["mu"] > 0.1


def test_noise_alone_is_no_signal(x64):
    """At the optimum of b, mean 0: the corrected square is negative or small."""
    assert _estimators.signal_to_noise(KEY, 2, 300, 2, 0.0)["b"] < 0.1
