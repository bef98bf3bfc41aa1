"""Scale and shift of latents, the value around a frozen autoencoder, losses on its latents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import train_step
from research.diffusion import latent, losses, processes

RNG = np.random.default_rng(0)
MEAN = (1000 + 0.5 * RNG.normal(size=(70, 2, 3, 2)) * [1, 4]).astype(np.float32)
LOG_VAR = RNG.normal(size=MEAN.shape).astype(np.float32)
PARTS = (slice(0, 32), slice(32, 64), slice(64, 70))
FLOW = processes.flow()
X = RNG.normal(size=(4, 3)).astype(np.float32)
STAGE_PARAMS = {
    "mean": RNG.normal(size=(3, 2)).astype(np.float32),
    "log_var": RNG.normal(size=(3, 2)).astype(np.float32),
}


def moments_of(batches, **options):
    return latent.measure(lambda part: part, batches, **options)


def encode_with(params, x):
    return x @ params["mean"], x @ params["log_var"]


def stage_of(params, **scaling):
    return latent.FirstStage(
        lambda x: encode_with(params, x), lambda z: z @ params["mean"].T, **scaling
    )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("law", ["sampled", "mean", "vectors"])
def test_measured_scale_is_that_of_the_whole_set_in_float64(law, per_channel):
    """Latents around 1000: sums of squares in float32 would keep no digit of the spread."""
    if law == "vectors":
        batches = [MEAN[part] for part in PARTS]
    else:
        batches = [(jnp.asarray(MEAN[part]), LOG_VAR[part]) for part in PARTS]
    options = {} if law == "sampled" else {"sampled": False}
    found = moments_of(batches, **({"per_channel": True} if per_channel else {}), **options)
    axes = (0, 1, 2) if per_channel else None
    variance = MEAN.astype(np.float64).var(axes)
    if law == "sampled":
        variance = variance + np.exp(LOG_VAR.astype(np.float64)).mean(axes)
    np.testing.assert_allclose(found.scale, 1 / np.sqrt(variance), rtol=1e-10)
    np.testing.assert_allclose(found.shift, MEAN.astype(np.float64).mean(axes), rtol=1e-12)
    assert found.law == law and np.shape(found.scale) == ((2,) if per_channel else ())


def test_scaled_draws_have_unit_variance():
    """The sampled law was measured without a draw; 84,000 draws know their variance to 0.5 %."""
    scaling = moments_of([(MEAN, LOG_VAR)], per_channel=True)
    first = latent.FirstStage(lambda x: x, lambda z: z, scaling.scale, scaling.shift)
    many = tuple(np.repeat(leaf, 100, 0) for leaf in (MEAN, LOG_VAR))
    z = np.asarray(jax.jit(first.to_latent)(many, jax.random.key(0)), np.float64)
    np.testing.assert_allclose(z.var((0, 1, 2)), 1, rtol=0.02)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=0.02)
    means = np.asarray(first.to_latent((MEAN, LOG_VAR)), np.float64)
    assert (means.var((0, 1, 2)) < 0.9).all()  # the mean's law is narrower


@pytest.mark.parametrize("scale, shift", [(2.0, 0.5), (np.array([2.0, -0.3]), np.array([0.3, 1]))])
def test_into_the_scaled_space_and_back(scale, shift, x64):
    first = stage_of(jax.tree.map(np.float64, STAGE_PARAMS), scale=scale, shift=shift)
    mean, log_var = encode_with(STAGE_PARAMS, X.astype(np.float64))
    z = first.to_latent(X.astype(np.float64))
    np.testing.assert_allclose(z, (mean - shift) * scale, rtol=1e-12)
    np.testing.assert_allclose(first.to_image(z), mean @ STAGE_PARAMS["mean"].T, rtol=1e-10)
    np.testing.assert_allclose(first.unscaled(first.scaled(mean)), mean, rtol=1e-12)
    jacobian = jax.jacfwd(lambda z: first.scaled(z[None])[0])(mean[0])
    np.testing.assert_allclose(first.log_volume((2,)), np.linalg.slogdet(jacobian)[1], rtol=1e-12)
    np.testing.assert_allclose(first.log_volume((5, 2)), 5 * first.log_volume((2,)), rtol=1e-12)
    keys = jax.random.split(jax.random.key(1), 4)
    noise = (first.unscaled(first.to_latent(X, keys)) - mean) / np.exp(log_var / 2)
    alone = first.unscaled(first.to_latent(X[2:3], keys[2:3])) - mean[2:3]
    np.testing.assert_allclose(alone / np.exp(log_var[2:3] / 2), noise[2:3], rtol=1e-6)
    assert 0.2 < np.std(noise) < 2


def test_a_scale_of_one_is_the_default_and_vectors_are_what_they_are():
    first = latent.FirstStage(lambda x: x, lambda z: z)
    assert first.scale == 1 and first.shift == 0
    np.testing.assert_array_equal(first.to_latent(X, jax.random.key(0)), X)
    assert first.to_latent(X.astype(jnp.bfloat16)).dtype == jnp.float32


def linear(params, x, t, labels, rng):
    return x @ params + t[:, None]


@pytest.mark.parametrize("sampled", [True, False])
def test_a_loss_on_images_is_that_on_their_latents(sampled):
    """Written by hand: the keys of `draws.example_keys`, halves of each example's."""
    inner = losses.denoising_score_matching(FLOW, linear, "velocity")
    first = stage_of(STAGE_PARAMS, scale=0.7, shift=0.1)
    options = {} if sampled else {"sampled": False}
    loss_fn = latent.on_latents(inner, first, **options)
    keys = jax.random.split(jax.random.key(2), 4)
    own, rest = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
    params, mask = np.eye(2, dtype=np.float32), np.array([1, 0, 1, 1], np.float32)
    z = first.to_latent(X, own if sampled else None)

    @jax.jit
    def both(x, z):
        return (
            loss_fn(params, {}, keys, {"image": x, "mask": mask}),
            inner(params, {}, rest, {"image": z, "mask": mask}),
        )

    (value, aux), (expected, expected_aux) = both(X, z)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert aux.weight == expected_aux.weight == 3


