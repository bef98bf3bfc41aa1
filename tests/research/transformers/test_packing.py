"""Packed documents: each as if alone, with positions that start again, for every kind of position.

Two rows of documents of 3 and 5, and of 4 and 4 tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library import sharding
from research.attention import cache as attention_cache
from research.attention import masks, positions, ring
from research.language_models import caches
from research.transformers import layers, losses, models, published
from tests.research.transformers import cases

TOKENS = np.random.default_rng(0).integers(0, 11, (2, 8))
IDS = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1], [5, 5, 5, 5, 2, 2, 2, 2]])
CUTS = (3, 4)
RESTARTING = np.array([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1, 2, 3]])
STACK = layers.Stack(2, 12, 3, 20)
SCHEMES = {
    "rotary": {"rope": positions.Rope()},
    "learned": {},
    "alibi": {"alibi": True},
    "buckets": {"num_buckets": 8},
    "window": {"window": 2},
}


def scheme(name):
    """A decoder with this kind of position; a learned table beside a window."""
    stack = dataclasses.replace(STACK, **SCHEMES[name])
    return models.DecoderConfig(11, stack, max_length=8 if name in ("learned", "window") else None)


def apart(tokens, cuts):
    """The four documents as rows of their own [4, T], zeros behind them, and their lengths."""
    parts = [part for row, cut in zip(tokens, cuts) for part in (row[:cut], row[cut:])]
    rows = np.zeros((4, max(map(len, parts))), int)
    for row, part in zip(rows, parts):
        row[: len(part)] = part
    return rows, np.array([len(part) for part in parts])


def packed_again(alone):
    """Logits of the documents' own rows [4, T, V], side by side as they were packed, [2, 8, V]."""
    alone, (_, lengths) = np.asarray(alone), apart(TOKENS, CUTS)
    parts = [row[:length] for row, length in zip(alone, lengths)]
    return np.stack([np.concatenate(parts[:2]), np.concatenate(parts[2:])])


def test_positions_start_again_where_the_document_changes():
    np.testing.assert_array_equal(positions.in_documents(IDS), RESTARTING)
    ids = jnp.array([[7, 7, 3, 7]])  # a number that comes again is another piece
    np.testing.assert_array_equal(positions.in_documents(ids), [[0, 1, 0, 0]])
    with pytest.raises(AssertionError, match="rank"):
        positions.in_documents(ids[0])


