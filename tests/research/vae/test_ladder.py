"""The ladder: published counts, one level is the plain VAE, order, temperature, draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vae import gaussians
from research.vae.networks import heads, single
from research.vae.networks.ladder import Bottleneck, Ladder

X = jax.random.bernoulli(jax.random.key(1), 0.4, (2, 4, 4, 1))
KEYS = jax.random.split(jax.random.key(2), 2)
ONE = Ladder((4, 4, 1), sizes=(4,), num_blocks=(2,), num_latents=(1,), width=8, latent_dim=2)
TWO = Ladder((4, 4, 1), sizes=(1, 4), num_blocks=(1, 2), num_latents=(2, 1), width=8, latent_dim=2)


@functools.cache
def started(model):
    return jax.jit(lambda: model.init(jax.random.key(0), X, KEYS, method="terms"))()


def start(model, move=0.0):
    rng = np.random.default_rng(0)
    moved = lambda p: p + np.float32(move * rng.normal(size=p.shape))
    return jax.tree.map(moved, started(model))


@functools.partial(jax.jit, static_argnames=("model", "method", "num"))
def run(model, params, *args, method="terms", num=None, **options):
    options |= {} if num is None else {"num": num}
    return model.apply(params, *args, method=method, **options)


@pytest.mark.parametrize(
    "fields, count",
    [
        ({}, 39_145_700 - 100 * 385 + 3 * 385),
        (
            dict(num_blocks=(6, 7, 9, 10, 16), num_latents=(2, 5, 10, 20, 41), width=512),
            119_280_868 - 100 * 513 + 3 * 513,
        ),
    ],
)
def test_sizes_of_the_published_networks(fields, count):
    """The authors' modules for CIFAR-10 and ImageNet-32, whose heads have 100 numbers a pixel."""
    model = Ladder((32, 32, 3), **fields)
    init = lambda x: model.init(jax.random.key(0), x, KEYS[:1], method="terms")["params"]
    assert (
        testing.count_parameters(init, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)) == count
    )


def test_one_level_is_the_plain_vae():
    """At the start its prior is a standard normal; what is left are encoder and decoder."""
    params = start(ONE)
    h = jnp.zeros((2, 4, 4, 8))

    def encode(x):
        bound = ONE.bind(params)
        given = jnp.concatenate([h, bound.climb(x)[0]], -1)
        mean, scale = jnp.split(bound.down[0][0].posterior(given), 2, -1)
        return mean, 2 * scale

    def decode(z):
        bound = ONE.bind(params)
        block = bound.down[0][0]
        return bound.head(bound.output(block.residual(h + block.project(z))))

    def draw(mean, log_var, keys):  # log-likelihood and log-ratio of one draw for each image
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (4, 4, 2)))
        z = mean + jnp.exp(log_var / 2) * noise(keys)
        ratio = gaussians.log_prob(z, mean, log_var) - gaussians.log_prob(z)
        return decode(z).log_prob(X).sum((1, 2, 3)), ratio.sum((1, 2, 3))

    @jax.jit
    def plain(x):
        mean, log_var = encode(x)
        keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(KEYS)
        kl = gaussians.kl(mean, log_var).sum((1, 2, 3))
        draws = jax.vmap(draw, (None, None, 0))(mean, log_var, keys)
        return kl, draws, single.terms(encode, decode, x, KEYS, num=1)

    kl, (log_likelihood, log_ratio), terms = plain(X)
    found = run(ONE, params, X, KEYS, num=3)
    expected = np.broadcast_to(kl[None, :, None], (3, 2, 1))
    np.testing.assert_allclose(found.kl, expected, rtol=1e-4)
    np.testing.assert_allclose(found.log_likelihood, log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(found.log_ratio[..., 0], log_ratio, rtol=1e-3, atol=1e-3)
    assert np.abs(found.log_ratio[0] - found.log_ratio[1]).min() > 1e-6
    np.testing.assert_allclose(terms.kl[0], found.kl[0], rtol=1e-4)


def test_divergences_are_means_of_log_ratios_and_examples_are_alone():
    """Each of three blocks; 400 draws within 5 standard errors. The batch reversed is the same."""
    params = start(TWO, move=0.1)
    keys = jax.random.split(jax.random.key(3), 400)
    x = jnp.concatenate([jnp.broadcast_to(X[:1], (399, *X.shape[1:])), X[1:]])
    found = run(TWO, params, x, keys)
    assert found.kl.shape == (1, 400, 3) and (np.asarray(found.kl) > 0).all()
    gap = np.asarray(found.kl - found.log_ratio)[0]
    assert (np.abs(gap.mean(0)) < 5 * gap.std(0) / 20).all()
    other = run(TWO, params, x[::-1], keys[::-1])
    np.testing.assert_allclose(other.log_weights[:, ::-1], found.log_weights, rtol=1e-4)


def test_samples_follow_temperature():
    params = start(TWO, move=0.3)
    draw = functools.partial(run, TWO, params, KEYS, method="sample")
    cold = draw(temperature=0.0).logits
    np.testing.assert_allclose(cold[0], cold[1], rtol=1e-5, atol=1e-5)  # no noise is left
    warm = draw().logits
    np.testing.assert_array_equal(warm, draw(temperature=1.0).logits)
    assert np.abs(warm[0] - warm[1]).max() > 1e-2
    # The first latents are linear in temperature: a small one moves images in proportion.
    small, half = (np.asarray(draw(temperature=t).logits - cold) for t in (2e-3, 1e-3))
    np.testing.assert_allclose(small, 2 * half, rtol=0.1, atol=1e-3)


def test_the_encoder_leaves_an_image_of_each_size():
    params = start(TWO, move=0.1)
    seen = run(TWO, params, X, method="climb")
    assert [image.shape for image in seen] == [(2, 1, 1, 8), (2, 4, 4, 8)]

    @jax.jit
    def by_hand(x):
        bound = TWO.bind(params)
        fine = bound.up[1][0](bound.stem(x.astype(jnp.float32)))
        coarse = bound.up[1][1](fine).mean((1, 2), keepdims=True)
        return bound.up[0][0](coarse), fine

    for image, expected in zip(seen, by_hand(X), strict=True):
        np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)


