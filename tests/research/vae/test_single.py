"""Terms of one stochastic layer beside the linear-Gaussian model, where all is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import gaussians, likelihoods, linear
from research.vae.networks import single

RNG = np.random.default_rng(0)
WEIGHTS = np.linalg.qr(RNG.normal(size=(5, 2)))[0] * [2.0, 0.7]  # orthogonal: diagonal posterior
MEAN, X = RNG.normal(size=5), RNG.normal(size=(3, 5))
KEYS = jax.random.split(jax.random.key(0), 3)


@functools.partial(jax.jit, static_argnames=("encode", "decode", "num"))
def terms(encode, decode, x, rng, num=None):
    """`single.terms` as one program; by its own number of draws where none is given."""
    return single.terms(encode, decode, x, rng, *([] if num is None else [num]))


def model():
    return linear.LinearGaussian(jnp.asarray(WEIGHTS), jnp.asarray(MEAN), 0.3)


def decode(z):
    mean = jnp.einsum("bl,dl->bd", z, jnp.asarray(WEIGHTS)) + jnp.asarray(MEAN)[None]
    return likelihoods.Gaussian(mean, 0.5 * jnp.log(0.3))


def encode(x, shift=0.0):
    mean, covariance = model().posterior(x)
    log_var = jnp.log(jnp.diag(covariance))[None]
    return mean + shift, jnp.broadcast_to(log_var + shift, mean.shape)


shifted = functools.partial(encode, shift=0.5)


def test_under_the_exact_posterior_each_weight_is_the_evidence(x64):
    found = terms(encode, decode, jnp.asarray(X), KEYS, num=4)
    evidence = np.broadcast_to(model().log_prob(jnp.asarray(X)), (4, 3))
    np.testing.assert_allclose(found.log_weights, evidence, rtol=1e-10)
    assert found.kl.shape == found.log_ratio.shape == (4, 3, 1)
    one = terms(encode, decode, jnp.asarray(X), KEYS)
    assert one.log_likelihood.shape == (1, 3)
    np.testing.assert_allclose(one.log_weights, evidence[:1], rtol=1e-10)


def test_terms_of_a_wrong_posterior_by_definition(x64):
    """The mean over 4,000 draws is the exact bound within 4 standard errors."""
    found = terms(shifted, decode, jnp.asarray(X), KEYS, num=4000)
    mean, log_var = encode(jnp.asarray(X), 0.5)
    expected = gaussians.kl(mean, log_var).sum(1)
    np.testing.assert_allclose(found.kl, np.broadcast_to(expected[None, :, None], (4000, 3, 1)))
    np.testing.assert_allclose(found.elbo, found.log_likelihood - found.kl[..., 0])
    bound = model().elbo(jnp.asarray(X), mean, jnp.diag(jnp.exp(log_var[0])))
    for values in (found.elbo, found.log_weights):
        error = np.asarray(values).std(0) / np.sqrt(4000)
        assert (np.abs(np.asarray(values).mean(0) - bound) < 4 * error).all()


def test_an_example_does_not_depend_on_the_batch(x64):
    whole = terms(encode, decode, jnp.asarray(X), KEYS, num=2)
    part = terms(encode, decode, jnp.asarray(X[1:]), KEYS[1:], num=2)
    np.testing.assert_allclose(part.log_weights, whole.log_weights[:, 1:], rtol=1e-5)


@pytest.mark.parametrize(
    "keys, num, words",
    [
        (jax.random.key(0), 1, r"rng .*\[\]: expected 3 keys, one an example"),
        (KEYS[:2], 1, r"rng .*\[2\]: expected 3 keys, one an example"),
        (jnp.zeros(3), 1, r"rng float32\[3\]: expected 3 keys"),
        (KEYS, 0, "num=0: expected a positive whole number of draws"),
    ],
)
def test_bad_input(keys, num, words):
    with pytest.raises(ValueError, match=words):
        single.terms(encode, decode, jnp.asarray(X), keys, num)
