"""Perceptrons: counts of the IWAE paper, weights by quadrature, labels, the start at the mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import testing
from research.vae.networks import heads, perceptrons, single
from research.vae.networks.perceptrons import Perceptron

X = jax.random.bernoulli(jax.random.key(1), 0.4, (4, 3, 2, 1))
KEYS = jax.random.split(jax.random.key(2), 4)
LABELS = jnp.array([0, 1, 2, 1])
TWO = Perceptron((3, 2, 1), latent_dims=(1, 1), hidden=((4,), (3,)))
LABELLED = Perceptron((3, 2, 1), latent_dims=(2, 3), hidden=((4,), (3,)), num_classes=3)


@functools.partial(jax.jit, static_argnames=("model", "method", "num"))
def run(model, params, *args, method="terms", num=None, **options):
    options |= {} if num is None else {"num": num}
    return model.apply({"params": params}, *args, method=method, **options)


def start(model, labels=None, size=1.0):
    init = lambda: model.init(jax.random.key(0), X, KEYS, labels=labels, method="terms")
    made, rng = jax.eval_shape(init), np.random.default_rng(0)
    return jax.tree.map(lambda p: np.float32(size * rng.normal(size=p.shape)), made["params"])


@pytest.mark.parametrize(
    "options, count",
    [
        ({}, 217_300 + 207_984),
        (
            dict(latent_dims=(100, 50), hidden=((200, 200), (100, 100))),
            # 784-200-200-100, 100-100-100-50; 50-100-100-100, 100-200-200-784; means twice
            157_000 + 40_200 + 2 * 20_100 + 2 * 10_100 + 2 * 5_050
            + 5_100 + 10_100 + 2 * 10_100 + 20_200 + 40_200 + 157_584,
        ),
    ],
)  # fmt: skip
def test_sizes_of_the_paper(options, count):
    model = Perceptron((28, 28, 1), **options)
    x, keys = jnp.zeros((1, 28, 28, 1)), jax.random.split(jax.random.key(0), 1)
    init = lambda x: model.init(jax.random.key(0), x, keys, method="terms")["params"]
    assert testing.count_parameters(init, x) == count


def evidence(params, images):
    """p(x) of images [N, 3, 2, 1] under TWO by quadrature over both latents."""
    grid = np.linspace(-8, 8, 161)
    flat = jax.tree.map(np.float64, params)
    dense = lambda p, h: h @ p["kernel"] + p["bias"]
    normal = lambda z, mean, log_var: (
        np.exp(-0.5 * (z - mean) ** 2 / np.exp(log_var)) / np.sqrt(2 * np.pi * np.exp(log_var))
    )
    hidden = np.tanh(dense(flat["decoders_0"]["hidden"]["Dense_0"], grid[:, None]))
    mean, log_var = (dense(flat["decoders_0"][name], hidden) for name in ("mean", "log_var"))
    below = normal(grid[None], mean, log_var)  # [z_2, z_1]
    logits = dense(flat["output"], np.tanh(dense(flat["trunk"]["Dense_0"], grid[:, None])))
    bits = np.asarray(images).reshape(-1, 1, 6)
    image = np.exp(np.where(bits, -np.logaddexp(0, -logits), -np.logaddexp(0, logits)).sum(-1))
    return 0.1**2 * np.einsum("u,uz,bz->b", normal(grid, 0, 0), below, image)


def test_weights_are_unbiased_for_the_evidence():
    """40,000 draws, 4 standard errors, which are at most a tenth."""
    params = start(TWO)
    exact = evidence(params, X)
    found = run(TWO, params, X, KEYS, num=40_000)
    weights = np.exp(np.float64(found.log_weights))
    error = weights.std(0) / 200
    assert (np.abs(weights.mean(0) - exact) < 4 * error + 1e-5 * exact).all()
    assert (error < 0.1 * exact).all()
    gap = np.asarray(found.kl - found.log_ratio)  # that of the layer below is the ratio itself
    assert (np.abs(gap.mean(0)) <= 4 * gap.std(0) / 200).all()
    assert (np.asarray(found.kl)[..., 1] >= 0).all() and gap[..., 1].std() > 1
    assert found.kl.shape == (40_000, 4, 2) and (gap[..., 0] == 0).all()


def test_one_layer_is_the_plain_terms():
    """Under the same noise, which is that of the first of as many keys as layers."""
    model = Perceptron((3, 2, 1), latent_dims=(2,), hidden=((5, 4),))
    params = start(model)

    @jax.jit
    def plain(x):
        encode = lambda x: model.apply({"params": params}, x, method="encode")
        decode = lambda z: model.apply({"params": params}, z, method="decode")
        keys = jax.vmap(lambda key: jax.random.split(key, 1))(KEYS)[:, 0]
        return single.terms(encode, decode, x, keys, num=3)

    expected = plain(X)
    testing.assert_trees_close(run(model, params, X, KEYS, num=3), expected, rtol=1e-4, atol=1e-5)
    assert run(model, params, X, KEYS).kl.shape == (1, 4, 1)


def test_an_example_does_not_depend_on_the_batch():
    params = start(LABELLED, LABELS)
    whole = run(LABELLED, params, X, KEYS, labels=LABELS)
    part = run(LABELLED, params, X[2:], KEYS[2:], labels=LABELS[2:])
    np.testing.assert_allclose(part.log_weights, whole.log_weights[:, 2:], rtol=1e-5)
    terms = lambda labels: run(LABELLED, params, X, KEYS, labels=labels).log_weights[0]
    images = lambda labels: run(
        LABELLED, params, KEYS, labels=labels, method="sample"
    ).logits.reshape(4, -1).max(1)  # fmt: skip
    for numbers in (terms, images):
        moved = np.abs(numbers(LABELS.at[1].set(0)) - numbers(LABELS))
        assert moved[1] > 1e-4 and (moved[[0, 2, 3]] == 0).all()


def test_draws_from_the_prior_have_the_evidence_as_their_law():
    """Frequencies of the 64 images among 20,000, each within 5 standard errors."""
    params = start(TWO, size=0.7)
    keys = jax.random.split(jax.random.key(5), 20_000)
    likelihood = run(TWO, params, keys, method="sample")
    bits = np.asarray(likelihood.sample(jax.random.key(6))).reshape(20_000, 6)
    share = np.bincount(bits @ (2 ** np.arange(6)), minlength=64) / 20_000
    exact = evidence(params, (np.arange(64)[:, None] >> np.arange(6)) & 1)
    assert exact.sum() == pytest.approx(1, abs=1e-6)
    assert (np.abs(share - exact) < 5 * np.sqrt(exact / 20_000)).all()


def test_the_start_at_the_mean_image():
    model = Perceptron((3, 2, 1), latent_dims=(2,), hidden=((4,),))
    params = start(model)
    mean = np.array([0, 0.2, 0.5, 0.7, 0.9, 1]).reshape(3, 2, 1)
    moved = perceptrons.start_at_mean(params, mean)
    silent = {**moved, "output": {**moved["output"], "kernel": 0 * params["output"]["kernel"]}}
    shown = run(model, silent, jnp.zeros((1, 2)), method="decode").mean
    np.testing.assert_allclose(shown[0], np.clip(mean, 1e-3, 1 - 1e-3), rtol=1e-5)
    near = perceptrons.start_at_mean(params, mean, low=0.25)["output"]["bias"]
    np.testing.assert_allclose(np.asarray(near)[[0, 5]], [-np.log(3), np.log(3)], rtol=1e-5)
    np.testing.assert_array_equal(moved["output"]["kernel"], params["output"]["kernel"])
    with pytest.raises(ValueError, match="mean has 5 pixels: expected 6"):
        perceptrons.start_at_mean(params, np.ones(5))


def test_other_heads_fit_the_image():
    model = Perceptron((3, 2, 1), latent_dims=(2,), hidden=((4,),), head=heads.logistics(2))
    x = jnp.arange(24).reshape(4, 3, 2, 1)
    init = lambda: model.init_with_output(jax.random.key(0), x, KEYS, method="terms")
    assert jax.eval_shape(init)[0].log_likelihood.shape == (1, 4)


def init(model, x=X, keys=KEYS, **options):
    return model.init(jax.random.key(0), x, keys, method="terms", **options)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: init(TWO, X[:, :2]), r"x \[4, 2, 2, 1\]: expected \[B, 3, 2, 1\]"),
        (lambda: init(TWO, keys=KEYS[:2]), "expected 4 keys, one an example"),
        (lambda: init(TWO, num=0), "num=0: expected a positive whole number of draws"),
        (lambda: init(TWO, labels=LABELS), "labels are given to a network with num_classes=None"),
        (lambda: init(LABELLED), "labels are missing: expected int .B. in 0 .. 2"),
        (
            lambda: init(LABELLED, labels=LABELS[:2]),
            r"labels \[2\]: expected \[4\], one an example",
        ),
        (lambda: init(LABELLED, labels=LABELS + 1), "labels goes from 1 to 3: expected integers"),
        (
            lambda: init(Perceptron((3, 2, 1), hidden=((4,), (4,)))),
            "expected hidden layers for each",
        ),
        (lambda: init(Perceptron((3, 2, 1), latent_dims=(), hidden=())), "expected hidden layers"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_unknown_labels_outside_give_nan():
    found = run(LABELLED, start(LABELLED, LABELS), X, KEYS, labels=LABELS.at[0].set(-1))
    assert np.isnan(found.elbo[0, 0]) and np.isfinite(found.elbo[0, 1:]).all()
