"""Hidden patches, spans and words: counts, laws, inverses, losses by loops, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from research.self_supervised import masking
from research.transformers import losses

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "num_patches, ratio, kept", [(10, 0.9, 1), (100, 0.8, 20), (196, 0.75, 49), (64, 0.75, 16)]
)
def test_exactly_so_many_are_kept(num_patches, ratio, kept):
    noise = RNG.uniform(size=(5, num_patches))
    masked = masking.random(noise, num_patches, ratio)
    assert masked.keep.shape == (5, kept) and masked.restore.shape == masked.mask.shape
    np.testing.assert_array_equal(masked.mask.sum(1), num_patches - kept)
    for row in range(5):  # the least noise is kept, in its order
        order = sorted(range(num_patches), key=noise[row].__getitem__)
        np.testing.assert_array_equal(masked.keep[row], order[:kept])
        hidden = np.isin(np.arange(num_patches), order[kept:])
        np.testing.assert_array_equal(masked.mask[row], hidden)
        np.testing.assert_array_equal(np.array(order)[masked.restore[row]], range(num_patches))


def test_keys_and_one_key():
    """Each row has its own key, whatever the batch; restore puts kept and hidden back."""
    rngs = jax.random.split(jax.random.key(0), 3)
    masked, one, flat = jax.jit(
        lambda rngs: [masking.random(x, 12, 0.5) for x in (rngs, rngs[1], jnp.arange(12.0))]
    )(rngs)
    for whole, alone in zip(jax.tree.leaves(masked), jax.tree.leaves(one)):
        np.testing.assert_array_equal(whole[1], alone)
    x = np.arange(12) * 10
    hidden = np.setdiff1d(np.arange(12), one.keep)
    np.testing.assert_array_equal(np.sort(one.restore[one.keep]), np.arange(6))
    np.testing.assert_array_equal(one.restore[one.keep], np.arange(6))
    assert (one.restore[hidden] >= 6).all() and one.keep.dtype == jnp.int32
    order = np.argsort(one.restore)
    np.testing.assert_array_equal(x[order][one.restore], x)
    np.testing.assert_array_equal(flat.mask, [0] * 6 + [1] * 6)


def test_each_patch_and_each_set_is_equally_often_hidden():
    """Chi-square of 10 sets of 2 out of 5 and of 5 patches, each level 1e-5."""
    draw = jax.jit(lambda rngs: masking.random(rngs, 5, 0.6).mask)
    mask = np.asarray(draw(jax.random.split(jax.random.key(1), 5000)))
    sets = np.unique(mask, axis=0, return_counts=True)[1]
    assert len(sets) == 10 and scipy.stats.chisquare(sets).pvalue > 1e-5
    assert scipy.stats.chisquare(mask.sum(0)).pvalue > 1e-5


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_the_mean_over_hidden_patches(normalise, x64):
    prediction, patches = RNG.normal(size=(2, 3, 4, 5))
    mask = np.array([[1.0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    total, count = 0.0, 0
    for b, n in itertools.product(range(3), range(4)):
        target = patches[b, n]
        if normalise:
            variance = sum((v - target.mean()) ** 2 for v in target) / 4
            target = (target - target.mean()) / np.sqrt(variance + 1e-6)
        if mask[b, n]:
            total += ((prediction[b, n] - target) ** 2).mean()
            count += 1
    loss = lambda p: masking.reconstruction_loss(p, patches, mask, normalise)
    value, gradient = jax.jit(jax.value_and_grad(loss))(prediction)
    np.testing.assert_allclose(value, total / count, rtol=1e-12)
    assert (np.asarray(gradient)[mask == 0] == 0).all()
    assert (np.abs(gradient)[mask == 1] > 0).all()
    direction = RNG.normal(size=prediction.shape)
    step = (loss(prediction + 1e-6 * direction) - loss(prediction - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(), step, rtol=1e-7)
    # A flat patch: its deviation of 0 meets eps alone.
    flat = masking.reconstruction_loss(np.zeros((1, 1, 4)), np.ones((1, 1, 4)), np.ones((1, 1)))
    assert flat == 0 and masking.reconstruction_loss(prediction, patches, 0 * mask) == 0
    tiny = 1e-3 * np.array([[[1.0, -1.0]]])  # variance 2e-6
    got = masking.reconstruction_loss(np.zeros((1, 1, 2)), tiny, np.ones((1, 1)))
    np.testing.assert_allclose(got, 1e-6 / 3e-6, rtol=1e-10)
    assert masking.reconstruction_loss(prediction, patches, mask) == pytest.approx(
        float(masking.reconstruction_loss(prediction, patches, mask, normalise=True)), rel=1e-14
    )


def test_a_perfect_prediction_has_the_pixels_back(x64):
    patches = RNG.normal(size=(2, 3, 5)) * 4 + 2
    spread = np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    target = (patches - patches.mean(-1, keepdims=True)) / spread
    assert masking.reconstruction_loss(target, patches, np.ones((2, 3))) < 1e-28
    np.testing.assert_allclose(masking.with_own_scale(target, patches), patches, rtol=1e-12)
    flat = np.zeros_like(patches)
    expected = np.broadcast_to(patches.mean(-1, keepdims=True), patches.shape)
    np.testing.assert_allclose(masking.with_own_scale(flat, patches), expected, rtol=1e-12)


def uncorrupted(inputs, targets, first_sentinel):
    """The text again: each sentinel of the inputs is what follows it in the targets."""
    text = []
    for token in inputs:
        if token <= first_sentinel - 50:
            text.append(token)
            continue
        place = list(targets).index(token) + 1
        while place < len(targets) and targets[place] <= first_sentinel - 50:
            text.append(targets[place])
            place += 1
    return text


@pytest.mark.parametrize(
    "length, options, hidden, count",
    [(40, {}, 6, 2), (512, {}, 77, 26), (21, {"density": 0.5, "mean_length": 2.0}, 10, 5),
     (4, {}, 1, 1), (9, {"density": 0.95}, 8, 1)],
)  # fmt: skip
def test_spans_have_exact_counts_and_give_the_text_back(length, options, hidden, count):
    if length == 9:
        options = {**options, "mean_length": 8.0}
    tokens = RNG.integers(0, 900, size=(3, length))
    rngs = jax.random.split(jax.random.key(2), 3)
    got = jax.jit(lambda rngs, tokens: masking.spans(rngs, tokens, 999, **options))(rngs, tokens)
    assert (got.inputs.shape[1], got.targets.shape[1]) == masking.span_lengths(length, **options)
    assert got.inputs.shape[1] == length - hidden + count and got.targets.shape[1] == hidden + count
    for row in range(3):
        mask = np.asarray(got.mask[row])
        assert mask.sum() == hidden and mask[0] == 0
        assert (np.diff(mask, prepend=0) == 1).sum() == count
        inputs, targets = np.asarray(got.inputs[row]), np.asarray(got.targets[row])
        assert uncorrupted(inputs, targets, 999) == tokens[row].tolist()
        sentinels = inputs[inputs > 949]
        np.testing.assert_array_equal(sentinels, 999 - np.arange(count))
        np.testing.assert_array_equal(targets[targets > 949], sentinels)
    if length != 21:
        return
    end = lambda rng, tokens: masking.spans(rng, tokens, 999, end_token=1, **options)
    alone = jax.jit(end)(rngs[1], tokens[1])
    np.testing.assert_array_equal(alone.inputs, [*np.asarray(got.inputs[1]), 1])
    np.testing.assert_array_equal(alone.targets, [*np.asarray(got.targets[1]), 1])


def test_all_cuts_into_spans_are_equally_likely():
    """7 tokens, 3 hidden in 2 spans: (4 = 1 + 3, ...) x (3 = 1 + 2, 2 + 1), 6 masks."""
    rngs = jax.random.split(jax.random.key(3), 3000)
    tokens = jnp.zeros((3000, 7), jnp.int32)
    draw = jax.jit(lambda rngs: masking.spans(rngs, tokens, 99, 0.43, 1.5).mask)
    counts = np.unique(draw(rngs), axis=0, return_counts=True)[1]
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-5


def test_whole_words_are_hidden_or_not():
    """Words of 1 to 3 tokens; 0 and 1 are special; a word is chosen with the rate."""
    continues = np.zeros(50, bool)
    continues[30:50] = True  # pieces that continue a word
    starts = lambda tokens: ~jnp.asarray(continues)[tokens]
    rule = masking.WholeWords(losses.Masking(60, 50, rate=0.3, first_token=2), starts)
    row = np.array([0, 5, 31, 32, 6, 7, 33, 1, 34, 35, 8, 9])
    words = [[1, 2, 3], [4], [5, 6], [8, 9], [10], [11]]  # what follows a special token is one
    tokens = jnp.asarray(np.broadcast_to(row, (4000, 12)))
    read, chosen = (np.asarray(x) for x in jax.jit(rule)(jax.random.key(4), tokens))
    assert not chosen[:, [0, 7]].any() and (read[~chosen] == np.asarray(tokens)[~chosen]).all()
    for word in words:
        assert (chosen[:, word] == chosen[:, word[:1]]).all()
    rates = chosen[:, [word[0] for word in words]].mean(0)
    assert (np.abs(rates - 0.3) < 4.5 * (0.21 / 4000) ** 0.5).all()
    pairs = np.corrcoef(chosen[:, [word[0] for word in words]].T) - np.eye(6)
    assert np.abs(pairs).max() < 5 / 4000**0.5  # words are chosen apart
    masked = (read == 60)[chosen]
    same = (read == np.asarray(tokens))[chosen]
    assert abs(masked.mean() - 0.8) < 0.02 and abs(same.mean() - 0.1 - 0.1 / 48) < 0.015
    assert read[chosen & (read != 60)].min() >= 2


def test_doubles_of_numpy_are_read_in_single_precision():
    patches = np.random.default_rng(5).normal(size=(2, 5, 4))
    mask = np.array([[1, 0, 1, 0, 0]] * 2)
    hidden = patches[mask == 1]
    expected = np.square(hidden - 2).mean()
    found = masking.reconstruction_loss(np.full_like(patches, 2), patches, mask, normalise=False)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    standard = (patches - patches.mean(-1, keepdims=True)) / patches.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(masking.with_own_scale(standard, patches), patches, rtol=1e-4)


def test_bad_input():
    rngs, tokens = jax.random.split(jax.random.key(0), 2), np.zeros((2, 8), int)
    one = jnp.ones((2, 3, 1))
    for broken, message in [
        (lambda: masking.random(rngs, 10, 0.99), "ratio=0.99 keeps nothing of 10 patches"),
        (lambda: masking.random(rngs, 10, 0.02), "ratio=0.02 hides nothing of 10 patches"),
        (lambda: masking.random(rngs, 10, 1.5), r"ratio=1.5: expected a number in \[0, 1\]"),
        (lambda: masking.random(rngs, 0, 0.5), "num_patches=0"),
        (lambda: masking.random(np.zeros((2, 9)), 10, 0.5), r"noise of shape \(2, 9\): expected"),
        (lambda: masking.random(np.zeros((1, 2, 10)), 10, 0.5), r"noise of shape \(1, 2, 10\)"),
        (lambda: masking.reconstruction_loss(one, one[:1], one[..., 0]), r"patches \(1, 3, 1\)"),
        (lambda: masking.reconstruction_loss(one, one, one), r"mask \(2, 3, 1\): expected"),
        (lambda: masking.reconstruction_loss(one, one, one[..., 0]), "patches of 1 number"),
        (
            lambda: masking.with_own_scale(one, one[:1]),
            r"patches \(1, 3, 1\): expected",
        ),
        (lambda: masking.with_own_scale(one, one), "patches of 1 number have no variance"),
        (lambda: masking.spans(rngs[:1], tokens, 99), r"rng \(1,\), tokens \(2, 8\): expected"),
        (lambda: masking.spans(rngs, tokens, 99, 0.0), "density=0.0: expected"),
        (lambda: masking.spans(rngs, tokens, 99, 0.5, 0.5), "mean_length=0.5: expected at least"),
        (lambda: masking.spans(rngs, tokens, 0, 0.5, 2.0), "first_sentinel=0: expected 2 sent"),
        (lambda: masking.spans(rngs, tokens, 99, 0.9, 1.0), "7 hidden spans among 1 visible"),
        (lambda: masking.span_lengths(1), "length=1: expected a whole number >= 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            broken()
