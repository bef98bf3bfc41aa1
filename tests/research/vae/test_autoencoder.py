"""The image autoencoder: counts of published networks, padding, attention and clipping by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vae.networks import autoencoder
from research.vae.networks.autoencoder import Autoencoder

SMALL = Autoencoder((8, 16), num_blocks=1, num_groups=4)
X = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def drawn(module, x):
    """Parameters of the module's shapes, none of which is 0: kernels by fan-in, scales about 1."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        values = rng.normal(size=leaf.shape) / fan_in**0.5 + (path[-1].key == "scale")
        return values.astype(leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


start = functools.cache(lambda: drawn(SMALL, X))


def count(model):
    init = lambda x: model.init(jax.random.key(0), x)["params"]
    return testing.count_parameters(init, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))


def test_sizes_of_published_networks():
    """Counts of diffusers' modules; encoder and decoder of Stable Diffusion apart."""
    assert count(Autoencoder()) == 83_653_863
    assert count(Autoencoder(point_maps=False)) == 34_163_592 + 49_490_179
    assert count(Autoencoder(latent_dim=16)) == 83_821_011
    vq = autoencoder.PUBLISHED["vq-f4"]
    assert count(vq.shape) + vq.num_codes * vq.shape.latent_dim == 55_322_782
    scales = {name: item.scale for name, item in autoencoder.PUBLISHED.items()}
    assert scales == {"sd1": 0.18215, "sdxl": 0.13025, "vq-f4": 1.0}


def test_images_to_latents_and_back():
    @jax.jit
    def run(params):
        mean, log_var = SMALL.apply(params, X, method="encode")
        return mean, log_var, SMALL.apply(params, mean, method="decode"), SMALL.apply(params, X)

    mean, log_var, images, whole = run(start())
    assert mean.shape == log_var.shape == (2, 4, 6, 4)
    assert images.shape == X.shape
    np.testing.assert_allclose(whole, images, rtol=1e-3, atol=1e-4)
    log_var = run(jax.tree.map(lambda p: 1e3 * p, start()))[1]
    assert log_var.max() == 20 and log_var.min() == -30


def test_vectors_for_a_codebook():
    model = SMALL.clone(gaussian=False)
    made = jax.eval_shape(model.init, jax.random.key(0), X)
    vectors = jax.eval_shape(functools.partial(model.apply, method="encode"), made, X)
    assert vectors.shape == (2, 4, 6, 4)
    assert jax.eval_shape(model.apply, made, X).shape == X.shape


def test_shrinking_pads_at_the_bottom_and_the_right():
    look = functools.partial(
        SMALL.apply, capture_intermediates=True, mutable=["intermediates"], method="encode"
    )
    _, seen = jax.jit(look)(start(), X)
    inside = seen["intermediates"]["encoder"]
    before, after = inside["down0_block0"]["__call__"][0], inside["down0"]["__call__"][0]
    params = start()["params"]["encoder"]["down0"]
    padded = np.pad(before, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = np.asarray(params["bias"]) + sum(
        padded[:, i : i + 8 : 2, j : j + 12 : 2] @ np.asarray(params["kernel"][i, j])
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_attention_of_all_pixels_by_hand(x64):
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4))
    block = autoencoder.SelfAttention(num_groups=2)
    params = drawn(block, x)["params"]
    groups = x.reshape(2, 6, 2, 2)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    h = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(2, 6, 4)
    h = h * params["norm"]["scale"] + params["norm"]["bias"]
    query, key, value = (
        h @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value")
    )
    weights = np.exp(np.einsum("btc,bsc->bts", query, key) / 2)
    weights = weights / weights.sum(-1, keepdims=True)
    mixed = np.einsum("bts,bsc->btc", weights, value)
    expected = mixed @ params["out"]["kernel"] + params["out"]["bias"]
    found = jax.jit(block.apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-9)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: SMALL.init(jax.random.key(0), X[:, :7]),
            "images of 7 x 12: expected multiples of 2",
        ),
        (
            lambda: SMALL.clone(channels=(4, 7)).init(jax.random.key(0), X),
            r"channels=\(4, 7\): expected multiples of num_groups=",
        ),
        (lambda: SMALL.clone(num_groups=0).init(jax.random.key(0), X), "num_groups=0: expected a"),
        (lambda: SMALL.init(jax.random.key(0), X[..., :2]), r"expected \[B, H, W, 3\]"),
        (lambda: SMALL.init(jax.random.key(0), X[0]), r"images \[8, 12, 3\]: expected \[B, H"),
        (lambda: SMALL.init(jax.random.key(0), X[:, :0]), r"images \[2, 0, 12, 3\]: expected"),
        (lambda: SMALL.init(jax.random.key(0), X.astype(int)), "images of type int32: expected fl"),
        (
            lambda: SMALL.apply(start(), X, method="decode"),
            r"latents \[2, 8, 12, 3\]: expected \[B, H, W, 4\]",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