def test_starts_of_the_convolutions():
    """Uniform within 1 / sqrt(fan-in); the last of a residual smaller by the root of the depth."""
    x = jnp.zeros((1, 4, 4, 64))
    for last in (1.0, 0.25, 0.0):
        block = Bottleneck(32, 128, True, *([] if last == 1.0 else [last]))
        made = jax.jit(block.init)(jax.random.key(0), x)["params"]
        for name, fan_in, factor in [
            ("conv0", 64, 1.0),
            ("conv1", 9 * 32, 1.0),
            ("conv3", 32, last),
        ]:
            limit = (factor / fan_in) ** 0.5
            largest = float(jnp.abs(made[name]["kernel"]).max())
            assert 0.98 * limit <= largest <= limit * (1 + 1e-6)
        assert made["conv2"]["kernel"].shape[0] == 3
    narrow = jax.eval_shape(Bottleneck(32, 128, False).init, jax.random.key(0), x)["params"]
    assert narrow["conv1"]["kernel"].shape[0] == 1


def init(x=X, keys=KEYS, **fields):
    return TWO.clone(**fields).init(jax.random.key(0), x, keys, method="terms")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: init(sizes=(1, 8)), "expected the last size to be both sides of the image"),
        (lambda: init(image_shape=(4, 8, 1)), "expected the last size to be both sides of the"),
        (lambda: init(sizes=(3, 4)), r"sizes=\(3, 4\): expected each to divide the next"),
        (lambda: init(sizes=(4, 4)), "expected each to divide the next"),
        (lambda: init(num_blocks=(1,)), r"num_blocks=\(1,\): expected at least 1 for each of 2"),
        (lambda: init(num_latents=(0, 1)), r"num_latents=\(0, 1\): expected at least 1 for each"),
        (lambda: init(X[:, :2]), r"x \[2, 2, 4, 1\]: expected \[B, 4, 4, 1\]"),
        (lambda: init(keys=KEYS[:1]), "expected 2 keys, one an example"),
        (
            lambda: TWO.init(jax.random.key(0), X, KEYS, 0, method="terms"),
            "num=0: expected a positive whole number of draws",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_doubling_by_four_repeats_pixels():
    wide = TWO.clone(head=heads.gaussian())
    params = start(wide)
    only = {"params": {**params["params"], "start4": jnp.zeros((4, 4, 8))}}
    means = run(wide, only, KEYS, method="sample", temperature=0.0).mean
    assert means.shape == (2, 4, 4, 1)
    centre = np.asarray(means)[:, 1:3, 1:3]
    np.testing.assert_allclose(centre, np.broadcast_to(centre[:, :1, :1], centre.shape), atol=1e-5)


def test_a_block_weighs_by_the_prior_that_it_draws_from():
    """Scales are logarithms of standard deviations, in the divergence as in the draws."""
    params = start(TWO, move=0.3)

    @jax.jit
    def parts(x):
        bound = TWO.bind(params)
        h = jnp.broadcast_to(bound.starts[0][None], (2, 1, 1, 8))
        both = jnp.concatenate([h, bound.climb(x)[0]], -1)
        block = bound.down[0][0]
        return block.prior(h)[..., :4], block.posterior(both)

    prior, posterior = (np.float64(values) for values in parts(X))
    (mean_p, scale_p), (mean, scale) = (np.split(values, 2, -1) for values in (prior, posterior))
    ratio = np.exp(2 * (scale - scale_p))
    kl = 0.5 * (ratio - 1) + scale_p - scale + 0.5 * (mean - mean_p) ** 2 / np.exp(2 * scale_p)
    found = run(TWO, params, X, KEYS).kl[0, :, 0]
    np.testing.assert_allclose(found, kl.sum((1, 2, 3)), rtol=1e-4)
