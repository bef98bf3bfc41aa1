"""A round of an autoencoder and a critic: the measured weight, late start, parts and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import per_device, testing
from research.gan import games, losses, patches, training
from research.text_to_image import first_stage, first_stage_game
from research.vae.networks import autoencoder

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 4, 4, 2))
D = 32
OWN = {"in": RNG.normal(size=(2, 3)) / 2, "out": RNG.normal(size=(3, 2)) / 2}
CRITIC = {"filter": RNG.normal(size=2)}
RATES = {"generator": 0.1, "discriminator": 0.2}
LAST = ("autoencoder", "out")
OPTIMIZERS = training.Optimizers(*(optax.sgd(rate) for rate in RATES.values()))


def encode(params, x):
    """A posterior so narrow that its draws are its mean."""
    mean = jnp.einsum("bhwc,cd->bhwd", x, params["in"])
    return mean, jnp.full_like(mean, -90.0)


def decode(params, z):
    return jnp.einsum("bhwd,dc->bhwc", z, params["out"])


def discriminate(params, model_state, rng, images, batch):
    """[B, 4, 4] logits, linear in the images: the critic's gradient is in closed form."""
    return jnp.einsum("bhwc,c->bhw", images, params["filter"]), model_state


OBJECTIVE = first_stage.Objective(encode, decode, jnp.square, kl_weight=1e-4)


def play(last=LAST, objective=OBJECTIVE, critic=discriminate, **options):
    return first_stage_game.Round(objective, critic, last=last, **options)


def make_state(critic=CRITIC, own=OWN, ema=False):
    params = {"generator": {"autoencoder": own}, "discriminator": critic}
    params = jax.tree.map(jnp.asarray, params)
    return training.init_state(params, OPTIMIZERS, jax.random.key(0), ema=ema)


def rounds_of(what, state, num=1, **options):
    step = jax.jit(first_stage_game.make_step(what, OPTIMIZERS, **options))
    for _ in range(num):
        state, metrics = step(state, {"images": IMAGES})
    return state, metrics


def by_hand(critic, weight, adaptive):
    """One round in NumPy: hinge over patches, L2, the weight by the last layer's gradients."""
    z = IMAGES @ OWN["in"]
    y = z @ OWN["out"]
    real, fake = IMAGES @ critic["filter"], y @ critic["filter"]
    to_filter = -np.einsum("bhw,bhwc->c", real < 1, IMAGES) / real.size
    to_filter += np.einsum("bhw,bhwc->c", fake > -1, y) / fake.size
    moved = critic["filter"] - RATES["discriminator"] * to_filter
    # The generator sees the critic that has moved.
    own = 2 * (y - IMAGES) / IMAGES.size
    judged = -np.broadcast_to(moved, y.shape) / (y.size / 2)
    at_last = [np.einsum("bhwd,bhwc->dc", z, gradient) for gradient in (own, judged)]
    ratio = np.linalg.norm(at_last[0]) / (np.linalg.norm(at_last[1]) + 1e-4)
    factor = weight * (np.clip(ratio, 0, 1e4) if adaptive else 1)
    total = own + factor * judged
    to_in = np.einsum("bhwc,bhwd->cd", IMAGES, total @ OWN["out"].T)
    to_in += 1e-4 / D * np.einsum("bhwc,bhwd->cd", IMAGES, z) / len(IMAGES)
    moved_own = {
        "in": OWN["in"] - RATES["generator"] * to_in,
        "out": OWN["out"] - RATES["generator"] * np.einsum("bhwd,bhwc->dc", z, total),
    }
    value = np.square(IMAGES - y).mean() - factor * (y @ moved).mean()
    rate = 0.5 * (z**2 + np.exp(-90.0) - 1 + 90).sum() / len(IMAGES)
    return {"filter": moved}, moved_own, factor, value + 1e-4 / D * rate


