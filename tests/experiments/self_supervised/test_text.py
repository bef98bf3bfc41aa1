"""The study of masked pre-training: its text, its loss of chosen tokens only, its peers."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.self_supervised import _text, text
from research.language_models import byte_pairs_training
from research.self_supervised import finetune, probes
from research.transformers import losses

LENGTH = 6


@pytest.fixture(scope="module")
def pairs():
    prose = _text.as_reviews("a good film. a bad film. good good bad bad film film")
    return byte_pairs_training.train(byte_pairs_training.count_words([prose]), 264)


@pytest.fixture(scope="module")
def model():
    return _text.encoder(8, depth=1, width=4, length=LENGTH)


def start(model, seed=0):
    return jax.jit(lambda rng: _text.init(model, rng))(jax.random.key(seed))


@pytest.mark.parametrize(
    "prose, want",
    [
        ("Don\u2019t go, he said.", " do n't go , he said ."),
        ("It's Anna's; they'll well-known", " it 's anna 's they 'll well known"),
        ("\u201cNo!\u201d -- caf\u00e9?\n\nTwo  3rd", " no ! cafe ? two 3rd"),
        ("'tis 'quoted'", " ' tis ' quoted '"),
    ],
)
def test_prose_is_written_as_the_sentences_are(prose, want):
    assert _text.as_reviews(prose) == want
    assert _text.as_reviews(want) == want  # as it is read from SST-2


def test_sentences_end_in_their_lengths_and_are_cut(pairs, tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    with gzip.open(tmp_path / "text/sst2_dev.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("good\t1\nbad film film film film film film\t0\nnever read\t1\n")
    monkeypatch.setenv("ANSATZ_DATA", str(tmp_path))
    found = _text.Sentences.read("dev", 2, pairs, LENGTH)
    first = pairs.encode(" good")
    assert found.rows.shape == (2, LENGTH + 1)
    np.testing.assert_array_equal(found.rows[0, : len(first)], first)
    assert found.rows[:, -1].tolist() == [len(first), LENGTH]
    assert not found.rows[0, len(first) : -1].any()
    assert found.labels.tolist() == [1, 0]
    one = found.pick(np.array([1]))
    assert (one.words, one.labels.tolist()) == ([found.words[1]], [0])
    assert one.unlabelled()["lengths"].tolist() == [LENGTH]
    np.testing.assert_array_equal(one.unlabelled()["tokens"], found.rows[1:, :-1])


def test_whole_words_are_hidden_whole(pairs):
    tokens = jnp.asarray(pairs.encode(" good zebra film zebra" * 40))[None]
    hide = _text.hiding(pairs, True)
    _, chosen = hide(jax.random.key(0), tokens)
    begins = [pairs.tokens[token].startswith(b" ") for token in tokens[0].tolist()]
    word = np.cumsum(begins)
    for number in np.unique(word):
        assert len(set(np.asarray(chosen[0])[word == number].tolist())) == 1
    assert 0 < chosen.mean() < 0.4
    plain = _text.hiding(pairs, False)
    assert (plain.rate, plain.mask_token, plain.vocab_size) == (0.15, len(pairs), len(pairs))


@pytest.mark.parametrize("lengths", [None, [6, 5, 4, 6]])
def test_the_loss_of_chosen_tokens_is_that_of_the_library(model, lengths):
    with jax.enable_x64(True):
        params = start(model)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        params["bias"] = jnp.linspace(0.0, 1.0, 8)
        rng = jax.random.key(2)
        batch = {"tokens": jax.random.randint(rng, (4, LENGTH), 0, 7)}
        batch |= {} if lengths is None else {"lengths": jnp.asarray(lengths)}
        hide = losses.Masking(mask_token=7, vocab_size=7)

        def apply(params, tokens, **options):
            hidden = model.apply({"params": params["encoder"]}, tokens, **options)["hidden"]
            table = params["encoder"]["embedding"]
            return {"logits": jnp.einsum("btd,vd->btv", hidden, table) + params["bias"][None, None]}

        both = []
        for loss_fn in (_text.masked_loss(model, hide), losses.masked_tokens(apply, hide)):
            slopes = jax.value_and_grad(loss_fn, has_aux=True)
            both.append(jax.jit(lambda p, slopes=slopes: slopes(p, {}, rng, batch))(params))
        assert 0 < both[1][0][1].weight <= 6  # of 24, within the room
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *both)


def test_tokens_beyond_the_room_do_not_count(model):
    params = start(model)
    tokens = jax.random.randint(jax.random.key(1), (4, LENGTH), 0, 7)
    every = lambda rng, tokens: (tokens, jnp.ones(tokens.shape, bool))
    first = lambda rng, tokens: (tokens, (jnp.arange(24) < 6).reshape(4, LENGTH))
    run = lambda hide: jax.jit(_text.masked_loss(model, hide))(
        params, {}, jax.random.key(0), {"tokens": tokens}
    )
    found = [run(hide) for hide in (every, first)]
    assert found[0][1].weight == found[1][1].weight == 6
    assert found[0][0] == found[1][0]


def test_a_constant_guess_finds_the_share_of_its_token(model):
    params = start(model)
    params = jax.tree.map(jnp.zeros_like, params)
    params["bias"] = params["bias"].at[2].set(9.0)
    tokens = np.where(np.arange(6000) % 5 < 3, 2, 4)
    found, usual = _text.guessed(model, params, tokens, LENGTH, most=900)
    np.testing.assert_allclose(usual, 0.6, atol=1e-3)
    np.testing.assert_allclose(found, 0.6, atol=0.07)  # 810 hidden tokens: four standard errors
    assert _text.guessed(model, params, np.full(60, 4), LENGTH, most=9)[0] == 0


def toy(count):
    """Sentences that are positive where they hold token 1 in place of 2."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 2
    rows = np.zeros((count, LENGTH + 1), np.int32)
    rows[:, 1:4] = rng.integers(3, 6, (count, 3))
    rows[:, 0], rows[:, -1] = np.where(labels == 1, 1, 2), 4
    words = [f"{'fine' if y else 'dull'} film {k % 3}" for k, y in enumerate(labels)]
    return _text.Sentences(words, labels, rows)


