"""What the questions on text make of losses and accuracies: means, spreads, bounds, claims."""

import dataclasses
import math

import numpy as np
import pytest

from experiments.transformers import _options
from experiments.transformers.masked_lm import judged
from experiments.transformers.masked_lm import question as masked_lm
from experiments.transformers.seq2seq import length_runs, picture
from experiments.transformers.seq2seq import question as seq2seq
from experiments.transformers.shakespeare import picture as losses_picture
from experiments.transformers.shakespeare import question as shakespeare
from library import report, training
from library.data import text
from research.transformers import losses


def stated(result):
    claims = getattr(result, "claims", result)
    return {claim.name: (claim.measured, claim.relation, claim.expected) for claim in claims}


def test_shakespeare_judges_the_mean_of_the_seeds_and_the_worst():
    """Three seeds of two evaluations; the spread is the sample deviation of the last ones."""
    curves = np.array([[2.0, 1.9], [1.7, 1.8], [2.2, 2.3]])
    result = shakespeare._result(shakespeare.Config(num_seeds=3), curves, trigram=2.25)
    assert result.metrics == {
        "validation": pytest.approx(2.0),
        "validation_std_over_seeds": pytest.approx(math.sqrt(0.07)),
        "best_validation": pytest.approx((1.9 + 1.7 + 2.2) / 3),
        "trigram": 2.25,
        "validation_seed_0": 1.9,
        "validation_seed_1": 1.8,
        "validation_seed_2": 2.3,
    }
    best, last, worst = result.claims
    assert (best.measured, best.relation, best.expected) == (pytest.approx(5.8 / 3), "<=", 1.90)
    assert (last.measured, last.relation, last.expected) == (pytest.approx(2.0), "<=", 1.90)
    assert (worst.measured, worst.relation, worst.expected) == (2.3, "<", 2.25)
    assert [claim.source.kind for claim in result.claims] == ["paper", "paper", "baseline"]
    assert "mean of 3 seeds" in best.source.text
    one = shakespeare._result(shakespeare.Config(num_seeds=1), curves[:1], trigram=2.25)
    assert one.metrics["validation_std_over_seeds"] == 0
    with pytest.raises(ValueError, match="num_seeds=0"):
        shakespeare.run(shakespeare.Config(num_seeds=0), None)


def test_shakespeare_draws_the_mean_between_its_extremes():
    curves = np.array([[2.0, 1.0], [4.0, 2.0]])
    axes = losses_picture.draw(np.array([5, 10]), curves, trigram=3.0).axes[0]
    lines = [np.stack(line.get_data()).tolist() for line in axes.lines]
    assert lines[:2] == [[[5, 10], [3, 1.5]], [[5, 10], [3, 3]]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(5, 2), (5, 4), (10, 1), (10, 2)}


def means(trained, longer, digits=2):
    """[2 N] of constant values below and above N."""
    return np.repeat([trained, longer], digits)


def test_seq2seq_means_by_length_become_metrics_and_claims(monkeypatch, tmp_path):
    """T5 goes half as far as ALiBi on one task and further on the other; means over tasks count."""
    rows = {
        ("sort", "none"): means(1.0, 0.8), ("sort", "t5"): means(0.995, 0.5),
        ("sort", "alibi"): means(0.5, 0.9), ("reverse", "none"): means(0.3, 0.0),
        ("reverse", "t5"): means(1.0, 0.3), ("reverse", "alibi"): means(0.99, 0.1),
    }  # fmt: skip
    monkeypatch.setattr(
        seq2seq, "_mean_accuracies", lambda config, task, encoding, out: rows[task, encoding]
    )
    config = seq2seq.Config(
        tasks=("sort", "reverse"), encodings=("none", "t5", "alibi"), digits=2, num_test=100
    )
    result = seq2seq.run(config, report.RunDir(tmp_path))
    assert result.metrics["sort_alibi_trained"] == 0.5
    assert result.metrics["sort_alibi_longer"] == pytest.approx(0.9)
    found = stated(result)
    at = "exact match at the trained lengths"
    assert found[f"sort, T5 buckets: {at}"] == (pytest.approx(0.995), ">=", 0.99)
    assert found[f"reverse, ALiBi: {at}"] == (pytest.approx(0.99), ">=", 0.99)
    assert f"sort, none: {at}" not in found
    beyond = "exact match beyond the trained lengths, mean of tasks: T5 against ALiBi"
    assert found[beyond] == (pytest.approx(0.4), ">", pytest.approx(0.5))
    assert len(found) == 4 + 1 + 1
    # Reversal without positions: 10 of 10 and 55 of 100 strings; four standard errors of a mean.
    control = result.claims[-1]
    assert (control.measured, control.relation) == (pytest.approx(0.3), "<=")
    assert control.expected == pytest.approx((1 + 0.55) / 2, rel=1e-12)
    assert control.tolerance == pytest.approx(4 * math.sqrt(0.55 * 0.45 / 100) / 2, rel=1e-12)
    assert control.source.kind == "theorem"