def test_the_first_stage_in_the_model_state_is_trained_by_nobody():
    """Its gradient is zero, a step leaves it as it was, and microbatches make the whole."""
    inner = losses.denoising_score_matching(FLOW, linear, "velocity")
    loss_fn = latent.on_latents(inner, lambda state: stage_of(state["first_stage"], scale=0.7))
    params = np.eye(2, dtype=np.float32)
    state = train_step.init_state(
        params, optax.sgd(0.1), jax.random.key(0), {"first_stage": STAGE_PARAMS}
    )
    steps = [
        train_step.make_train_step(loss_fn, optax.sgd(0.1), accumulate=num, rng_per_example=True)
        for num in (1, 2)
    ]

    @jax.jit
    def all_of(state):
        of_state = lambda own: loss_fn(params, own, jax.random.key(1), {"image": X})[0]
        new = [step(state, {"image": X})[0] for step in steps]
        return jax.grad(of_state)(state.model_state), *new

    gradient, whole, split = all_of(state)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)
    for name, leaf in STAGE_PARAMS.items():
        np.testing.assert_array_equal(whole.model_state["first_stage"][name], leaf)
    assert np.abs(whole.params - params).max() > 1e-3
    np.testing.assert_allclose(split.params, whole.params, rtol=1e-5)


DEAD = np.stack([np.arange(4.0), np.ones(4)], 1)
BAD = {
    "no batch": (lambda: moments_of([]), "batches: expected at least one, got none"),
    "not finite": (
        lambda: moments_of([DEAD, DEAD * np.nan]), "batch 1 of batches: its latents are not finite",
    ),
    "variance not finite": (
        lambda: moments_of([(DEAD, DEAD * 1e4)]), "batch 0 of batches: its latents are not finite",
    ),
    "rank": (lambda: moments_of([np.arange(4.0)]), r"latents \[4\]: expected \[B, ..., C\]"),
    "dead channel": (
        lambda: moments_of([DEAD], per_channel=True), r"channels \[1\] of the latents do not vary",
    ),
    "dead": (lambda: moments_of([DEAD[:, 1:]]), "^the latents do not vary: they have no scale"),
    "scale": (
        lambda: stage_of(STAGE_PARAMS, scale=0.0), r"scale=0.0: expected finite numbers but 0",
    ),
    "shift": (
        lambda: stage_of(STAGE_PARAMS, shift=np.inf), r"shift=inf: expected finite numbers$",
    ),
    "rank of the scale": (
        lambda: stage_of(STAGE_PARAMS, scale=np.ones((1, 2))),
        r"scale has shape \(1, 2\): expected a number or \[C\]",
    ),
    "channels": (
        lambda: stage_of(STAGE_PARAMS, scale=np.ones(3)).to_latent(X),
        r"latents \[4, 2\]: expected 3 channels, as scales",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
