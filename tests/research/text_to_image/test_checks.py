"""What a generation refuses, each in one line, before anything compiles."""

import jax
import numpy as np
import pytest

from library import sharding
from research.text_to_image import checks, pipeline
from tests.research.text_to_image import cases

RNG = jax.random.key(0)
PROMPTS = ["a red square", "sun"]
MODEL, PARAMS = cases.SD1, {"unet": {"params": np.zeros(1, np.float32)}}
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
    ],
)
def test_refused(call, error, message):
    call = {"model": MODEL, "prompts": PROMPTS, **call}
    with pytest.raises(error, match=message):
        pipeline.generate(params=PARAMS, rng=RNG, **call)


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
