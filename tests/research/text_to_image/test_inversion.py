"""One row learns and nothing else moves; the gradient is the table's; the word goes to files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from library import training as library_training
from research.text_to_image import inversion, schedules, text_encoder, training, weights
from research.text_to_image.model import Model
from tests.research.text_to_image import cases

MODEL = dataclasses.replace(
    cases.SD1, unet=cases.UNET.clone(channels=(4,), depths=(1,)), sample_size=(2, 2)
)
PARAMS = cases.filled("sd1")  # its U-Net is another one: see `_networks`
WORD = "<new>"
TOKENS = MODEL.tokenizer.add_tokens(WORD).encode([f"a {WORD} sun", f"{WORD}", "a red square"])
Z = cases.wave(3, 2, 2, 4)
KEY = jax.random.key(0)


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """Stands for a model: its text is real, its network one line."""

    text_encoder: object = MODEL.text_encoder
    tokenizer: object = MODEL.tokenizer
    schedule: object = schedules.Schedule()
    text_encoder_2: None = None
    tokenizer_2: None = None
    tokens, encode_text, _pair = Model.tokens, Model.encode_text, Model._pair

    def predict(self, params, z, steps, context):
        return params["unet"] * z * context.mean(1)[:, None, None, :4]


def test_the_gradient_is_that_of_the_last_row_of_the_whole_table(x64):
    start = inversion.init(MODEL, PARAMS, "red")
    table = PARAMS["text_encoder"]["params"]["embedding"]
    np.testing.assert_array_equal(start["row"], table[MODEL.tokenizer.ids["red</w>"]])
    encoder, text = text_encoder.with_row(MODEL.text_encoder, PARAMS["text_encoder"], start["row"])
    batch = {"image": jnp.asarray(Z), "label": TOKENS}
    state = {"unet": 0.3, "text_encoder": PARAMS["text_encoder"]}
    values = set()
    for drop_rate, options in ((0.0, {}), (0.7, {"drop_rate": 0.7})):
        whole = training.loss(_Plain(encoder), drop_rate=drop_rate)
        networks = {"unet": 0.3, "text_encoder": text}
        gradient = lambda loss_fn: jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
        (expected, _), theirs = gradient(whole)(networks, {}, KEY, batch)
        (value, aux), own = gradient(inversion.loss(_Plain(), **options))(start, state, KEY, batch)
        assert float(value) == pytest.approx(float(expected), rel=1e-12)
        row = theirs["text_encoder"]["params"]["embedding"][-1]
        np.testing.assert_allclose(own["row"], row, rtol=1e-9, atol=1e-18)
        assert np.abs(own["row"]).max() > 1e-8 and aux.weight == 3
        values.add(float(value))
    assert len(values) == 2


def _networks(rng):
    networks = training.init(MODEL, rng, ("unet",)) | {"text_encoder": PARAMS["text_encoder"]}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.01, jnp.float32), networks)


def test_frozen_leaves_are_equal_to_the_bit_after_100_steps_of_adamw():
    networks = _networks(KEY)
    before = jax.tree.map(np.array, networks)
    start = inversion.init(MODEL, networks, "red")["row"]
    state = library_training.quick_state(
        inversion.loss(MODEL),
        optax.adamw(1e-2, weight_decay=0.1),
        lambda rng: inversion.init(MODEL, networks, "red"),
        lambda step: {"image": Z.astype(np.float32), "label": TOKENS},
        num_steps=100,
        rng=KEY,
        model_state=networks,
        rng_per_example=True,
    )
    assert jax.tree.map(jnp.shape, state.params) == {"row": (8,)}
    assert np.abs(state.params["row"] - start).min() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before)


def test_a_learned_word_is_read_and_written(tmp_path):
    params = single(PARAMS)
    row = jnp.linspace(-1, 1, 8)
    model, grown = inversion.learned(cases.SD1, params, row, WORD)
    embedding = lambda tree: tree["text_encoder"]["params"]["embedding"]
    np.testing.assert_array_equal(embedding(grown)[:-1], embedding(params))
    np.testing.assert_array_equal(embedding(grown)[-1], row)
    assert grown["unet"] is params["unet"] and grown["vae"] is params["vae"]
    assert model.tokens([f"a {WORD} sun"]).tolist() == TOKENS[:1].tolist()
    # words that were known mean what they did
    old = MODEL.encode_text(params, MODEL.tokens(["a red square"]))
    np.testing.assert_allclose(model.encode_text(grown, TOKENS[2:]), old, rtol=1e-6)
    weights.save(tmp_path / "model", model, grown)
    again, read = weights.load(tmp_path / "model")
    assert again.tokenizer.added == (WORD,)
    np.testing.assert_array_equal(embedding(read), embedding(grown))
    np.testing.assert_array_equal(again.tokens([WORD]), TOKENS[1:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inversion.loss(MODEL, drop_rate=2), "drop_rate=2"),
        (lambda: inversion.loss(cases.XL), "two text encoders: expected one"),
        (lambda: inversion.loss(_grown()), "a table of 43 rows for 40 tokens: expected one a"),
        (lambda: inversion.learned(_grown(), PARAMS, np.zeros(8), WORD), "43 rows for 40 tokens"),
        (lambda: inversion.learned(MODEL, PARAMS, np.zeros(7), WORD), r"row \[7\]: expected \[8\]"),
        (lambda: inversion.learned(MODEL, single(PARAMS), np.zeros(8), "a"), "'a' is in the voc"),
        (lambda: inversion.init(MODEL, PARAMS, "a sun"), "'a sun' is 4 tokens: expected one that"),
        (lambda: inversion.init(MODEL, PARAMS, ""), "'' is 0 tokens: expected one"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _grown():
    return dataclasses.replace(MODEL, text_encoder=MODEL.text_encoder.clone(vocab_size=43))
