"""Convolutional encoder and decoder: shapes, counts by hand, labels, images alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vae.networks import heads, single
from research.vae.networks.convolutional import Convolutional

MODEL = Convolutional((8, 12, 3), latent_dim=5, channels=(4, 6), width=7, num_classes=2)
X = jax.random.bernoulli(jax.random.key(1), 0.4, (3, 8, 12, 3))
LABELS = jnp.array([0, 1, 0])


@functools.cache
def start():
    return jax.jit(MODEL.init)(jax.random.key(0), X, LABELS)


@jax.jit
def logits(params, x, labels):
    return MODEL.apply(params, x, labels).logits


def test_size_by_hand():
    """Convolutions of 4x4 down; dense with the label; 3x3 up to the finest, and the head."""
    down = 16 * 3 * 4 + 4 + 16 * 4 * 6 + 6
    dense = (2 * 3 * 6 + 2) * 7 + 7 + 2 * (7 * 5 + 5) + (5 + 2) * 7 + 7 + 7 * 36 + 36
    up = 9 * 6 * 4 + 4 + 9 * 4 * 4 + 4 + 9 * 4 * 3 + 3
    init = lambda x: MODEL.init(jax.random.key(0), x, LABELS)["params"]
    assert testing.count_parameters(init, X) == down + dense + up


def test_an_image_and_its_label_are_seen_alone():
    params = start()
    out = logits(params, X, LABELS)
    assert out.shape == (3, 8, 12, 3)
    for changed in (
        logits(params, X.at[1].set(True), LABELS),
        logits(params, X, LABELS.at[1].set(0)),
    ):
        moved = np.abs(changed - out).max((1, 2, 3))
        assert moved[1] > 1e-5
        np.testing.assert_allclose(moved[[0, 2]], 0, atol=1e-6)


def test_terms_have_the_law_of_the_head():
    model = Convolutional((8, 8, 1), latent_dim=2, channels=(4,), width=8, head=heads.gaussian(0.5))
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def terms(x, keys):
        encode = lambda x: model.apply(params, x, method="encode")
        decode = lambda z: model.apply(params, z, method="decode")
        return single.terms(encode, decode, x, keys, num=2), decode(encode(x)[0]).mean

    found, mean = terms(x, jax.random.split(jax.random.key(1), 3))
    assert found.log_likelihood.shape == (2, 3)
    np.testing.assert_allclose(model.apply(params, x).mean, mean, rtol=1e-5, atol=1e-6)
    # At the start the latent tells little: each term is near that of the mean image.
    expected = -0.5 * np.square((x - mean) / 0.5) - np.log(0.5) - 0.5 * np.log(2 * np.pi)
    assert (np.abs(found.log_likelihood - expected.sum((1, 2, 3))[None]) < 300).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Convolutional((6, 8, 1)).init(jax.random.key(0), X), "multiples of 4, which the"),
        (
            lambda: Convolutional((8, 8, 1), channels=()).init(jax.random.key(0), X),
            "multiples of 1",
        ),
        (lambda: MODEL.init(jax.random.key(0), X[:, :4], LABELS), r"x \[3, 4, 12, 3\]: expected"),
        (lambda: MODEL.init(jax.random.key(0), X), "labels are missing"),
        (lambda: MODEL.init(jax.random.key(0), X, LABELS + 1), "labels goes from 1 to 2"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
