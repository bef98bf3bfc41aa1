"""The bound of a latent model on a linear-Gaussian first stage, of which everything is known."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import latent, likelihood, oracles, processes
from research.vae import bounds, likelihoods, linear

VP = processes.vp(t_min=1e-7)
COLUMNS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0][:, :2]
MODEL = linear.LinearGaussian(COLUMNS * [1.5, 0.7], np.arange(5.0) / 5, 0.3)
X = np.random.default_rng(1).normal(size=(3, 5))
SCALE, SHIFT = np.array([1.7, -0.6]), np.array([0.3, -0.2])
SCORE = oracles.gaussian(VP, -SHIFT * SCALE, SCALE**2)  # of N(0, I), scaled
PRECISE = {"prior_log_prob": functools.partial(SCORE.log_prob, t=VP.t_max)}
PER_DIM = 5e-6  # 1e-6 nats a dimension of data


def stage(offset=0.0, factor=1.0, scale=SCALE, shift=SHIFT):
    """The model's exact posterior, or a Gaussian beside it."""

    def encode(x):
        mean, covariance = MODEL.posterior(x)
        log_var = jnp.log(factor * jnp.diagonal(covariance))
        return mean + jnp.reshape(offset, (1, -1)), jnp.broadcast_to(log_var, mean.shape)

    def decode(z):
        weights, mean, noise = MODEL.weights, MODEL.mean, MODEL.noise_variance
        image = jnp.einsum("dl,bl->bd", weights, z) + jnp.asarray(mean)[None]
        return likelihoods.Gaussian(image, 0.5 * jnp.log(noise))

    return latent.FirstStage(encode, decode, scale, shift)


@pytest.fixture(scope="module")
def found():
    """All that the tests look at, as one program in float64."""
    with jax.enable_x64(True):
        steps = likelihood.adaptive(1e-10, 1e-10, method=diffrax.Dopri8())
        options = {**PRECISE, "steps": steps}

        @jax.jit
        def of(x, keys, offset, factor, signs):
            first = stage(offset, factor)
            bound = latent.log_likelihood_bound(first, SCORE, VP, x, keys, 8, **options)
            mean, log_var = first.encode(x)
            z = mean[None] + signs[:, None] * jnp.exp(log_var / 2)[None]
            nodes = latent.log_weights(first, SCORE, VP, x, z, **options)
            covariance = factor * MODEL.posterior(x)[1]
            return bound, nodes.mean(0), MODEL.elbo(x, mean, covariance), MODEL.log_prob(x)

        keys = jax.random.split(jax.random.key(0), 3)
        signs = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
        run = lambda *args: jax.tree.map(np.asarray, of(X, keys, *args, signs))
        return run(np.zeros(2), 1.0), run(np.array([0.4, -0.3]), 1.9)


def test_of_the_exact_posterior_every_draw_is_the_evidence(found):
    (bound, nodes, elbo, evidence), _ = found
    weights = np.broadcast_to(evidence, (8, 3))
    np.testing.assert_allclose(bound.log_weights, weights, rtol=0, atol=PER_DIM)
    np.testing.assert_allclose(bound.value, evidence, rtol=0, atol=PER_DIM)
    np.testing.assert_allclose(bound.standard_error, 0, atol=PER_DIM)
    np.testing.assert_allclose(nodes, evidence, rtol=0, atol=PER_DIM)
    np.testing.assert_allclose(elbo, evidence, rtol=1e-12)


def test_of_another_posterior_it_is_the_elbo(found):
    """Without sampling: two Gauss-Hermite nodes a latent integrate a quadratic exactly."""
    _, (bound, nodes, elbo, evidence) = found
    np.testing.assert_allclose(nodes, elbo, rtol=0, atol=PER_DIM)
    assert (evidence - elbo > 0.3).all()
    # Four standard errors of eight draws, whose tails are Student's: false alarm below 2 % in all.
    assert (np.abs(bound.value - elbo) < 4 * bound.standard_error).all()
    np.testing.assert_allclose(bound.value, bound.log_weights.mean(0), rtol=1e-12)
    error = bound.log_weights.std(0, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(bound.standard_error, error, rtol=1e-12)
    tighter = bounds.iwae(bound.log_weights)
    assert (tighter > bound.value).all()


def test_one_scale_for_all_channels_and_random_probes(x64):
    """Signs measure the trace of a diagonal matrix exactly; no draw depends on the batch."""
    score = oracles.gaussian(VP, -0.3 * 1.7 * np.ones(2), 1.7**2)
    steps, first = likelihood.fixed(100), stage(scale=1.7, shift=0.3)
    options = {"steps": steps, "prior_log_prob": functools.partial(score.log_prob, t=VP.t_max)}

    @jax.jit
    def of(x, keys):
        bound = latent.log_likelihood_bound(
            first, score, VP, x, keys, 2, trace="hutchinson", num_probes=2, **options
        )
        return bound.log_weights, MODEL.log_prob(x)

    keys = jax.random.split(jax.random.key(3), 3)
    weights, evidence = of(X, keys)
    np.testing.assert_allclose(weights, np.broadcast_to(evidence, (2, 3)), rtol=0, atol=PER_DIM)
    other, _ = of(X[::-1], keys[::-1])
    np.testing.assert_allclose(other[:, ::-1], weights, rtol=0, atol=1e-10)


def test_defaults():
    shapes = jax.ShapeDtypeStruct((3, 5), np.float32), jax.random.key(0)
    bound = lambda *args, **options: jax.eval_shape(
        lambda x, rng: latent.log_likelihood_bound(stage(), SCORE, VP, x, rng, *args, **options),
        *shapes,
    )
    assert bound().log_weights.shape == (16, 3)
    one = bound(1)
    assert one.log_weights.shape == (1, 3) and one.standard_error.shape == (3,)


VECTORS = latent.FirstStage(lambda x: x, lambda z: z)
IMAGES = latent.FirstStage(lambda x: (x, x), lambda z: z)
BAD = {
    "num_samples": (stage(), {"num_samples": 0}, r"num_samples=0: expected a positive whole"),
    "vectors": (VECTORS, {}, "encode gives vectors: expected a posterior"),
    "images": (IMAGES, {}, "decode gives images: expected a likelihood"),
    "trace": (stage(), {"trace": "guess"}, "trace='guess': expected 'exact' or"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    first, options, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        latent.log_likelihood_bound(
            first, SCORE, VP, X.astype(np.float32), jax.random.key(0), **options
        )


def test_latents_of_another_shape():
    z = np.zeros((4, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"z has shape \(4, 3, 3\): expected \[K, B, ...\]"):
        latent.log_weights(stage(), SCORE, VP, X.astype(np.float32), z)
