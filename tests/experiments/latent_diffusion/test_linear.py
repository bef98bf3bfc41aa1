"""The linear first stage of digits: its moments, exact bounds, and the exact cost of a scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.latent_diffusion import _linear, linear
from library import report
from library.data.sets import digits
from research.diffusion import latent
from research.vae import linear as models

X = np.random.default_rng(0).normal(size=(40, 5)) * [3, 2, 1, 0.5, 0.5]


def test_digits_as_rows():
    rows, images = _linear.rows("test"), digits.arrays("test")["image"]
    assert rows.dtype == np.float32 and rows.min() == -1 and rows.max() == 1
    np.testing.assert_allclose(rows[3, 8 * 2 + 5], images[3, 2, 5, 0] / 8 - 1, rtol=1e-6)


def test_the_first_stage_is_the_model(x64):
    """At a scale that is not 1; bounds of both posteriors by the evidence and the ELBO."""
    model = models.fit(jnp.asarray(X), 2)
    stage = _linear.first_stage(model, 1.5, 2.0)
    mean, log_var = stage.encode(X)
    exact, covariance = model.posterior(X)
    np.testing.assert_allclose(mean, exact, rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_var[7]), 1.5 * np.diagonal(covariance), rtol=1e-12)
    np.testing.assert_allclose(covariance - np.diag(np.diagonal(covariance)), 0, atol=1e-12)
    likelihood = stage.decode(mean)
    joint = likelihood.log_prob(X).sum(1) - 0.5 * (mean**2 + np.log(2 * np.pi)).sum(1)
    np.testing.assert_allclose(joint, model.log_joint(X, mean), rtol=1e-10)
    scaling = latent.measure(_linear.first_stage(model).encode, [X], per_channel=True)
    np.testing.assert_allclose(scaling.scale, 1, rtol=1e-10)


def test_bounds(x64):
    model = jax.tree.map(np.asarray, models.fit(jnp.asarray(X), 2))
    found = _linear.bounds(model, X[:8], 4, seed=0)
    assert found.exact < 1e-6 and found.widened < 1e-6
    assert 0.7 < found.within <= 1  # three of eight outside: in 0.6 % of cases
    np.testing.assert_allclose(found.evidence, model.log_prob(X[:8]).mean(), rtol=1e-12)


def test_the_noising_process_is_that_of_the_files():
    process = _linear.stable_diffusion()
    np.testing.assert_allclose(process.alpha(1.0) ** 2, 4.660098513e-3, rtol=2e-6)
    np.testing.assert_allclose(process.alpha(0.501) ** 2, 0.2763326838, rtol=2e-6)


def test_the_exact_cost_of_a_scale(x64):
    """The prior gap by its formula; DDIM of ever more steps leaves what the prior gap does."""
    process, factors = _linear.stable_diffusion(), np.array([0.5, 1.0, 8.0])
    fine = _linear.exact_cost(process, factors, 1000)
    v = process.alpha(1.0) ** 2 * factors**2 + process.sigma(1.0) ** 2
    np.testing.assert_allclose(fine["prior"], 0.5 * (v - 1 - np.log(v)), rtol=1e-8, atol=1e-14)
    coarse = _linear.exact_cost(process, factors, 10)
    assert (coarse["sampler"][1:] > fine["sampler"][1:]).all()
    reverse = 0.5 * (1 / v - 1 + np.log(v))  # KL of the sampled law from the latent's
    np.testing.assert_allclose(fine["sampler"][2], reverse[2], rtol=0.05)


def test_bad_input(tmp_path):
    config = linear.Config(factors=(0.5, 2.0, 4.0))
    with pytest.raises(ValueError, match=r"factors=\(0.5, 2.0, 4.0\): expected 1 and others"):
        linear.run(config, report.RunDir(tmp_path))