def test_what_separates_is_found_by_tuning_by_a_probe_and_by_words(model):
    params = start(model)["encoder"]
    task = finetune.Task(_text.reader(model), 2, inputs="rows")
    tune = _text.tuner(task, 0.03, 40, batch_size=8)
    few, test = toy(20), toy(30)
    assert tune(params, few, test, 0) == 1.0
    turned = _text.Sentences(test.words, 1 - test.labels, test.rows)
    assert tune(params, few, turned, 0) == 0.0
    part = _text.reader(model)
    x, test_x = (part.apply(params, {}, each.rows, False, None)[0] for each in (few, test))
    known = probes.linear(x, few.labels, test_x, test.labels, l2=1e-3).accuracy
    assert _text.probed(model, {"fresh": params}, few, test) == {"fresh": known}
    assert _text.tf_idf(few, test) == 1.0
    assert _text.tf_idf(few, turned) == 0.0


def test_stages_follow_one_another_and_none_leaves_the_start(model):
    hide = losses.Masking(mask_token=7, vocab_size=7)
    source = toy(8).unlabelled()
    none = _text.pretrained(model, hide, [(source, 0, 0.1), (source, 0, 0.1)], 4, seed=2)
    jax.tree.map(np.testing.assert_array_equal, none, start(model, 2))
    one = _text.pretrained(model, hide, [(source, 0, 0.1), (source, 2, 0.1)], 4, seed=2)
    assert abs(one["bias"] - none["bias"]).max() > 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tune_steps": (3, 4)}, r"tune_steps=\(3, 4\): expected 3 numbers"),
        ({"labels": (10,)}, r"labels=\(10,\): expected 2 numbers"),
        ({"labels": (10, 21)}, r"labels=\(10, 21\): expected even numbers"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    config = text.Config(**{"labels": (10, 20), "tune_steps": (3, 4, 5), **changes})
    with pytest.raises(ValueError, match=message):
        text.run(config, None)
