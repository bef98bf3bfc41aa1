"""Views: the recipes of the papers spelled out, one key per image, shapes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.self_supervised import views
from research.vision import augmentation as change

IMAGES = np.random.default_rng(0).uniform(size=(3, 9, 10, 3)).astype(np.float32)
RNGS = jax.random.split(jax.random.key(0), 3)


def recipe(size, scale, jitter, blur=None, solarise=None, kernel=3):
    """As the papers' appendices list them."""
    steps = [
        change.random_resized_crop(size, scale, (3 / 4, 4 / 3)),
        change.flip(0.5),
        change.colour_jitter(*jitter, probability=0.8),
        change.random_grey(0.2),
    ]
    steps += [change.gaussian_blur(kernel, (0.1, 2.0), blur)] if blur else []
    steps += [change.random_solarise(solarise)] if solarise else []
    return change.chain(*steps)


LOW = (0.4, 0.4, 0.2, 0.1)
HALF = (0.4, 0.4, 0.4, 0.1)
CASES = {
    "simclr": (views.simclr(8), views.repeat(recipe(8, (0.08, 1.0), (0.8, 0.8, 0.8, 0.2), 0.5))),
    "simclr, CIFAR-10": (
        views.simclr(8, (0.3, 0.9), 0.5, blur=False, num_views=3),
        views.repeat(recipe(8, (0.3, 0.9), HALF), 3),
    ),
    "a kernel of a tenth of the side": (
        views.moco(50), views.repeat(recipe(50, (0.2, 1.0), HALF, 0.5, kernel=5))
    ),
    "moco": (views.moco(8), views.repeat(recipe(8, (0.2, 1.0), HALF, 0.5))),
    "small images": (
        views.small_images(8, (0.3, 1.0), 4), views.repeat(recipe(8, (0.3, 1.0), HALF), 4)
    ),
    "small images, plain": (views.small_images(8), views.moco(8, (0.2, 1.0), False, 2)),
    "byol": (
        views.byol(8),
        views.apart(recipe(8, (0.08, 1.0), LOW, 1.0), recipe(8, (0.08, 1.0), LOW, 0.1, 0.2)),
    ),
    "byol, sharp": (
        views.byol(8, (0.5, 1.0), blur=False),
        views.apart(recipe(8, (0.5, 1.0), LOW), recipe(8, (0.5, 1.0), LOW, None, 0.2)),
    ),
    "uncoloured": (
        views.uncoloured(8),
        views.repeat(change.chain(
            change.random_resized_crop(8, (0.3, 1.0)), change.colour_jitter(0.4, 0.4, 0, 0, 0.8)
        )),
    ),
    "uncoloured, mirrored": (
        views.uncoloured(8, (0.5, 1.0), 0.2, flip=True, num_views=3),
        views.repeat(change.chain(
            change.random_resized_crop(8, (0.5, 1.0)),
            change.flip(),
            change.colour_jitter(0.2, 0.2, 0, 0, 0.8),
        ), 3),
    ),
}  # fmt: skip


def program(make, images=IMAGES):
    """What is computed, to the last number, without compiling it."""
    traced = jax.make_jaxpr(make)(RNGS, images)
    assert not traced.consts  # all numbers are in the text
    return str(traced)


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_that_of_its_paper(name):
    make, expected = CASES[name]
    images = IMAGES[..., :1] if name.startswith("uncoloured") else IMAGES
    assert program(make, images) == program(expected, images)


@pytest.mark.parametrize(
    "options, laws",
    [
        ({}, [(8, (0.4, 1.0), LOW, 1.0), (8, (0.4, 1.0), LOW, 0.1, 0.2)]
         + [(4, (0.05, 0.4), LOW, 0.5)] * 8),
        ({"num_local": 2, "scale": (0.5, 0.6), "local_scale": (0.1, 0.2), "blur": False},
         [(8, (0.5, 0.6), LOW), (8, (0.5, 0.6), LOW, None, 0.2)] + [(4, (0.1, 0.2), LOW)] * 2),
    ],
)  # fmt: skip
def test_multi_crop(options, laws):
    def expected(rngs, images):
        def small(v):
            own = lambda rng, image: recipe(*laws[2])(jax.random.fold_in(rng, v), image)
            return change.each(own, rngs, images)

        large = views.apart(*(recipe(*law) for law in laws[:2]))(rngs, images)
        return {"global": large, "local": jax.vmap(small)(jnp.arange(2, len(laws)))}

    assert program(views.dino(8, 4, **options)) == program(expected)
    shapes = jax.eval_shape(views.dino(8, 4, **options), RNGS, IMAGES)
    assert shapes["global"].shape == (2, 3, 8, 8, 3)
    assert shapes["local"].shape == (len(laws) - 2, 3, 4, 4, 3)


def noisy(scale):
    return lambda rng, image: image + scale * jax.random.uniform(rng, image.shape)


@pytest.mark.parametrize(
    "make, scales", [(views.repeat(noisy(1.0), 3), [1, 1, 1]),
                     (views.apart(noisy(1.0), noisy(0.5)), [1, 0.5])],
)  # fmt: skip
def test_each_view_has_the_key_of_its_number(make, scales):
    got = jax.jit(make)(RNGS, IMAGES)
    for v, i in np.ndindex(len(scales), 3):
        noise = jax.random.uniform(jax.random.fold_in(RNGS[i], v), IMAGES[i].shape)
        np.testing.assert_allclose(got[v, i], IMAGES[i] + scales[v] * noise, rtol=1e-6)
    np.testing.assert_allclose(make(RNGS[2], IMAGES[2]), got[:, 2], rtol=1e-6)  # one image alone


def test_a_view_does_not_depend_on_its_batch():
    law = change.chain(
        change.random_resized_crop(8), change.flip(), change.colour_jitter(0.4, 0.4, 0.4)
    )
    make = jax.jit(views.repeat(law))
    whole = np.asarray(make(RNGS, IMAGES))
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(make(RNGS[order], IMAGES[order]), whole[:, order], atol=1e-6)
    np.testing.assert_allclose(make(RNGS[:1], IMAGES[:1]), whole[:, :1], atol=1e-6)
    assert whole.min() >= 0 and whole.max() <= 1 + 1e-6


def test_default_numbers_of_views():
    assert jax.eval_shape(views.repeat(change.flip()), RNGS, IMAGES).shape == (2, *IMAGES.shape)


def test_bad_input():
    codes, shapes = (255 * IMAGES).astype(np.uint8), jax.eval_shape
    for broken, message in [
        (lambda: views.simclr(8, num_views=1), "num_views=1: expected at least 2"),
        (lambda: views.moco(8, num_views=0), "num_views=0: expected a positive whole number"),
        (lambda: views.repeat(change.flip(), 1.5), "num_views=1.5"),
        (lambda: views.apart(change.flip()), "num_views=1: expected at least 2"),
        (lambda: views.dino(8, 4, num_local=0), "num_local=0"),
        (lambda: views.simclr(0), "size=0"),
        (
            lambda: views.simclr((8, 6)),
            r"size=\(8, 6\): expected a positive whole",
        ),
        (lambda: shapes(views.moco(8), RNGS, IMAGES[..., 0]), r"rngs \(\d+,\) for images"),
        (lambda: views.byol(8, (0.5, 0.1)), "scale="),
        (lambda: shapes(views.moco(8), RNGS[:2], IMAGES), r"rngs \(2,\) for images"),
        (lambda: shapes(views.moco(8), RNGS, codes), "image of type uint8"),
        (lambda: shapes(views.small_images(8), RNGS, IMAGES[..., :1]), "image of 1 channels"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
