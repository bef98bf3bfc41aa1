"""Linear beta-VAEs against water-filling, and gaps of the bound against quadrature and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.vae import _spectrum
from research.vae import linear

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
COUNTS = 2 ** np.arange(8)
EIGENVALUES = np.array([4.0, 1.0, 0.25])
# log p - bound of K = 1 and 2 draws, by quadrature.
EXACT = {2.0: (0.153426409720027, 0.051791764718), 1.5: (0.047267445945918, 0.018231772948)}


def logmeanexp(x):
    top = x.max(0)
    return top + np.log(np.exp(x - top).mean(0))


def test_images_are_centred_in_units_of_their_total_variance():
    images = RNG.integers(0, 17, (9, 2, 3, 1))
    x = _spectrum.centred(images)
    rows = images.reshape(9, 6) - images.reshape(9, 6).mean(0)
    np.testing.assert_allclose(x, rows / np.sqrt((rows**2).sum() / 54), rtol=1e-12)
    assert np.trace(x.T @ x / 9) == pytest.approx(6, rel=1e-12)


def test_levels_lie_between_eigenvalues():
    found = _spectrum.levels(np.array([9.0, 4.0, 1.0, 0.0]), (1, 2))
    np.testing.assert_allclose(found, [6, 2], rtol=1e-12)


@pytest.mark.parametrize("num_active", [(0,), (4,), (1, 3)])
def test_levels_need_an_eigenvalue_on_both_sides(num_active):
    with pytest.raises(ValueError, match=r"num_active=\(.*: expected 1 to 3"):
        _spectrum.levels(np.array([9.0, 4.0, 1.0, 0.0]), num_active)


def test_water_filling_by_level():
    found = _spectrum.water_filling(EIGENVALUES, np.array([0.5, 2.0]))
    np.testing.assert_allclose(found.rate, [0.5 * np.log(16), 0.5 * np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(found.distortion, [1.25, 3.25], rtol=1e-6)
    np.testing.assert_array_equal(found.num_active, [2, 1])


def test_the_best_model_reaches_water_filling(x64):
    """With its noise 0.4 and beta 1.25, in the basis of a random covariance."""
    basis = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    covariance, level = basis @ np.diag(EIGENVALUES) @ basis.T, 0.5
    weight = np.sqrt(np.maximum(EIGENVALUES - level, 0))
    params = {
        "encode": jnp.asarray((weight / EIGENVALUES)[:, None] * basis.T),
        "decode": jnp.asarray(basis * weight),
        "log_var": jnp.asarray(np.where(weight > 0, np.log(level / EIGENVALUES), 0)),
    }
    rates, distortion = jax.jit(_spectrum.rate_distortion)(params, jnp.asarray(covariance))
    exact = linear.rate_distortion(EIGENVALUES, 0.4, 1.25)
    np.testing.assert_allclose(rates.sum(), exact.rate, rtol=1e-10)
    np.testing.assert_allclose(distortion, exact.distortion, rtol=1e-10)
    np.testing.assert_allclose(rates[:2], 0.5 * np.log(EIGENVALUES[:2] / level), rtol=1e-10)


def test_rate_and_distortion_are_means_over_data(x64):
    """Of any model: KL and square error of each row, by NumPy."""
    x = RNG.normal(size=(50, 3)) @ RNG.normal(size=(3, 3))
    encode, decode, log_var = RNG.normal(size=(2, 3)), RNG.normal(size=(3, 2)), RNG.normal(size=2)
    params = {"encode": encode, "decode": decode, "log_var": log_var}
    rates, distortion = jax.jit(_spectrum.rate_distortion)(
        jax.tree.map(jnp.asarray, params), jnp.asarray(x.T @ x / 50)
    )
    mean = x @ encode.T
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)
    error = ((x - mean @ decode.T) ** 2).sum(1).mean() + (decode**2 @ np.exp(log_var)).sum()
    np.testing.assert_allclose(rates, kl.mean(0), rtol=1e-10)
    np.testing.assert_allclose(distortion, error, rtol=1e-10)


def test_training_ends_on_the_curve():
    """Noise 0.5; levels 2 and 0.5 leave one latent and two."""
    betas = np.array([4.0, 1.0])
    found = _spectrum.train(
        np.diag(EIGENVALUES), betas, 0.5,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 1500)), num_steps=1500, rng=KEY,
    )  # fmt: skip
    exact = _spectrum.water_filling(EIGENVALUES, 0.5 * betas)
    np.testing.assert_allclose(found.rate, exact.rate, rtol=1e-3)
    np.testing.assert_allclose(found.distortion, exact.distortion, rtol=1e-3)
    np.testing.assert_array_equal(found.num_active, [1, 2])


def test_the_bound_and_its_divergence_are_the_evidence(x64):
    """The model is fitted, and the posterior by which the bound is off is not q."""
    x = RNG.normal(size=(20, 4)) * np.array([3, 2, 1, 0.5])
    off = _spectrum.identity(x - x.mean(0), 2, 1)
    assert off.shape == (20,) and np.abs(off).max() < 1e-10


def test_gaps_are_those_of_the_same_draws_in_numpy():
    """Groups of 128; the control variate only where the weights have a variance."""
    keys = jax.random.split(KEY, 500)
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (128,)))(keys), float)
    for variance in (2.0, 0.4):
        gaps, diagnosis = _spectrum.gaps(variance, COUNTS, 64_100, KEY)
        z = noise * variance**0.5
        weights = 0.5 * (np.log(variance) + z**2 / variance - z**2)
        control = np.expm1(weights).mean() if variance > 0.5 else 0
        expected = [control - logmeanexp(weights.reshape(-1, k).T).mean() for k in COUNTS]
        np.testing.assert_allclose(gaps, expected, rtol=1e-4, atol=1e-6)
        assert bool(diagnosis.finite_variance[0]) == (variance == 2.0)
        w = np.exp(weights.ravel()[:12_800])
        size = w.sum() ** 2 / (w**2).sum()
        np.testing.assert_allclose(diagnosis.effective_sample_size, size, rtol=1e-3)


@pytest.mark.parametrize("variance", EXACT)
def test_gaps_are_those_of_quadrature(variance):
    """Within 4 standard errors of 64,000 draws, which are 5 %."""
    gaps, _ = _spectrum.gaps(variance, COUNTS, 64_100, KEY)
    z = np.linspace(-14, 14, 20_001)
    log_weight = 0.5 * (np.log(variance) + z**2 / variance - z**2)
    density = np.exp(-(z**2) / (2 * variance))
    left = np.expm1(log_weight) - log_weight  # of one draw, by whose mean the gap is estimated
    moments = [(density * left**power).sum() / density.sum() for power in (1, 2)]
    assert moments[0] == pytest.approx(EXACT[variance][0], rel=1e-9)
    error = np.sqrt((moments[1] - moments[0] ** 2) / 64_000)
    assert 4 * error < 0.05 * EXACT[variance][0]
    np.testing.assert_allclose(gaps[:2], EXACT[variance], atol=4 * error)
