"""DALL-E's route on scenes: sizes, codes there and back, what is asked, and the best of several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.text_to_image import _chain, _scenes, _tokens
from library.data import shapes
from research.text_to_image import autoregressive

SIZES = _tokens.Sizes((2, 2, 2), code_dim=3, num_codes=7, width=8, depth=1, score_width=1)
MODEL = _tokens.build(SIZES, 32)


def test_build_follows_the_sizes():
    vae, stack = MODEL.codes.vae, MODEL.config.stack
    assert (MODEL.grid, MODEL.num_codes) == ((8, 8), 7)
    assert (vae.channels, vae.latent_dim, vae.gaussian) == ((2, 2, 2), 3, False)
    assert (stack.depth, stack.width, stack.hidden_dim, stack.num_heads) == (1, 8, 32, 1)
    assert MODEL.config.max_length == 20 + 64 - 1
    assert MODEL.config.vocab_size == len(MODEL.tokenizer) + 7


@dataclasses.dataclass(frozen=True)
class _Dots:
    """Codes that say how bright a patch of 4 x 4 pixels is."""

    def encode(self, params, images):
        return jnp.int32(images.reshape(len(images), 8, 4, 8, 4, 3).mean((2, 4, 5)) * 3 + 3)

    def decode(self, params, codes):
        wide = jnp.repeat(jnp.repeat(codes, 4, 1), 4, 2)
        return jnp.broadcast_to(wide[..., None] / 3 - 1, (*wide.shape, 3))


DOTS = dataclasses.replace(MODEL, codes=_Dots())


def test_codes_in_blocks(monkeypatch):
    monkeypatch.setattr(_tokens, "_BLOCK", 2)
    images = _scenes.many(5, 32)["image"]
    codes = _tokens.to_codes(DOTS, {}, images)
    np.testing.assert_array_equal(codes, _Dots().encode({}, _chain.to_range(images)))
    back = _tokens.to_images(DOTS, {}, codes)
    np.testing.assert_allclose(back, _Dots().decode({}, codes), atol=1e-6)


class _Judge:
    """The first of each two images is right."""

    def right(self, images, asked):
        assert len(images) == len(asked["image"])
        return {"all": np.arange(len(images)) % 2 == 0}


class _Brightest:
    def best(self, texts, images):
        assert len(texts) == len(images)
        first = images.reshape(*images.shape[:2], -1).mean(-1).argmax(1)
        return images[np.arange(len(images)), first]


def test_what_is_asked_is_drawn_in_blocks_and_ranked():
    decoder = jax.jit(lambda: autoregressive.init(DOTS, jax.random.key(1)))()
    params = {"decoder": decoder, "first_stage": {}}
    asked = _tokens.Asked(DOTS, params, _Judge(), _Brightest(), 32, 2)
    images, scenes = asked.images("one", 1.0, 3)
    np.testing.assert_array_equal(
        scenes["image"], shapes.batch(5 * 10**8 + np.arange(3), num_objects=1)["image"]
    )
    texts = scenes["caption"].tolist()
    draw = lambda texts, index: np.asarray(
        autoregressive.generate(DOTS, params, texts, jax.random.key(0), first_index=index)[0]
    )
    expected = np.concatenate([draw(texts[:2], 0), draw([texts[2], ""], 2)[:1]])
    np.testing.assert_array_equal(images, expected)
    # the best of two: samples 2 i and 2 i + 1 are those of text i
    ranked, _ = asked.images("one", 1.0, best_of=2)
    pairs = np.stack([draw([text] * 2, 2 * i) for i, text in enumerate(texts[:2])])
    np.testing.assert_array_equal(ranked, _Brightest().best(texts[:2], pairs))
    found = asked.all(1.0)
    assert found == {kind: {"all": 0.5} for kind in _scenes.KINDS}


@dataclasses.dataclass(frozen=True)
class _Features:
    """Stands for a scorer: sums of tokens, and of rows of pixels."""

    def encode_text(self, params, tokens):
        return jnp.cos(tokens[:, 1:3].astype(float))

    def encode_image(self, params, images):
        return images.sum((1, 3))[:, :2]


def test_the_best_by_a_scorer(monkeypatch):
    monkeypatch.setattr(_tokens, "_BLOCK", 6)  # two groups of three at a time
    texts = ["a red circle", "blue stars", "one cross"]
    groups = np.random.default_rng(0).normal(size=(3, 3, 2, 2, 3))
    chosen = _tokens.Scorer(_Features(), {}, MODEL.tokenizer).best(texts, groups)
    of_text = np.cos(MODEL.tokenizer.encode(texts)[:, 1:3])
    scores = np.einsum("np,nkp->nk", of_text, groups.sum((2, 4)))
    np.testing.assert_array_equal(chosen, groups[np.arange(3), scores.argmax(1)])
