"""Losses: known optima, finite differences, what does not count, and BERT's masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from library.testing import check_gradient
from research.attention import masks
from research.transformers import losses

TABLE = np.random.default_rng(0).normal(size=(7, 7))  # float64, also under jit
TOKENS = np.random.default_rng(1).integers(0, 7, (3, 6))
CROSS_ENTROPY = jax.jit(losses.cross_entropy)


def bigram(params, tokens, mask=None, positions=None):
    return jnp.asarray(params)[tokens]


def test_the_bigram_table_of_counts_is_the_optimum(x64):
    """The loss of the empirical bigram law is its conditional entropy, and its gradient is zero."""
    counts = np.zeros((7, 7))
    np.add.at(counts, (TOKENS[:, :-1].ravel(), TOKENS[:, 1:].ravel()), 1)
    seen = counts.sum(1) > 0
    law = counts[seen] / counts[seen].sum(1, keepdims=True)
    entropy = -np.sum(counts[seen] * np.log(np.where(law > 0, law, 1))) / counts.sum()
    params = np.full((7, 7), -50.0)
    params[seen] = np.where(law > 0, np.log(np.where(law > 0, law, 1)), -50.0)
    loss_fn = losses.next_token(bigram)
    loss = lambda params: loss_fn(params, {}, None, {"tokens": TOKENS})[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, entropy, rtol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    check_gradient(loss, jnp.asarray(TABLE))


def test_what_is_masked_or_of_another_document_does_not_count(x64):
    documents = np.array([[0, 0, 0, 1, 1, 1]] * 3)
    mask = np.ones((3, 5)) * np.array([[1], [0], [1]])
    loss_fn = jax.jit(losses.next_token(bigram))
    batch = {"tokens": TOKENS, "documents": documents, "mask": mask}
    loss, aux = loss_fn(TABLE, {}, None, batch)
    each = CROSS_ENTROPY(TABLE[TOKENS[:, :-1]], TOKENS[:, 1:])
    assert aux.weight == 8
    np.testing.assert_allclose(loss, np.asarray(each)[[0, 2]][:, [0, 1, 3, 4]].mean())
    nothing = {"tokens": TOKENS, "mask": np.zeros((3, 5))}
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: loss_fn(p, {}, None, nothing)[0]))
    value, gradient = value_and_grad(TABLE)
    assert value == 0 and (gradient == 0).all()


def test_targets_outside_the_vocabulary_have_no_loss(x64):
    """Refused where they are known; under jit nan, but nothing where they don't count."""
    with pytest.raises(ValueError, match=r"targets: -100 is outside \[0, 5\)"):
        losses.cross_entropy(jnp.zeros((1, 2, 5)), jnp.array([[1, -100]]))
    with pytest.raises(ValueError, match=r"targets: 5 is outside"):
        losses.cross_entropy(jnp.zeros((1, 2, 5)), np.array([[1, 5]]))
    found = CROSS_ENTROPY(jnp.zeros((1, 3, 5)), jnp.array([[1, -100, 5]]))
    np.testing.assert_allclose(found, [[np.log(5), np.nan, np.nan]], rtol=1e-12)
    loss = losses.next_token(bigram)
    run = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, {}, None, batch)[0]))
    padded = np.where(np.arange(6) < 4, TOKENS, -100)
    mask = np.broadcast_to(np.arange(5) < 3, (3, 5))
    for mine, expected in zip(
        run(TABLE, {"tokens": padded, "mask": mask}), run(TABLE, {"tokens": TOKENS, "mask": mask})
    ):
        np.testing.assert_array_equal(mine, expected)
    assert np.isnan(run(TABLE, {"tokens": padded})[0])


def test_padding_is_neither_read_nor_predicted_by_masked_losses(x64):
    masking = losses.Masking(mask_token=0, vocab_size=7, rate=1.0)
    seen = []

    def apply(params, tokens, mask=None):
        seen.append(mask)
        return {"logits": bigram(params, tokens)}

    loss_fn = losses.masked_tokens(apply, masking)
    lengths = np.array([6, 2, 0])
    batch = {"tokens": np.where(np.arange(6) < lengths[:, None], TOKENS, -1), "lengths": lengths}
    loss, aux = jax.jit(lambda batch: loss_fn(TABLE, {}, jax.random.key(3), batch))(batch)
    read, _ = jax.jit(masking)(jax.random.key(3), batch["tokens"])
    there = np.arange(6) < lengths[:, None]
    each = CROSS_ENTROPY(TABLE[np.asarray(read)[there]], TOKENS[there])
    assert aux.weight == 8
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-12)
    assert isinstance(seen[0], masks.Padding) and seen[0].lengths.shape == (3,)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"first_token": 7}, "first_token=7: expected 0 to 6"),
        ({"mask_token": -1}, "mask_token=-1"),
    ],
)
def test_a_masking_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        losses.Masking(**{"mask_token": 4, "vocab_size": 7, **options})


def test_bert_masking_within_binomial_error():
    """200,000 tokens: every share within 5 standard errors (false alarm about 3e-6)."""
    masking = losses.Masking(mask_token=4, vocab_size=30, first_token=5)
    tokens = jax.random.randint(jax.random.key(0), (200, 1000), 3, 30)  # 3, 4: special
    tokens, read, chosen = map(np.asarray, (tokens, *jax.jit(masking)(jax.random.key(1), tokens)))
    special = tokens < 5
    assert not (chosen & special).any()
    np.testing.assert_array_equal(read[~chosen], tokens[~chosen])
    n, m = int((~special).sum()), int(chosen.sum())
    masked, kept = (read == 4) & chosen, (read == tokens) & chosen
    # A random token is the true one in one of 25 cases.
    for share, expected, count in (
        (m / n, 0.15, n),
        (masked.sum() / m, 0.8, m),
        (kept.sum() / m, 0.1 + 0.1 / 25, m),
    ):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    assert int(read.min()) >= 3 and int(read.max()) < 30