@pytest.mark.parametrize("name", SCHEMES)
def test_a_decoder_reads_each_document_as_if_alone(name, x64):
    config = scheme(name)
    params, model = cases.random_params(config), models.Decoder(config)
    rows, _ = apart(TOKENS, CUTS)

    @jax.jit
    def both(places):
        packed = model.apply(params, TOKENS, places, masks.Documents(IDS))
        return packed, model.apply(params, rows)

    packed, alone = both(RESTARTING)
    np.testing.assert_allclose(packed, packed_again(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, make",
    [
        ("learned", attention_cache.contiguous),
        ("alibi", attention_cache.contiguous),
        ("rotary", caches.ring),
    ],
)
def test_a_cache_keeps_documents_by_slot(name, make, x64):
    """A prompt of 5, then 1 and 2 tokens: two documents share positions and no slot."""
    config, mask = scheme(name), masks.Documents(IDS)
    params, model = cases.random_params(config), models.Decoder(config)
    rows, _ = apart(TOKENS, CUTS)

    @jax.jit
    def both(places):
        cache, parts = models.empty_cache(config, 2, 8, jnp.float64, make), []
        for start, end in ((0, 5), (5, 6), (6, 8)):
            part, slots = slice(start, end), jnp.arange(start, end)[None]
            tokens, i = TOKENS[:, part], places[:, part]
            logits, cache = model.apply(params, tokens, i, mask, cache, slots=slots)
            parts.append(logits)
        return jnp.concatenate(parts, 1), model.apply(params, rows)

    read, alone = both(RESTARTING)
    np.testing.assert_allclose(read, packed_again(alone), rtol=1e-10, atol=1e-12)


def test_an_encoder_reads_each_document_as_if_alone(x64):
    config = published.bert(2, 12, 3, 11, max_length=10, masked_lm=True, first_position=2)
    params, model = cases.random_params(config), models.Encoder(config)
    rows, lengths = apart(TOKENS, CUTS)

    @jax.jit
    def both(places):
        packed = model.apply(params, TOKENS, mask=masks.Documents(IDS), positions=places)
        return packed["logits"], model.apply(params, rows, mask=masks.Padding(lengths))["logits"]

    packed, alone = both(RESTARTING)
    np.testing.assert_allclose(packed, packed_again(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["sinusoidal", "learned"])
def test_packed_pairs_are_translated_as_if_alone(name, x64):
    """Sources of other lengths than their targets; the target also through a cache."""
    encoder = dataclasses.replace(STACK, depth=1, causal=False)
    decoder = dataclasses.replace(STACK, depth=1, cross=True)
    options = {"sinusoidal": True} if name == "sinusoidal" else {"max_length": 8}
    config = models.EncoderDecoderConfig(11, encoder, decoder, **options)
    params, model = cases.random_params(config), models.EncoderDecoder(config)
    sources, source_ids = TOKENS[::-1, :6], np.array([[0, 0, 1, 1, 1, 1], [5, 2, 2, 2, 2, 2]])
    (source_rows, lengths), (target_rows, _) = apart(sources, (2, 1)), apart(TOKENS, CUTS)

    @jax.jit
    def all_three(places):
        i, across = positions.in_documents(source_ids), masks.Documents(IDS, source_ids)
        mask = masks.Documents(source_ids)
        memory = model.apply(params, sources, mask, positions=i, method="encode")
        options = {"mask": masks.Documents(IDS), "method": "decode"}
        whole = model.apply(params, TOKENS, memory, across, places, **options)
        cache = models.empty_cache(models.DecoderConfig(11, decoder), 2, 8, jnp.float64)
        parts = []
        for start in (0, 4):
            options["slots"] = jnp.arange(start, start + 4)[None]
            part, i = TOKENS[:, start : start + 4], places[:, start : start + 4]
            logits, cache = model.apply(params, part, memory, across, i, cache, **options)
            parts.append(logits)
        alone = model.apply(params, source_rows, target_rows, masks.Padding(lengths))
        return whole, jnp.concatenate(parts, 1), alone

    whole, pieces, alone = all_three(RESTARTING)
    np.testing.assert_allclose(whole, packed_again(alone), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(pieces, packed_again(alone), rtol=1e-10, atol=1e-12)


def test_a_ring_of_devices_reads_each_document_as_if_alone(x64):
    """Rotated by positions that start again, with ALiBi, on two devices."""
    rng, rope = np.random.default_rng(1), positions.Rope()
    query, key, value = (jnp.asarray(rng.normal(size=(2, 8, heads, 4))) for heads in (2, 1, 1))
    bias = positions.Alibi(jnp.array([0.5, 0.1]))
    mesh = sharding.make_mesh({"sequence": 2})

    @jax.jit
    def packed(query, key, value):
        mask = masks.every(masks.Causal(), masks.Documents(IDS))
        query, key = rope(query, RESTARTING), rope(key, RESTARTING)
        return ring.attend(query, key, value, mask, bias, mesh=mesh, axis="sequence")

    out = packed(query, key, value)
    for row, cut in enumerate(CUTS):
        q, k, v = (np.asarray(x)[row, cut:] for x in (query, key, value))
        angles = np.arange(8 - cut)[:, None] * np.array([1.0, 0.01])
        turn = np.exp(1j * angles)[:, None]
        q, k = (turn * (x[..., :2] + 1j * x[..., 2:]) for x in (q, k))
        logits = np.einsum("thk,sgk->hts", q, k.conj()).real / 2
        gap = np.arange(8 - cut)[:, None] - np.arange(8 - cut)
        logits = np.where(gap >= 0, logits - np.array([0.5, 0.1])[:, None, None] * gap, -np.inf)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(
            out[row, cut:], np.einsum("hts,sgk->thk", weights, v), atol=1e-12
        )


def test_the_loss_gives_documents_their_own_positions(x64):
    """A learned table: the mean over both documents' own losses, without the token between them."""
    config = scheme("learned")
    params, apply = cases.random_params(config), jax.jit(models.Decoder(config).apply)
    batch = {"tokens": TOKENS, "documents": IDS}
    loss, aux = jax.jit(losses.next_token(models.Decoder(config).apply))(params, {}, None, batch)
    rows, lengths = apart(TOKENS, CUTS)
    logits = np.asarray(apply(params, rows))
    law = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = [
        -law[row, place, rows[row, place + 1]]
        for row, length in enumerate(lengths)
        for place in range(length - 1)
    ]
    assert aux.weight == len(each) == 12
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-12)


def test_what_has_no_meaning_is_refused():
    config = scheme("rotary")
    model, mask = models.Decoder(config), masks.Documents(IDS)
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    cache = models.empty_cache(config, 2, 8)
    pair = models.EncoderDecoder(cases.TINY["t5"])
    for call, message in (
        (lambda p: model.apply(p, TOKENS, RESTARTING, mask, cache), "give slots"),
        (lambda p: model.apply(p, TOKENS[:, :7], mask=mask), r"ids \(2, 8\): expected \(2, 7\)"),
        (lambda p: model.apply(p, TOKENS, RESTARTING, masks.Documents(IDS[:, :7])), r"\(2, 7\)"),
        (lambda p: pair.init(jax.random.key(0), TOKENS, TOKENS, mask), "encode and decode"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(call, params)
