"""What a generation refuses, each in one line, before anything compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from research.text_to_image import checks, pipeline
from tests.research.text_to_image import cases

RNG = jax.random.key(0)
PROMPTS = ["a red square", "sun"]
MODEL, NUMBERS = cases.SD1, {"params": np.zeros(1, np.float32)}
PARAMS = {"text_encoder": NUMBERS, "unet": NUMBERS, "vae": NUMBERS}
UNEVEN = dataclasses.replace(MODEL, sample_size=(3, 4))
IMAGES, MASK = np.zeros((2, 8, 16, 3)), np.zeros((8, 16), bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (dict(prompts=[]), ValueError, "prompts: got none"),
        (dict(prompts=[3]), TypeError, "prompts hold a int: expected texts"),
        (dict(negative=["a"]), ValueError, "1 negative prompts for 2 prompts: expected one each"),
        (dict(guidance=np.nan), ValueError, "guidance=nan: expected a finite number"),
        (dict(rescale=1.5), ValueError, "rescale=1.5"),
        (dict(size=18), ValueError, "size=18: expected multiples of 4 pixels"),
        (dict(size=(8, 0)), ValueError, "size=0"),
        (dict(latents=np.zeros((2, 4, 4, 4))), ValueError, r"latents \[2, 4, 4, 4\]: expected \[2"),
        (dict(num_steps=0), ValueError, "num_steps=0"),
        (dict(num_steps=1001), ValueError, "num_steps=1001: expected at most 1000"),
        (dict(spacing="even"), ValueError, "spacing='even'"),
        (dict(solver="ddim"), ValueError, "solver='ddim': expected one with steps"),
        (dict(interval=(5, 2)), ValueError, r"interval=\(5, 2\): expected steps 0 <= low <= high"),
        (dict(model=cases.INPAINTING), ValueError, "reads 9 channels: it is one for inpainting"),
        (dict(mesh=sharding.make_mesh({"model": 2})), ValueError, "expected an axis data"),
        (dict(mesh="data=2"), ValueError, "mesh='data=2': expected a jax.sharding.Mesh"),
        (dict(prompts=None), TypeError, "prompts=None: expected texts"),
        (dict(negative=3), TypeError, "negative prompts=3: expected texts"),
        (dict(negative=[]), ValueError, "negative prompts: got none"),
        (dict(negative=[1, 2]), TypeError, "negative prompts hold a int"),
        (dict(guidance="7"), ValueError, "guidance=7: expected a finite number"),
        (dict(guidance=np.ones(2)), ValueError, r"guidance=\[1. 1.\]: expected a finite number"),
        (dict(size=(8,)), ValueError, r"size=\(8,\): expected pixels of a side, or \(height"),
        (dict(size=(8, 8, 8)), ValueError, r"size=\(8, 8, 8\): expected pixels of a side"),
        (dict(size=8.0), ValueError, "size=8.0: expected a positive whole number of pixels"),
        (dict(latents=np.full((2, 4, 8, 4), np.nan)), ValueError, "latents hold nan or inf"),
        (dict(latents=np.zeros((2, 4, 8, 4), int)), ValueError, "latents of type int32: expected"),
        (dict(interval=(1.5, 3.5)), ValueError, r"interval=\(1.5, 3.5\): expected steps"),
        (dict(interval=3), ValueError, "interval=3: expected steps"),
        (dict(first_index=-1), ValueError, "first_index=-1: expected a whole number >= 0"),
        (dict(first_index=1.5), ValueError, "first_index=1.5: expected a whole number >= 0"),
        (dict(first_index=2**31 - 1), ValueError, "of 2 images: expected indices below 2"),
        (dict(dtype="float12"), ValueError, "dtype=float12: expected one of float16, bfloat16"),
        (dict(dtype="int8"), ValueError, "dtype=int8: expected one of float16, bfloat16"),
        (dict(params={"unet": {}}), ValueError, "params lack text_encoder, unet, vae: expected"),
        (dict(params=None), ValueError, "params lack text_encoder, unet, vae: expected"),
        (dict(rng=0), ValueError, "rng=0: expected one key, such as"),
        (dict(rng=jax.random.split(RNG, 2)), ValueError, r"rng=key<fry>\[2\]: expected one key"),
        (dict(model=UNEVEN), ValueError, r"size=\(6, 8\): expected multiples of 4 pixels"),
    ],
)
def test_refused(call, error, message):
    call = {"model": MODEL, "params": PARAMS, "prompts": PROMPTS, "rng": RNG, **call}
    with pytest.raises(error, match=message):
        pipeline.generate(**call)


@pytest.mark.parametrize(
    ("images", "strength", "options", "message"),
    [
        (IMAGES, 1.2, {}, "strength=1.2"),
        (IMAGES[:1], 0.5, {}, r"images \[1, 8, 16, 3\]: expected \[2, H, W, 3\], one a prompt"),
        (IMAGES[..., :1], 0.5, {}, r"images \[2, 8, 16, 1\]"),
        (IMAGES[:, :6], 0.5, {}, "expected multiples of 4 pixels"),
        (IMAGES.astype(np.uint8), 0.5, {}, "images of type uint8: expected floats"),
        (IMAGES + 2, 0.5, {}, r"images from 2 to 2: expected numbers in \[-1, 1\]"),
        (IMAGES * np.nan, 0.5, {}, "images from nan to nan"),
    ],
)
def test_refused_edits(images, strength, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.image_to_image(MODEL, PARAMS, PROMPTS, RNG, images, strength, **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[:4], r"mask \[4, 16\]: expected \[8, 16\], of the images"),
        (0.5 + MASK, "mask has values from 0.5 to 0.5: expected 0 and 1"),
        (MASK.astype(complex), "mask of type complex128: expected bool, or 0 and 1"),
        (None, r"mask=None: expected \[H, W\] or \[B, H, W\]"),
    ],
)
def test_refused_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        pipeline.inpaint(MODEL, PARAMS, PROMPTS, RNG, IMAGES, mask)


def test_an_unknown_option_and_an_inpainting_network_are_refused():
    with pytest.raises(TypeError, match="num_step"):
        pipeline.image_to_image(MODEL, PARAMS, PROMPTS, RNG, IMAGES, num_step=3)
    with pytest.raises(ValueError, match="one for inpainting"):
        pipeline.image_to_image(cases.INPAINTING, PARAMS, PROMPTS, RNG, IMAGES)


def test_what_is_let_through():
    assert checks.prompts("one") == ["one"] and checks.prompts(("a", "b")) == ["a", "b"]
    assert checks.negative(None, 2) == ["", ""] and checks.negative("x", 2) == ["x", "x"]
    assert checks.negative(["a", "b"], 2) == ["a", "b"]
    assert checks.latent_size(MODEL, None) == (4, 8)
    assert checks.latent_size(MODEL, 16) == (8, 8) and checks.latent_size(MODEL, (8, 16)) == (4, 8)
    assert checks.images(MODEL, IMAGES + 1.00005, 2).shape == IMAGES.shape  # a resized image
    mask = checks.mask(MASK.astype(float), IMAGES.shape[:3])
    assert mask.shape == (2, 8, 16) and mask.dtype == bool
    assert checks.interval(None, 5) is None and checks.interval((0, 4), 5) == (0, 4)
    half = checks.latents(np.zeros((1, 2), np.float16), (1, 2))
    assert half.dtype == np.float32 and checks.latents(None, (1, 2)) is None
    assert checks.latent_size(MODEL, np.int64(16)) == (8, 8)
    assert checks.first_index(2**31 - 3, 3) == 2**31 - 3 and checks.first_index(jnp.int8(4), 1) == 4
    assert checks.dtype("bfloat16") == jnp.bfloat16 and checks.dtype(float) == np.float64
    checks.key(jax.random.PRNGKey(0))
