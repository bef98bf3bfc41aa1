"""Losses and draws in NumPy from uncached logits; images alone; only codes; codes of images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import draws
from research.language_models.decoding import sampling
from research.text_to_image import autoregressive, first_stage
from research.transformers import layers, models
from research.vae import quantize
from tests.research.text_to_image import cases

KEY = jax.random.key(0)
NUM_CODES, NUM_TEXT = 5, cases.VOCAB_SIZE
STACK = layers.Stack(depth=2, width=8, num_heads=2, hidden_dim=12, init_std=0.6)
CONFIG = models.DecoderConfig(NUM_TEXT + NUM_CODES, STACK, max_length=12)
PROMPTS = ["a red square", "", "sun"]


@dataclasses.dataclass(frozen=True)
class _Lookup:
    """Codes that stand for themselves."""

    def decode(self, params, codes):
        return (codes[..., None] + params).astype(float)


MODEL = autoregressive.Model(CONFIG, cases.tokenizer(), _Lookup(), NUM_CODES, (2, 2))
TEXT = MODEL.tokenizer.encode(PROMPTS)
CODES = np.array([[[0, 4], [2, 1]], [[3, 3], [0, 2]], [[1, 0], [4, 4]]])


def parameters():
    """Decoder's in the widest dtype, and what `_Lookup` adds."""
    decoder = jax.jit(lambda: autoregressive.init(MODEL, jax.random.key(7)))()
    return {"decoder": jax.tree.map(lambda x: x.astype(float), decoder), "first_stage": -9.0}


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _uncached(params, text, codes):
    return [np.asarray(each) for each in jax.jit(MODEL.logits)(params["decoder"], text, codes)]


def test_logits_are_those_of_the_row_of_text_then_codes(x64):
    params = parameters()
    row = np.concatenate([TEXT, CODES.reshape(3, 4) + NUM_TEXT], 1)
    whole = models.Decoder(dataclasses.replace(CONFIG, max_length=12)).apply(
        params["decoder"], jnp.asarray(row[:, :12])
    )
    of_text, of_codes = _uncached(params, TEXT, CODES.reshape(3, 4))
    np.testing.assert_allclose(of_text, whole[:, :8, :NUM_TEXT], rtol=1e-10)
    np.testing.assert_allclose(of_codes, whole[:, 8:, NUM_TEXT:], rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"text_weight": 0.5, "image_weight": 2.0, "drop_rate": 0.6}],
    ids=["default", "other"],
)
def test_loss_by_hand(x64, options):
    params = parameters()
    rates = {"text_weight": 0.125, "image_weight": 0.875, "drop_rate": 0.1} | options
    key = jax.random.key(1)
    draw = np.array([float(jax.random.uniform(k)) for k in draws.example_keys(key, 3, 1)[0]])
    dropped = draw < rates["drop_rate"]
    assert dropped.any() and not dropped.all()
    text = np.where(dropped[:, None], MODEL.tokenizer.encode([""]), TEXT)
    of_text, of_codes = _uncached(params, text, CODES.reshape(3, 4))
    expected, kinds = [], []
    for i in range(3):
        last = text[i].tolist().index(MODEL.tokenizer.ids["<|endoftext|>"])
        places = range(last)
        words = np.mean([-_log_softmax(of_text[i, j])[text[i, j + 1]] for j in places])
        codes = np.mean([-_log_softmax(of_codes[i, j])[CODES[i].flat[j]] for j in range(4)])
        kinds.append((words, codes))
        expected.append(rates["text_weight"] * words + rates["image_weight"] * codes)
    batch = {"label": jnp.asarray(TEXT), "codes": jnp.asarray(CODES)}
    loss_fn = jax.jit(autoregressive.loss(MODEL, **options))
    value, aux = loss_fn(params, {}, key, batch)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-10)
    assert float(aux.metrics["text"]) == pytest.approx(np.mean(kinds, 0)[0], rel=1e-10)
    assert float(aux.metrics["image"]) == pytest.approx(np.mean(kinds, 0)[1], rel=1e-10)
    assert float(aux.weight) == 3
    mask = np.array([1.0, 0.0, 0.5])
    value, aux = loss_fn(params, {}, key, {**batch, "mask": jnp.asarray(mask)})
    assert float(value) == pytest.approx(mask @ expected / 1.5, rel=1e-10)
    assert float(aux.weight) == 1.5


def _law(logits, temperature, top_k):
    """Log probabilities of the k likeliest codes at a temperature, in NumPy."""
    scaled = logits / temperature
    least = np.sort(scaled)[..., -top_k][..., None]
    return _log_softmax(np.where(scaled >= least, scaled, -np.inf))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("sampler", [None, sampling.Sampler(temperature=0.7, top_k=3)])
