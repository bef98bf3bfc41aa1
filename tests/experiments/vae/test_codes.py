"""Codebooks of patches: losses and usage by NumPy, and what of them moves the codes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.vae import _codes
from research.vae import quantize

KEY = jax.random.key(0)
MODEL = _codes.Autoencoder(width=3, dim=2)
X = np.random.default_rng(0).uniform(-1, 1, (5, 16, 4))


def test_patches_are_squares_of_pixels_in_order():
    images = np.random.default_rng(1).integers(0, 17, (2, 8, 8, 1)).astype(np.uint8)
    found = _codes.patches(images)
    assert found.shape == (2, 16, 4)
    for row in range(4):
        for column in range(4):
            part = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = part.reshape(2, 4) / 8 - 1
            np.testing.assert_allclose(found[:, 4 * row + column], expected, rtol=1e-6)
    assert _codes.patches(np.full((1, 8, 8, 1), 16)).max() == 1


def through(layers, x):
    """Two dense layers with a silu between, by NumPy."""
    first, last = (layers[f"layers_{index}"] for index in (0, 2))
    h = x @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    return (h / (1 + np.exp(-h))) @ np.asarray(last["kernel"]) + np.asarray(last["bias"])


def codes_of(kind, num_codes=6):
    return _codes.Codes(kind, num_codes, decay=0.75, commitment=0.25)


@functools.cache
def made(kind):
    """Parameters with all biases moved, and a codebook that has seen vectors."""
    params = jax.jit(lambda key: _codes.init(MODEL, codes_of(kind), key, (16, 4)))(KEY)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    state = quantize.init(KEY, 6, 2)
    state = jax.tree.map(lambda leaf: leaf.astype(float), state)
    z = through(params["net"]["down"], X)
    indices = np.arange(80).reshape(5, 16) % 5  # code 5 has none and is dead
    return params, quantize.ema_update(state, z, indices, 0.5)


@pytest.mark.parametrize("kind", ["gradient", "average", "restart"])
def test_the_loss_and_what_it_moves(x64, kind):
    params, state = made(kind)
    loss_fn = _codes.loss(MODEL, codes_of(kind))
    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (value, aux), grads = step(params, state, KEY, {"patches": jnp.asarray(X)})

    z = through(params["net"]["down"], X)
    before = quantize.restart(KEY, state, z) if kind == "restart" else state
    book = np.asarray(params["codebook"] if kind == "gradient" else before.codebook)
    indices = ((z[:, :, None] - book) ** 2).sum(-1).argmin(-1)
    q = book[indices]
    error = ((through(params["net"]["up"], q) - X) ** 2).sum((1, 2)).mean()
    distance = ((z - q) ** 2).sum((1, 2)).mean()
    weight = 1.25 if kind == "gradient" else 0.25
    assert float(value) == pytest.approx(error + weight * distance, rel=1e-9)
    assert float(aux.metrics["error"]) == pytest.approx(error, rel=1e-9)
    shares = np.bincount(indices.ravel(), minlength=6) / 80
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert float(aux.metrics["perplexity"]) == pytest.approx(np.exp(entropy), rel=1e-9)
    assert float(aux.weight) == 5

    after = aux.model_state
    if kind == "gradient":
        pull = np.stack([2 * (q - z)[indices == k].sum(0) / 5 for k in range(6)])
        np.testing.assert_allclose(grads["codebook"], pull, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(after.codebook, state.codebook)
    else:
        assert set(grads) == {"net"}
        expected = quantize.ema_update(before, z, indices, 0.75)
        np.testing.assert_allclose(after.codebook, expected.codebook, rtol=1e-9)
        np.testing.assert_allclose(after.counts, expected.counts, rtol=1e-9)
        moved = np.abs(np.asarray(before.codebook - state.codebook)).max(1) > 0
        assert list(moved) == [False] * 5 + [kind == "restart"]
    # The encoder's gradient is that of its distance, and of the decoder's input across the codes.
    across = encoder_gradient(params["net"], q, q - z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), grads["net"], across)


@jax.jit
@jax.grad
def encoder_gradient(net, q, gap):
    z = MODEL.apply({"params": net}, jnp.asarray(X), method="encode")
    shown = MODEL.apply({"params": net}, z + gap, method="decode")
    return (jnp.square(shown - X).sum() + 0.25 * jnp.square(z - q).sum()) / 5


def test_a_codebook_of_gradients_starts_from_a_standard_normal():
    make = jax.jit(lambda codes: _codes.init(MODEL, codes, KEY, (16, 4)), static_argnums=0)
    many = make(codes_of("gradient", 4000))["codebook"]
    assert many.shape == (4000, 2)
    assert float(many.std()) == pytest.approx(1, abs=0.03) and abs(float(many.mean())) < 0.05
    assert set(jax.eval_shape(lambda: make(codes_of("average")))) == {"net"}
    state = quantize.init(KEY, 6, 2)
    params = {"codebook": "trained"}
    assert _codes.codebook(codes_of("gradient"), params, state) == "trained"
    assert _codes.codebook(codes_of("restart"), {}, state) is state.codebook


class Sums(nn.Module):
    """Encodes a patch as its sum, decodes it as four quarters of the code."""

    def encode(self, x):
        return x.sum(-1, keepdims=True)

    def decode(self, z):
        return jnp.broadcast_to(z / 4, (*z.shape[:-1], 4))


def test_usage_is_counted_over_all_images_and_the_error_over_the_test_set():
    """Codes 0, 4 and 100: of 48 patches 36 are black and 12 white, and none is of code 2."""
    every = np.zeros((3, 16, 4), np.float32)
    every[:, :4] = 1
    test = every[:1].copy()
    test[0, 0, 0] = 1.5  # 4.5, shown as four times 1: an error of 0.25
    book = np.array([[0.0], [4.0], [100.0]], np.float32)
    usage, shares = _codes.judge(Sums(), {"net": {}}, book, every, test)
    np.testing.assert_allclose(shares, [0.75, 0.25, 0])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert usage.error == pytest.approx(0.25, rel=1e-6)
    assert usage.dead == pytest.approx(1 / 3, rel=1e-6)
    assert usage.perplexity == pytest.approx(np.exp(entropy), rel=1e-6)