def test_masked_and_sequence_losses_count_their_tokens(x64):
    masking = losses.Masking(mask_token=0, vocab_size=7, rate=0.5)
    loss_fn = jax.jit(
        losses.masked_tokens(lambda params, tokens: {"logits": bigram(params, tokens)}, masking)
    )
    read, chosen = jax.tree.map(np.asarray, jax.jit(masking)(jax.random.key(3), TOKENS))
    loss, aux = loss_fn(TABLE, {}, jax.random.key(3), {"tokens": TOKENS})
    each = CROSS_ENTROPY(TABLE[read], TOKENS)
    np.testing.assert_allclose(loss, np.asarray(each)[chosen].mean(), rtol=1e-12)
    assert aux.weight == chosen.sum()
    right = (TABLE[read].argmax(-1) == TOKENS)[chosen].mean()
    np.testing.assert_allclose(aux.metrics["accuracy"], right, rtol=1e-6)
    seq = jax.jit(
        losses.sequence_to_sequence(lambda params, source, target, **_: bigram(params, target))
    )
    mask = np.ones((3, 5)) * (np.arange(5) < 3)
    batch = {"source": TOKENS, "target": TOKENS, "mask": mask}
    loss, aux = seq(TABLE, {}, None, batch)
    each = CROSS_ENTROPY(TABLE[TOKENS[:, :3]], TOKENS[:, 1:4])
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-12)


def test_a_model_gets_the_step_s_key_and_the_lengths_of_its_source(x64):
    """Only a loss that is told to drop hands the key on; hidden source tokens do not count."""
    rng, source = jax.random.key(5), np.array([[1, 2, 3], [4, 5, 6], [2, 2, 2]])
    lengths, target = np.array([3, 1, 2]), TOKENS

    def shifted(params, tokens, rng=None, **_):
        noise = 0.0 if rng is None else jax.random.normal(rng, (7,), jnp.float64)
        return bigram(params, tokens) + jnp.zeros((1, 1, 7)) + jnp.reshape(noise, (1, 1, -1))

    def read(params, source, target, source_mask=None, rng=None):
        seen = (
            jnp.ones((3, 3)) if source_mask is None else source_mask(0, jnp.arange(3)[None, None])
        )
        total = (seen.reshape(3, 3) * source).sum(1).astype(float)
        first = jnp.arange(7)[None, None] == 0
        return shifted(params, target, rng) + total[:, None, None] * first

    noise = np.asarray(jax.random.normal(rng, (7,), jnp.float64))
    plain, batch = (
        TABLE[TOKENS[:, :-1]],
        {"source": source, "target": target, "mask": np.ones((3, 5))},
    )
    first = np.eye(7)[0]
    for loss_fn, given, logits in (
        (losses.next_token(shifted), {"tokens": TOKENS}, plain),
        (losses.next_token(shifted, dropout=True), {"tokens": TOKENS}, plain + noise),
        (losses.sequence_to_sequence(read, dropout=True), batch,
         plain + noise + source.sum(1)[:, None, None] * first),
        (losses.sequence_to_sequence(read), {**batch, "source_lengths": lengths},
         plain + np.array([6, 4, 4])[:, None, None] * first),
    ):  # fmt: skip
        found = jax.jit(lambda batch, loss_fn=loss_fn: loss_fn(TABLE, {}, rng, batch)[0])(given)
        top = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -np.take_along_axis(top, TOKENS[:, 1:, None], -1).mean()
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError, match="shape"):
        losses.cross_entropy(jnp.zeros((2, 3, 7)), jnp.zeros((1, 3), int))
    seq = losses.sequence_to_sequence(lambda params, source, target: bigram(params, target))
    tokens = TOKENS[:, :4]  # three targets of three examples: a mask [B] would fit as [T]
    with pytest.raises(AssertionError, match="shape"):
        seq(TABLE, {}, None, {"source": tokens, "target": tokens, "mask": np.ones(3)})


def test_masks_are_weights(x64):
    """A weight of 1/2 counts half, of nan makes the loss nan; true counts as 1."""
    each = np.asarray(CROSS_ENTROPY(TABLE[TOKENS[:, :-1]], TOKENS[:, 1:]))
    weights = np.random.default_rng(2).uniform(size=each.shape) * (np.arange(5) != 2) / 20
    loss_fn = jax.jit(losses.next_token(bigram))
    loss, aux = loss_fn(TABLE, {}, None, {"tokens": TOKENS, "mask": weights})
    np.testing.assert_allclose(aux.weight, weights.sum(), rtol=1e-12)  # below 1
    np.testing.assert_allclose(loss, np.average(each, weights=weights), rtol=1e-12)
    rows = np.array([0.5, 0.0, 2.0])
    batch = {"source": TOKENS, "target": TOKENS, "mask": np.repeat(rows[:, None], 5, 1)}
    expected = np.average(each.mean(1), weights=rows)
    np.testing.assert_allclose(
        loss_fn(TABLE, {}, None, {"tokens": TOKENS, "mask": rows})[0], expected, rtol=1e-12
    )
    translate = losses.sequence_to_sequence(lambda params, source, target: bigram(params, target))
    loss, aux = translate(TABLE, {}, None, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    right = TABLE[TOKENS[:, :-1]].argmax(-1) == TOKENS[:, 1:]
    np.testing.assert_allclose(aux.metrics["accuracy"], np.average(right.mean(1), weights=rows))
    loss, _ = loss_fn(TABLE, {}, None, {"tokens": TOKENS, "mask": np.array([1, 1, np.nan])})
    assert np.isnan(loss)
