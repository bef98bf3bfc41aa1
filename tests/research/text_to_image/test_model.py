"""The model as one value: its texts, latents and images, and what does not fit together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.text_to_image import model as models
from research.text_to_image import schedules
from tests.research.text_to_image import cases
from tests.research.text_to_image.cases import INPAINTING, SD1, XL

TEXTS = ["a red square", "!"]


def test_texts_of_one_and_of_two_encoders(x64):
    tokens = SD1.tokens(TEXTS)
    np.testing.assert_array_equal(tokens, SD1.tokenizer.encode(TEXTS))
    params = cases.filled("sd1")
    alone = jax.jit(lambda params: SD1.text_encoder.apply(params, tokens)[0])
    context = jax.jit(SD1.encode_text)(params, tokens)
    np.testing.assert_array_equal(context, alone(params["text_encoder"]))

    pair, params = XL.tokens(TEXTS), cases.filled("xl")
    np.testing.assert_array_equal(pair[0], XL.tokenizer.encode(TEXTS))
    np.testing.assert_array_equal(pair[1], XL.tokenizer_2.encode(TEXTS))
    assert (pair[0] != pair[1]).any()

    @jax.jit
    def both(params, first, second):
        given = first if second is None else (first, second)
        second = first if second is None else second
        left, _ = XL.text_encoder.apply(params["text_encoder"], first)
        right, pooled = XL.text_encoder_2.apply(params["text_encoder_2"], second)
        ours = XL.encode_text(params, given), XL.pooled_text(params, given)
        return ours, (jnp.concatenate([left, right], -1), pooled)

    for given in (pair, (pair[0], None)):
        jax.tree.map(np.testing.assert_array_equal, *both(params, *given))


def test_images_and_predictions_are_those_of_the_networks(x64):
    params = cases.filled("sd1")
    images, latents = cases.wave(1, 4, 4, 3), cases.wave(1, 2, 2, 4)
    t, context = np.array([5]), cases.wave(1, 3, 8)

    @jax.jit
    def both(params):
        ours = (
            SD1.encode(params, images), SD1.decode(params, latents),
            SD1.predict(params, latents, t, context),
        )  # fmt: skip
        return ours, (
            SD1.vae.apply(params["vae"], images, method="encode"),
            SD1.vae.apply(params["vae"], latents, method="decode"),
            SD1.unet.apply(params["unet"], latents, t, context),
        )

    jax.tree.map(np.testing.assert_array_equal, *both(params))


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