@pytest.mark.parametrize(
    "critic, options",
    [
        (CRITIC, {}),
        (CRITIC, {"weight": 0.8}),
        (CRITIC, {"last": None, "weight": 0.3}),
        ({"filter": np.zeros(2)}, {"loss": patches.OnPatches(losses.hinge)}),
    ],
)
def test_a_round_by_hand(critic, options, x64):
    """The weight is a constant to the gradient: else the second term would have another."""
    state, metrics = rounds_of(play(**options), make_state(critic))
    adaptive = options.get("last", LAST) is not None
    moved, own, factor, value = by_hand(critic, options.get("weight", 0.5), adaptive)
    np.testing.assert_allclose(metrics["critic_weight"], factor, rtol=1e-10)
    np.testing.assert_allclose(metrics["generator_loss"], value, rtol=1e-10)
    expected = {"generator": {"autoencoder": own}, "discriminator": moved}
    testing.assert_trees_close(state.params, expected, rtol=1e-10)
    total = metrics["generator_loss"] + metrics["discriminator_loss"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-12)
    assert state.step == 1 and metrics["weight"] == 4


def test_a_weight_is_at_most_ten_thousand(x64):
    """A critic without a slope: the ratio alone would be beyond it."""
    flat = lambda params, state, rng, x, batch: (0 * x[..., 0] + params["filter"][0], state)
    large = {name: 100 * leaf for name, leaf in OWN.items()}
    _, metrics = rounds_of(play(critic=flat, weight=1.0), make_state(own=large))
    assert metrics["critic_weight"] == 1e4


def test_the_critic_starts_late(x64):
    """Until then it stands, and the autoencoder is trained as if there were none."""
    late, metrics = rounds_of(play(start=2), make_state(), num=2)
    testing.assert_trees_equal(late.params["discriminator"], jax.tree.map(jnp.asarray, CRITIC))
    assert metrics["critic_weight"] == metrics["discriminator_loss"] == 0
    alone, _ = rounds_of(play(last=None, weight=0.0), make_state(), num=2)
    testing.assert_trees_close(late.params["generator"], alone.params["generator"], rtol=1e-10)
    third, metrics = rounds_of(play(start=2), late)
    assert metrics["critic_weight"] > 0
    changed = np.abs(third.params["discriminator"]["filter"] - CRITIC["filter"])
    assert changed.min() > 1e-3


def test_parts_are_the_whole_where_the_weight_is_given(x64):
    objective = first_stage.Objective(encode, decode, features=lambda x: [x, jnp.tanh(x)])
    what = play(last=None, objective=objective)
    options = {"rng_per_example": True, "ema_decay": 0.9}
    whole = rounds_of(what, make_state(ema=True), 2, **options)
    parts = rounds_of(what, make_state(ema=True), 2, accumulate=2, **options)
    testing.assert_trees_close(parts, whole, rtol=1e-10, atol=1e-13)
    assert set(whole[0].ema) == {"generator"}


def test_two_devices_measure_the_weight_of_the_whole(x64):
    whole = rounds_of(play(), make_state(), 2)
    mapped = per_device.pmap_step(
        lambda axis: first_stage_game.make_step(play(), OPTIMIZERS, axis_name=axis)
    )
    state = mapped.place_state(make_state())
    for _ in range(2):
        state, metrics = mapped(state, {"images": IMAGES})
    testing.assert_trees_close((state, metrics), whole, rtol=1e-10, atol=1e-13)


def test_half_precision_is_trained_in_float32():
    state, metrics = rounds_of(play(), make_state(), compute_dtype=jnp.bfloat16)
    assert state.params["discriminator"]["filter"].dtype == jnp.float32
    expected, _ = rounds_of(play(), make_state())
    testing.assert_trees_close(state.params, expected.params, rtol=0.02, atol=2e-3)
    assert metrics["critic_weight"].dtype == jnp.float32