def test_cached_draws_are_those_of_uncached_guided_logits(x64, guidance, sampler):
    params = parameters()
    options = {} if sampler is None else {"sampler": sampler}
    images, info = autoregressive.generate(
        MODEL, params, PROMPTS, KEY, guidance=guidance, first_index=4, **options
    )
    codes = np.asarray(info.codes)
    np.testing.assert_array_equal(images, np.clip(codes - 9.0, -1, 1)[..., None])
    given, empty = (
        _uncached(params, text, codes.reshape(3, 4))[1]
        for text in (TEXT, MODEL.tokenizer.encode([""] * 3))
    )
    logits = empty + guidance * (given - empty)
    law = _law(logits, *((1.0, NUM_CODES) if sampler is None else (0.7, 3)))
    chosen = np.take_along_axis(law, codes.reshape(3, 4, 1), 2)[..., 0]
    np.testing.assert_allclose(info.log_probs.reshape(3, 4), chosen, rtol=1e-10, atol=1e-12)
    for i in range(3):
        key = jax.random.fold_in(KEY, 4 + i)
        for place in range(4):
            noise = jax.random.gumbel(jax.random.fold_in(key, place), (NUM_CODES,), float)
            assert codes[i].flat[place] == np.argmax(law[i, place] + noise)


def test_in_single_precision_alone_and_with_text_that_would_win():
    params = parameters()
    table = params["decoder"]["params"]["embedding"]
    params["decoder"]["params"]["embedding"] = table.at[:NUM_TEXT].multiply(50)
    draw = lambda prompts, **options: autoregressive.generate(
        MODEL, params, prompts, KEY, guidance=options.pop("guidance", 2.0), **options
    )
    images, info = draw(PROMPTS)
    codes = np.asarray(info.codes)
    assert codes.shape == (3, 2, 2) and codes.min() >= 0 and codes.max() < NUM_CODES
    alone, own = draw(PROMPTS[2], first_index=2)
    np.testing.assert_array_equal(own.codes, codes[2:])
    np.testing.assert_allclose(alone, images[2:], atol=1e-5)
    np.testing.assert_allclose(own.log_probs, info.log_probs[2:], rtol=1e-5, atol=1e-5)
    logits = [
        _uncached(params, text, codes.reshape(3, 4))[1]
        for text in (TEXT, MODEL.tokenizer.encode([""] * 3))
    ]
    law = _log_softmax(np.float64(logits[1]) + 2 * (np.float64(logits[0]) - logits[1]))
    chosen = np.take_along_axis(law, codes.reshape(3, 4, 1), 2)[..., 0]
    np.testing.assert_allclose(info.log_probs.reshape(3, 4), chosen, rtol=1e-5, atol=1e-5)
    # another prompt, weight, seed or index is the same program
    size = autoregressive._program._cache_size()
    draw(["b", "le", "a sun"], guidance=3.5, first_index=9)
    assert autoregressive._program._cache_size() == size


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Stands for a network, or for an autoencoder: one matrix a method."""

    def apply(self, variables, x, method="map"):
        return jnp.einsum("...c,cd->...d", x, variables["params"][method])


def test_codes_of_a_codebook_and_of_categories(x64):
    matrix = lambda rows, columns, rate: jnp.asarray(cases.wave(rows, columns, rate=rate))
    images, book = jnp.asarray(cases.wave(2, 3, 4, 3)), 2 * matrix(6, 2, 1.7)
    own = {"encode": matrix(3, 2, 0.9), "decode": matrix(2, 3, 1.1)}
    params = {"autoencoder": own, "codebook": book}
    vectors = autoregressive.Vectors(_Linear())
    gaps = np.asarray(images @ own["encode"])[..., None, :] - np.asarray(book)
    codes = vectors.encode(params, images)
    np.testing.assert_array_equal(codes, (gaps**2).sum(-1).argmin(-1))
    assert len(np.unique(codes)) > 2
    back = vectors.decode(params, codes)
    np.testing.assert_allclose(back, np.asarray(book)[codes] @ own["decode"], rtol=1e-12)
    # what the objective reconstructs is what the codes decode to
    objective = first_stage.Objective(**first_stage.networks(_Linear()))
    np.testing.assert_allclose(back, objective.terms(params, KEY, images).images, rtol=1e-12)
    # a dVAE's: the likeliest category, whose vector is that of a draw that leaves no doubt
    dvae = autoregressive.Categories(_Linear(), _Linear())
    to_logits, to_image = matrix(3, 6, 2.3), matrix(2, 3, 1.3)
    params = {"encoder": {"map": to_logits}, "decoder": {"map": to_image}, "codebook": book}
    codes = dvae.encode(params, images)
    np.testing.assert_array_equal(codes, np.asarray(images @ to_logits).argmax(-1))
    sharp = quantize.gumbel(KEY, 1e6 * (images @ to_logits), book, hard=True)
    np.testing.assert_allclose(dvae.decode(params, codes), sharp @ to_image, rtol=1e-9)


def replaced(**fields):
    return lambda: dataclasses.replace(MODEL, **fields)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (replaced(num_codes=6), "decoder of 45 tokens: expected 46, 40 of the text and 6 of"),
        (replaced(num_codes=0), "num_codes=0: expected a positive whole number"),
        (replaced(grid=(3, 2)), "12 positions: expected at least 14, for 9 tokens and a grid of 3"),
        (lambda: autoregressive.loss(MODEL, text_weight=-1.0), "text_weight=-1.0: expected a fin"),
        (lambda: autoregressive.loss(MODEL, image_weight=float("nan")), "image_weight=nan: exp"),
        (lambda: autoregressive.loss(MODEL, drop_rate=1.5), "drop_rate=1.5"),
        (lambda: autoregressive.generate(MODEL, {}, [], KEY), "prompts: got none"),
        (
            lambda: autoregressive.generate(MODEL, {}, "a", KEY, guidance=float("inf")),
            "guidance=inf: expected a finite number",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
