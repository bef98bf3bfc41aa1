"""The training loss by hand, at every step of a table; prompts left out; fresh parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import draws, losses, weightings
from research.text_to_image import schedules, training
from research.text_to_image.model import Model
from tests.research.text_to_image import cases

KEY = jax.random.key(0)
Z = cases.wave(3, 2, 2, 4)
TOKENS = cases.tokenizer().encode(["a red square", "sun", "b"])


@dataclasses.dataclass(frozen=True)
class _Plain:
    """Stands for a model: data of the text's first tokens, so that all is seen in the loss."""

    schedule: schedules.Schedule
    text_encoder_2: None = None
    unet: object = None

    def tokens(self, texts):
        return np.full((len(texts), 9), 7)

    def encode_text(self, params, tokens):
        return params["text_encoder"] * tokens[:, :2].astype(float)

    def predict(self, params, x, steps, context):
        extra = context.sum(1) + 1e-3 * steps
        return params["unet"] * x + extra[:, None, None, None].astype(x.dtype)


def _by_hand(schedule, key, null, drop_rate):
    keys = draws.example_keys(key, 3, 3)
    steps = np.array([int(jax.random.randint(k, (), 0, schedule.num_train_steps)) for k in keys[0]])
    noise = np.stack([np.asarray(jax.random.normal(k, (2, 2, 4), float)) for k in keys[1]])
    dropped = np.array([float(jax.random.uniform(k)) for k in keys[2]]) < drop_rate
    tokens = np.where(dropped[:, None], null, TOKENS)
    bar = schedule.alpha_bar[steps][:, None, None, None]
    x = bar**0.5 * Z + (1 - bar) ** 0.5 * noise
    target = {"noise": noise, "data": Z, "v": bar**0.5 * noise - (1 - bar) ** 0.5 * Z}
    out = 0.3 * x + (2 * tokens[:, :2].sum(1) + 1e-3 * steps)[:, None, None, None]
    return ((out - target[schedule.kind]) ** 2).mean((1, 2, 3)), dropped


@pytest.mark.parametrize("kind", ["noise", "v", "data"])
def test_loss_by_hand(x64, kind):
    schedule = schedules.Schedule(kind=kind, zero_terminal_snr=kind != "noise", num_train_steps=9)
    params = {"unet": jnp.asarray(0.3), "text_encoder": jnp.asarray(2.0)}
    batch = {"image": jnp.asarray(Z), "label": jnp.asarray(TOKENS)}
    found = set()
    for seed, (null, rate) in enumerate([(7, 0.1), (3, 0.5), (7, 1.0)]):
        options = {} if seed == 0 else {"drop_rate": rate}
        given = None if null == 7 else np.full(9, null)
        loss_fn = training.loss(_Plain(schedule), given, **options)
        expected, dropped = _by_hand(schedule, jax.random.key(seed), null, rate)
        value, aux = loss_fn(params, {}, jax.random.key(seed), batch)
        assert float(value) == pytest.approx(expected.mean(), rel=1e-10)
        assert float(aux.weight) == 3
        found |= set(dropped)
    assert found == {False, True}
    weights = jnp.array([1.0, 0.0, 0.5])
    value, aux = loss_fn(params, {}, jax.random.key(seed), {**batch, "mask": weights})
    assert float(value) == pytest.approx((expected[0] + 0.5 * expected[2]) / 1.5, rel=1e-10)
    # a network that is not trained is read from the model state
    split = ({"unet": params["unet"]}, {"text_encoder": params["text_encoder"]})
    same, _ = loss_fn(*split, jax.random.key(seed), batch)
    assert float(same) == pytest.approx(expected.mean(), rel=1e-10)


def test_equals_denoising_score_matching_on_steps_of_the_table(x64):
    """In the mean over many draws: within five standard errors of their difference."""
    schedule = schedules.Schedule(kind="v", num_train_steps=5)
    model = _Plain(schedule)
    params = {"unet": jnp.asarray(0.3), "text_encoder": jnp.asarray(0.1)}
    many = jnp.tile(jnp.asarray(Z[:1]), (4000, 1, 1, 1))
    tokens = jnp.tile(jnp.asarray(TOKENS[:1]), (4000, 1))
    keys = jax.random.split(KEY, 4000)
    own = jax.vmap(
        lambda key, z, t: training.loss(model, drop_rate=0.0)(
            params, {}, key, {"image": z[None], "label": t[None]}
        )[0]
    )(keys, many, tokens)

    def apply(params, x, t, labels, rng):
        context = model.encode_text(params, labels)
        return model.predict(params, x, schedule.step(t), context)

    reference = losses.denoising_score_matching(
        schedule.process, apply, "v", times=weightings.on_steps(5)
    )
    theirs = jax.vmap(
        lambda key, z, t: reference(params, {}, key, {"image": z[None], "label": t[None]})[0]
    )(jax.random.split(jax.random.key(1), 4000), many, tokens)
    error = (np.var(own) / 4000 + np.var(theirs) / 4000) ** 0.5
    assert abs(own.mean() - theirs.mean()) < 5 * error


def test_fresh_parameters_and_the_first_stage():
    model = cases.SD1
    made = jax.eval_shape(
        lambda rng: training.init(model, rng, ("unet", "text_encoder", "vae")), KEY
    )
    assert jax.tree.map(lambda leaf: leaf.shape, made) == jax.tree.map(
        lambda leaf: leaf.shape, {name: cases.filled("sd1")[name] for name in made}
    )
    assert training.init.__defaults__ == (("unet", "text_encoder"),)
    stage = training.first_stage(dataclasses.replace(model, shift=0.25), cases.filled("sd1"))
    images = jnp.asarray(0.9 * cases.wave(1, 8, 8, 3), jnp.float32)
    z = stage.to_latent(images)
    mean, _ = model.encode(cases.filled("sd1"), images)
    np.testing.assert_allclose(z, (mean - 0.25) * model.scale, rtol=1e-5)
    np.testing.assert_allclose(
        stage.to_image(z), model.decode(cases.filled("sd1"), mean), rtol=1e-3, atol=1e-5
    )
    assert isinstance(model, Model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.loss(cases.SD1, drop_rate=1.5), "drop_rate=1.5"),
        (lambda: training.loss(cases.XL), "two text encoders: expected one"),
        (lambda: training.init(cases.SD1, KEY, ("unet", "net")), "network 'net': expected some of"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