def test_the_published_networks_play():
    """One compiled round of a small autoencoder and a critic of patches changes both.

    But the critic's last bias: near 0 its pull to data and away from reconstructions is the same.
    """
    model = autoencoder.Autoencoder((2,), 1, latent_dim=2, image_channels=1, num_groups=2)
    critic = patches.Discriminator(width=2, depth=1)
    x = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
    own = first_stage.init(model, jax.random.key(0), x)
    variables = critic.init(jax.random.key(1), x)
    optimizers = training.Optimizers(optax.adam(1e-3), optax.adam(1e-3))
    params = {"generator": own, "discriminator": variables["params"]}
    state = training.init_state(
        params, optimizers, jax.random.key(0), {"discriminator": variables["batch_stats"]}
    )
    what = first_stage_game.Round(
        first_stage.Objective(**first_stage.networks(model)),
        patches.discriminate(critic),
        last=first_stage.LAST,
    )
    new, metrics = jax.jit(first_stage_game.make_step(what, optimizers))(state, x)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), new.params, params)
    assert not moved["discriminator"].pop("Conv_2").pop("bias")
    assert all(jax.tree.leaves(moved["discriminator"])) and metrics["critic_weight"] > 0
    assert np.mean(jax.tree.leaves(moved["generator"])) > 0.8
    stats = new.model_state["discriminator"]
    assert not jnp.array_equal(stats["BatchNorm_0"]["mean"], 0 * stats["BatchNorm_0"]["mean"])


def normed(params, model_state, rng, images, batch):
    return discriminate(params, model_state, rng, images - images.mean(0, keepdims=True), batch)


def mixed(x):
    return [x - x.mean(0, keepdims=True)]


MIXING = first_stage.Objective(encode, decode, features=mixed)
WHOLE = first_stage.Objective(lambda own, x: encode(own, x - x.mean(0, keepdims=True)), decode)
BAD = {
    "weight": (lambda: play(weight=-1.0), "weight=-1.0: expected a finite number >= 0"),
    "start": (lambda: play(start=-1), "start=-1: expected a whole number >= 0 of rounds"),
    "accumulate": (lambda: rounds_of(play(), None, accumulate=0), "accumulate=0: expected"),
    "measured": (
        lambda: rounds_of(play(), None, accumulate=2),
        r"last=\('autoencoder', 'out'\) measures the weight on a batch: accumulate=2 would",
    ),
    "critic": (
        lambda: rounds_of(play(None, critic=normed), make_state(), accumulate=2),
        "discriminate mixes the examples of a batch .*accumulate=2 needs",
    ),
    "autoencoder": (
        lambda: rounds_of(play(None, WHOLE), make_state(), accumulate=2),
        "the autoencoder mixes the examples of a batch .*accumulate=2 needs",
    ),
    "features": (
        lambda: rounds_of(play(None, MIXING), make_state(), accumulate=2),
        "features mixes the examples of a batch .*accumulate=2 needs",
    ),
    "last": (
        lambda: rounds_of(play(("autoencoder", "head", "kernel")), make_state()),
        r"last=\('autoencoder', 'head', 'kernel'\): the parameters have no autoencoder/head",
    ),
    "model state": (
        lambda: rounds_of(
            play(), make_state().replace(model_state={"generator": {"mean": jnp.zeros(2)}})
        ),
        "the autoencoder has a model state: expected none",
    ),
    "loss": (
        lambda: rounds_of(play(None, loss=Mixed()), make_state(), accumulate=2),
        "the loss mixes pairs of examples",
    ),
}


class Mixed:
    """A loss that is no mean over examples."""

    undecided = 0.0

    def discriminator(self, real, fake):
        return jnp.square(real.mean() - fake.mean())

    generator = discriminator


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()


def test_a_game_of_it_is_one_of_the_topic():
    assert isinstance(play().game, games.Game) and play().loss.loss is losses.hinge
