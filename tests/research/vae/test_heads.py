"""Heads: numbers of a pixel and channel become the likelihood that they name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.vae import likelihoods
from research.vae.networks import heads

OUT = jax.random.normal(jax.random.key(0), (2, 3, 3, 12))
LEVELS = jax.random.randint(jax.random.key(1), (2, 3, 3, 2), 0, 5)


def test_each_head_is_its_likelihood():
    bits, ones = LEVELS[..., :1].repeat(12, -1) % 2, jnp.ones((2, 3, 3, 12))
    scales = [(heads.gaussian(0.3), 0.3), (heads.gaussian(), 1.0)]

    @jax.jit
    def pairs(out):
        both = out.reshape(2, 3, 3, 6, 2)
        learned = likelihoods.Gaussian(both[..., 0], both[..., 1])
        wide = jnp.tile(out, (1, 1, 1, 43))[..., :512]
        parts = jnp.split(out.reshape(2, 3, 3, 2, 6), 3, -1)
        return [
            (heads.BERNOULLI(out).log_prob(bits), likelihoods.Bernoulli(out).log_prob(bits)),
            (
                heads.LEARNED_GAUSSIAN(out).log_prob(ones[..., :6]),
                learned.log_prob(ones[..., :6]),
            ),
            (
                heads.BYTES(wide).log_prob(LEVELS),
                likelihoods.Bytes(wide.reshape(2, 3, 3, 2, 256)).log_prob(LEVELS),
            ),
            (
                heads.logistics(2, 5)(out).log_prob(LEVELS),
                likelihoods.logistic_mixture(*parts, num_levels=5).log_prob(LEVELS),
            ),
            *(
                (
                    head(out).log_prob(ones),
                    likelihoods.Gaussian(out, jnp.log(jnp.float32(scale))).log_prob(ones),
                )
                for head, scale in scales
            ),
        ]

    for found, expected in pairs(OUT):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert heads.logistics().count == 30


def test_what_the_encoder_sees():
    assert heads.BERNOULLI.see(np.array([True, False])).dtype == jnp.float32
    assert heads.BERNOULLI.see(jnp.zeros(2, jnp.bfloat16)).dtype == jnp.float32
    np.testing.assert_array_equal(heads.gaussian().see(jnp.array([0.25])), [0.25])
    np.testing.assert_allclose(heads.BYTES.see(jnp.array([0, 51, 255])), [-1, -0.6, 1], rtol=1e-6)
    np.testing.assert_allclose(heads.logistics(2, 5).see(jnp.array([0, 1, 4])), [-1, -0.5, 1])
    np.testing.assert_allclose(heads.logistics(2).see(jnp.array([0, 51, 255])), [-1, -0.6, 1])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: heads.gaussian(0.0), "scale=0.0: expected a positive standard deviation"),
        (lambda: heads.gaussian(float("nan")), "scale=nan: expected a positive standard"),
        (lambda: heads.logistics(0), "num=0: expected a positive whole number of components"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
