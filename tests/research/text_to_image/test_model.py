"""The model as one value: its texts, latents and images, and what does not fit together."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import model as models
from research.text_to_image import schedules
from tests.defaults import program
from tests.research.text_to_image import cases
from tests.research.text_to_image.cases import INPAINTING, SD1, XL

TEXTS = ["a red square", "!"]


def test_texts_of_one_and_of_two_encoders():
    tokens, params = SD1.tokens(TEXTS), cases.filled("sd1")
    np.testing.assert_array_equal(tokens, SD1.tokenizer.encode(TEXTS))

    def alone(params, tokens):
        return SD1.text_encoder.apply(params["text_encoder"], tokens)[0]

    assert program(SD1.encode_text, params, tokens) == program(alone, params, tokens)

    pair, params = XL.tokens(TEXTS), cases.filled("xl")
    np.testing.assert_array_equal(pair[0], XL.tokenizer.encode(TEXTS))
    np.testing.assert_array_equal(pair[1], XL.tokenizer_2.encode(TEXTS))
    assert (pair[0] != pair[1]).any()

    def both(params, tokens):
        left, _ = XL.text_encoder.apply(params["text_encoder"], tokens[0])
        right, _ = XL.text_encoder_2.apply(params["text_encoder_2"], tokens[1])
        return jnp.concatenate([left, right], -1)

    def second(params, tokens):
        return XL.text_encoder_2.apply(params["text_encoder_2"], tokens[1])[1]

    for theirs, by_hand in ((XL.encode_text, both), (XL.pooled_text, second)):
        assert program(theirs, params, pair) == program(by_hand, params, pair)
        twice = program(lambda params, tokens, f=by_hand: f(params, (tokens,) * 2), params, pair[0])
        assert program(theirs, params, pair[0]) == twice


def test_images_and_predictions_are_those_of_the_networks():
    params = cases.filled("sd1")
    images, latents = cases.wave(1, 4, 4, 3), cases.wave(1, 2, 2, 4)
    asked = latents, np.array([5]), cases.wave(1, 3, 8)
    net, vae = SD1.unet, SD1.vae
    assert program(SD1.predict, params, *asked) == program(
        lambda params, *args: net.apply(params["unet"], *args), params, *asked
    )
    for name, given in (("encode", images), ("decode", latents)):
        by_hand = program(
            lambda params, x, name=name: vae.apply(params["vae"], x, method=name), params, given
        )
        assert program(getattr(SD1, name), params, given) == by_hand


def test_what_a_model_says_of_itself():
    assert [SD1.inpaints, INPAINTING.inpaints, SD1.factor] == [False, True, 2]
    plain = models.Model(
        SD1.unet, SD1.vae, SD1.text_encoder, SD1.tokenizer, schedules.Schedule(), scale=0.18215,
        shift=0.0, text_encoder_2=None, tokenizer_2=None, sample_size=(64, 64),
        zero_negative=False,
    )  # fmt: skip
    assert plain == dataclasses.replace(SD1, sample_size=(64, 64)) != SD1
    assert models.Model(
        SD1.unet, SD1.vae, SD1.text_encoder, SD1.tokenizer, schedules.Schedule()
    ) == plain  # fmt: skip
    assert hash(plain) == hash(dataclasses.replace(SD1, sample_size=(64, 64)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vae": cases.VAE.clone(latent_dim=3)}, "a first stage of 3 latent channels: the network "
                                                 "makes 4"),
        ({"unet": cases.UNET.clone(in_channels=5)}, "reads 5 channels: expected 4, or 9"),
        ({"unet": cases.UNET.clone(context_dim=9)}, "texts of width 8: the network attends to 9"),
        ({"unet": cases.UNET.clone(pooled_dim=3)}, "pooled texts of width None: the network "
                                                   "expects 3"),
        ({"tokenizer_2": SD1.tokenizer}, "text_encoder_2 and tokenizer_2: expected both or none"),
        ({"scale": 0.0}, "scale=0.0: expected a positive number"),
        ({"scale": float("nan")}, "scale=nan: expected a positive number"),
        ({"scale": float("inf")}, "scale=inf: expected a positive number"),
        ({"shift": float("nan")}, "shift=nan: expected a finite number"),
        ({"sample_size": (8,)}, r"sample_size=\(8,\): expected \(height, width\)"),
        ({"sample_size": (8, 0)}, "sample_size=0: expected a positive whole number"),
        ({"tokenizer": SD1.tokenizer.add_tokens("<cat>")}, "a tokeniser of 41 tokens, 9 in a row: "
                                                           "the text encoder has 40 and 9"),
        ({"tokenizer": cases.tokenizer(max_length=10)}, "a tokeniser of 40 tokens, 10 in a row"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SD1, **changed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SD1.encode({}, np.full((1, 4, 4, 3), 255.0)), "images hold 255 in size: expected"),
        (lambda: SD1.encode({}, np.full((1, 4, 4, 3), np.nan)), "images hold nan in size"),
        (lambda: SD1.encode({}, np.full((1, 4, 4, 3), -1.01)), "images hold 1.01 in size"),
        (lambda: SD1.encode({"vae": {}}, np.zeros((1, 5, 4, 3))), "images of 5 x 4: expected "
                                                                  "multiples of 2"),
        (lambda: SD1.decode({"vae": {}}, np.zeros((1, 2, 2, 3))), r"latents \[1, 2, 2, 3\]"),
        (lambda: SD1.encode_text({}, (np.zeros((1, 2), int),) * 2), "2 arrays of tokens"),
        (lambda: XL.encode_text({}, (np.zeros((1, 2), int),) * 3), "3 arrays of tokens"),
        (lambda: SD1.pooled_text({}, np.zeros((1, 2), int)), "a model with one text encoder"),
        (lambda: SD1.predict({"unet": {}}, np.zeros((1, 3, 2, 4)), np.zeros(1),
                             np.zeros((1, 2, 8))), "latents of 3 x 2: expected multiples of 2"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