def test_seq2seq_trains_every_seed_in_a_folder_of_its_own(monkeypatch, tmp_path):
    seen = []

    def accuracies(task, encoding, size, out, *, run, **rest):
        seen.append((task, encoding, out.path.name, run.seed, rest))
        return np.full(4, float(run.seed))

    monkeypatch.setattr(length_runs, "accuracies", accuracies)
    config = seq2seq.Config(num_seeds=2, run=training.RunOptions(seed=5), num_test=7)
    for task in ("reverse", "add"):
        found = seq2seq._mean_accuracies(config, task, "t5", report.RunDir(tmp_path))
        np.testing.assert_array_equal(found, np.full(4, 5.5))
    rest = {"batch_size": 64, "learning_rate": 2e-3, "num_test": 7}
    sort, add = length_runs.Task("reverse", 8, 1000), length_runs.Task("add", 6, 3000)
    assert seen == [
        (sort, "t5", "reverse-t5-5", 5, rest), (sort, "t5", "reverse-t5-6", 6, rest),
        (add, "t5", "add-t5-5", 5, rest), (add, "t5", "add-t5-6", 6, rest),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tasks": ()}, "tasks="),
        ({"tasks": ("sort", "copy")}, "tasks="),
        ({"encodings": ("rope",)}, "encodings="),
        ({"digits": 0}, "digits, add_digits"),
        ({"add_digits": 0}, "digits, add_digits"),
        ({"num_test": 0}, "num_test"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"num_steps": 1}, "at least 2 steps"),
        ({"add_steps": 1}, "at least 2 steps"),
        ({"tasks": ("add",), "encodings": ("none",)}, "without positions"),
    ],
)
def test_bad_options_of_seq2seq_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        seq2seq.run(dataclasses.replace(seq2seq.Config(), **change), None)


def test_the_least_options_of_seq2seq_are_taken():
    least = {"digits": 1, "add_digits": 1, "num_test": 1, "num_seeds": 1}
    seq2seq._check(seq2seq.Config(num_steps=2, add_steps=2, **least))
    seq2seq._check(seq2seq.Config(tasks=("add",)))
    seq2seq._check(seq2seq.Config(encodings=("none",)))


def test_seq2seq_draws_percent_by_length_and_shades_what_was_trained():
    rows = {("sort", "none"): np.array([1.0, 0.5, 0.25, 0.0]), ("add", "t5"): np.ones(2)}
    left, right = picture.draw(rows).axes
    np.testing.assert_array_equal(left.lines[0].get_data(), [[1, 2, 3, 4], [100, 50, 25, 0]])
    assert left.patches[0].get_x() == 1 and left.patches[0].get_width() == 1  # to N = 2
    assert (left.get_xlabel(), right.get_xlabel()) == ("digits", "digits of each number")
    assert (left.get_title(loc="left") or left.get_title()) == "Sorting"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["none"]
    assert (left.lines[0].get_linestyle(), right.lines[0].get_linestyle()) == ("--", "-")


