"""What the transformer studies stand on: right answers, exact match, counts, bounds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.transformers import _options
from experiments.transformers.masked_lm import judged
from experiments.transformers.seq2seq import length_runs, question, sequences
from library.types import TrainState
from research.language_models import ngrams
from research.transformers import losses, models

EXAMPLES = jax.jit(sequences.examples, static_argnums=(0, 3))
SIZE = _options.Size(depth=1, width=16, num_heads=2)


def words(batch, name):
    """Each row without its frame, as lists; the frame and the padding are checked."""
    for row in np.asarray(batch[name]):
        end = int(np.flatnonzero(row == sequences.END)[0])
        assert row[0] == sequences.START and (row[end + 1 :] == sequences.PAD).all()
        assert not np.isin(row[1:end], [sequences.START, sequences.END, sequences.PAD]).any()
        yield list(row[1:end])


@pytest.mark.parametrize("task", sequences.TASKS)
def test_answers_are_right_and_lengths_are_told(task):
    digits = jnp.arange(200) % 4 + 1
    batch = EXAMPLES(task, jax.random.key(0), digits, 4)
    source_length, target_length = sequences.lengths_of(task, 4)
    assert batch["source"].shape == (200, source_length)
    assert batch["target"].shape == (200, target_length)
    given, answers = list(words(batch, "source")), list(words(batch, "target"))
    for n, source, answer, length in zip(digits, given, answers, batch["source_lengths"]):
        assert length == len(source) + 2
        if task == "add":
            cut = source.index(sequences.PLUS)
            a, b = source[:cut], source[cut + 1 :]
            assert len(a) == len(b) == n and len(answer) == n + 1
            number = [sum(10**i * int(d) for i, d in enumerate(x)) for x in (a, b, answer)]
            assert number[0] + number[1] == number[2]
        else:
            assert len(source) == n
            assert answer == (sorted(source) if task == "sort" else source[::-1])
    np.testing.assert_array_equal(batch["mask"].sum(1), [len(answer) + 1 for answer in answers])
    firsts = np.bincount([source[0] for source in given], minlength=10)
    assert firsts.min() > 5  # of 200 uniform digits: below 1e-4 by chance, and the seed is fixed
    with pytest.raises(ValueError, match="task='copy'"):
        sequences.examples("copy", jax.random.key(0), digits, 4)


def sorts_until_three(params, source, target, mask):
    """Logits of a sorter that reads its own prefix and, after a 3, takes the largest first."""
    digits = jnp.arange(10)[None, None]
    left = (source[:, :, None] == digits).sum(1)[:, None]  # [B, 1, 10]
    left = left - jnp.cumsum(target[:, :, None] == digits, axis=1)  # [B, T, 10]
    three = jnp.cumsum(target == 3, axis=1)[:, :, None] > 0
    order = jnp.where(three, digits, -digits) + 20.0
    end = jnp.ones((*target.shape, sequences.VOCAB_SIZE - 10))
    logits = jnp.concatenate([jnp.where(left > 0, order, 0.0), end], axis=-1)
    return logits.at[..., sequences.END].add(0.5)


def test_exact_match_is_what_greedy_decoding_gets_right():
    batch = EXAMPLES("sort", jax.random.key(1), jnp.arange(64) % 4 + 1, 4)

    @jax.jit
    def greedy(source):
        answer = jnp.full((64, 1), sequences.START)
        for _ in range(5):
            logits = sorts_until_three(None, source, answer, None)
            answer = jnp.concatenate([answer, logits[:, -1:].argmax(-1)], axis=1)
        return answer

    exact = jax.jit(lambda batch: length_runs.exact_match(sorts_until_three, None, batch))
    right, written = np.asarray(exact(batch)), np.asarray(greedy(batch["source"]))
    wrong = (written != batch["target"])[:, 1:] & batch["mask"]
    np.testing.assert_array_equal(right, ~wrong.any(1))
    # A 3 is harmless where nothing but itself comes after it, or one digit only.
    after = [
        sorted(word)[sorted(word).index(3) :] if 3 in word else []
        for word in words(batch, "source")
    ]
    np.testing.assert_array_equal(right, [len(set(rest[1:])) < 2 for rest in after])
    assert 0 < right.sum() < 64


@pytest.mark.parametrize("encoding", ["none", "rotary"])
def test_only_positions_make_the_order_of_the_source_matter(encoding):
    model = models.EncoderDecoder(length_runs.architecture(encoding, SIZE, 8))
    source = jnp.array([[sequences.START, 1, 2, 3, sequences.END], [sequences.START, 3, 1, 2, 12]])
    target = jnp.full((2, 3), sequences.START)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: noise.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), source, target),
    )
    logits = np.asarray(jax.jit(model.apply)(params, source, target))
    apart = np.abs(logits[0] - logits[1]).max()
    assert apart < 1e-5 if encoding == "none" else apart > 1e-3


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_the_bound_of_reversal_by_enumeration(digits):
    strings = list(itertools.product(range(10), repeat=digits))
    answers = {tuple(sorted(string)): string for string in strings}  # one for each multiset
    right = sum(answers[tuple(sorted(string))] == string for string in strings)
    assert question.reversal_bound(digits) == pytest.approx(right / len(strings), rel=1e-12)


def test_examples_are_split_over_processes(monkeypatch):
    """Two processes take other rows, in the order of the batch that one takes whole."""
    task = length_runs.Task("sort", 3, 10)
    whole = length_runs.batches(task, 6, seed=2)(4)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        parts.append(length_runs.batches(task, 6, seed=2)(4))
    for name, rows in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)


class Says:
    """A model of five characters whose log-probabilities do not depend on what it reads."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def apply(self, params, read):
        return {"logits": jnp.broadcast_to(self.logits, (*read.shape, 5))}


def test_a_model_that_says_the_unigrams_is_judged_as_their_counts():
    rng = np.random.default_rng(0)
    train, text = rng.choice(4, 500, p=[0.5, 0.2, 0.2, 0.1]), rng.choice(4, 400)
    masking = losses.Masking(mask_token=4, vocab_size=4)
    held_out = judged.Judged.of(text, masking, 24, 16)
    counts = held_out.counts(train, ())
    law = np.append(ngrams.conditional(train, (), 4)[0], 1e-30)  # the mask is never the answer
    state = TrainState(step=0, rng=None, params={}, model_state={}, opt_state={}, ema=None)
    found = held_out.evaluation(Says(np.log(law)))(state)
    assert found["eval/loss"] == pytest.approx(counts["loss"], rel=1e-6)
    truth = text[held_out.places]
    assert 20 < held_out.count == (held_out.read == 4).sum()
    assert found["eval/accuracy"] == counts["accuracy"] == (truth[held_out.read == 4] == 0).mean()
    assert found["eval/accuracy_over_all_chosen"] == (truth[held_out.chosen] == 0).mean()
    np.testing.assert_array_equal(held_out.read[~held_out.chosen], truth[~held_out.chosen])
    with pytest.raises(ValueError, match="num_judged=381: expected 1 to 380"):
        judged.Judged.of(text, masking, 381, 16)