def test_architectures_differ_in_how_they_know_places():
    size = _options.Size(depth=3, width=16, num_heads=2)
    made = {name: length_runs.architecture(name, size, 9) for name in length_runs.ENCODINGS}
    for name, config in made.items():
        assert (config.encoder.causal, config.decoder.causal) == (False, True)
        assert (config.encoder.cross, config.decoder.cross) == (False, True)
        assert config.embed_scale == 4.0 and config.encoder.init_std == 0.25
        assert config.encoder.unroll == 3
        assert config.sinusoidal == (name == "sinusoidal")
        assert (config.max_length == 9) == (name == "learned")
        for half in (config.encoder, config.decoder):
            assert (half.rope is not None) == (name == "rotary")
            assert bool(half.alibi) == (name == "alibi")
            assert (half.num_buckets == 32) == (name == "t5")


def test_masked_lm_needs_both_the_accuracy_and_the_loss():
    result = masked_lm._against(
        "two-sided trigram",
        {"accuracy": 0.6, "loss": 1.5, "accuracy_over_all_chosen": 0.7},
        {"accuracy": 0.5, "loss": 1.25},
    )
    assert result.metrics == {"two-sided_trigram_accuracy": 0.5, "two-sided_trigram_loss": 1.25}
    right, loss = result.claims
    assert (right.measured, right.relation, right.expected) == (0.6, ">", 0.5) and right.holds
    assert (loss.measured, loss.relation, loss.expected) == (1.5, "<", 1.25) and not loss.holds


def test_masked_lm_draws_shares_in_percent():
    counts = {name: {"accuracy": 0.1 * i} for i, name in enumerate(masked_lm.CONTEXTS, 1)}
    axes = masked_lm._figure(np.array([[10, 0.25], [20, 0.5]]), counts).axes[0]
    drawn = [line.get_ydata().tolist() for line in axes.lines[:4]]
    assert drawn == [[25, 50], [10, 10], [20, 20], pytest.approx([30, 30])]


def test_masked_lm_is_bert_with_three_changes():
    """The model of the README: four layers of width 128, learned positions, ALiBi and rotations."""
    config = masked_lm._model(masked_lm.Config(), 60).config
    assert config.vocab_size == 61 and config.max_length == 64  # the mask token too
    stack = config.stack
    assert stack.pre_norm and stack.alibi and stack.rope is not None
    assert stack.init_std == pytest.approx(128**-0.5) and stack.unroll == 4


def test_windows_that_are_judged_lie_evenly_and_keep_their_neighbours():
    tokens = np.arange(100) % 7
    masking = losses.Masking(mask_token=7, vocab_size=7)
    held_out = judged.Judged.of(tokens, masking, 3, 16)
    np.testing.assert_array_equal(held_out.places[:, 0], [2, 42, 82])  # 2 + 80 k / 2
    assert held_out.places.max() == 97  # two characters remain after the last
    with pytest.raises(ValueError, match="num_judged=0"):
        judged.Judged.of(tokens, masking, 0, 16)


def test_the_optimizer_decays_matrices_only_and_ends_at_its_rate():
    """AdamW by hand: first update rate * (sign + decay w) of a matrix, rate * sign of a bias."""
    fit = _options.Fit(batch_size=1, learning_rate=0.1, warmup=2)
    optimizer = fit.optimizer(10, 0.95, weight_decay=0.5, end=0.02)
    params = {"dense": {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.ones(2, np.float32)}}
    grads = {"dense": {"kernel": np.full((2, 2), 1e-3, np.float32),
                       "bias": np.full(2, 1e-3, np.float32)}}  # fmt: skip
    state, rates = optimizer.init(params), []
    for _ in range(11):
        updates, state = optimizer.update(grads, state, params)
        rates.append(-float(updates["dense"]["bias"][0]))
        ratio = float(updates["dense"]["kernel"][0, 0] / updates["dense"]["bias"][0])
        if rates[-1]:
            assert ratio == pytest.approx(1 + 0.5 * 3, rel=1e-4)
    assert max(rates) == pytest.approx(0.1, rel=1e-4) and np.argmax(rates) in (1, 2)
    assert rates[-1] == pytest.approx(0.02, rel=1e-3)


def test_the_last_tenth_of_a_text_is_held_out():
    train, validation = text.split(np.arange(50))
    assert len(train) == 45 and validation[0] == 45
