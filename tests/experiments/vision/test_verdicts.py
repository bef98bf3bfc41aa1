"""What `vision.vit_vs_cnn` makes of accuracies: leads, spreads, a crossover, fair pairs."""

import dataclasses
import json
import types

import numpy as np
import pytest

from experiments.vision.vit_vs_cnn import classifiers, ladders, picture, question, sets
from library import report, training

PLAIN = {("CNN", False): np.array([[90.0, 94.0], [96.0, 98.0]]),
         ("ViT", False): np.array([[80.0, 90.0], [97.0, 98.0]])}  # fmt: skip
CROPPED = {("CNN", True): np.array([[92.0, 92.0], [99.0, 99.0]]),
           ("ViT", True): np.array([[91.0, 90.0], [98.0, 99.0]])}  # fmt: skip


def test_leads_are_paired_and_their_means_and_spreads_are_kept():
    result = ladders.leads("digits", (50, 100), PLAIN | CROPPED)
    found = result.metrics
    assert found["digits_CNN_plain_50_mean"] == 92
    assert found["digits_CNN_plain_50_std"] == pytest.approx(8**0.5)
    assert found["digits_lead_plain_50_mean"] == 7 and found["digits_lead_plain_100_mean"] == -0.5
    assert found["digits_lead_plain_50_std"] == pytest.approx(18**0.5)
    assert found["digits_lead_augmented_50_mean"] == 1.5
    assert found["digits_crossover_plain"] == 100  # from there on the ViT is level or ahead
    assert found["digits_crossover_augmented"] == 0
    ahead, narrower = result.claims
    assert (ahead.measured, ahead.relation, ahead.expected) == (3.25, ">", 0)
    assert (narrower.measured, narrower.relation, narrower.expected) == (1, "<", 3.25)
    assert [claim.source.kind for claim in result.claims] == ["paper", "baseline"]


def test_a_lead_of_nothing_is_a_crossover():
    level = {key: np.full((1, 1), 50.0) for key in PLAIN | CROPPED}
    found = ladders.leads("x", (7,), level).metrics
    assert (found["x_crossover_plain"], found["x_lead_plain_7_std"]) == (7, 0)


def test_errors_are_drawn_with_one_deviation_but_never_below_half():
    results = {
        ("CNN", False): np.array([[90.0, 94.0], [99.0, 97.0]]),
        ("ViT", True): np.array([[99.0, 91.0], [98.0, 98.0]]),
    }
    axes = picture.labels("digits", (10, 100), results).axes[0]
    lines = [line.get_ydata().tolist() for line in axes.lines[:2]]
    assert lines == [[8, 2], [5, 2]] and axes.get_xscale() == axes.get_yscale() == "log"
    ends = [{tuple(v) for v in c.get_paths()[0].vertices} for c in axes.collections]
    assert ends[0] == {(10, 6), (10, 10), (100, 1), (100, 3)}
    assert ends[1] == {(10, 2.5), (10, 9), (100, 2)}


def test_all_labels_are_trained_on_augmented_with_one_seed(monkeypatch, tmp_path):
    asked, names = [], iter("CNN ViT".split())

    def train(learner, data, augment, part, **options):
        asked.append((learner, augment, part.path.name, options))
        part.path.mkdir()
        (part.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "wall": 90.0}) + "\n")
        return next(names)

    monkeypatch.setattr(classifiers, "train", train)
    monkeypatch.setattr(
        classifiers, "accuracies", lambda learner, state, test: [99.3 if state == "CNN" else 97.4]
    )
    which = types.SimpleNamespace(
        name="mnist", learners={"CNN": 1, "ViT": 2}, augment="crop", test=None,
        train={"label": np.zeros(60)},
    )  # fmt: skip
    config = question.Config(run=training.RunOptions(seed=4))
    result = question._all_labels(config, which, report.RunDir(tmp_path))
    options = {"seeds": [4], "num_labels": 60, "num_steps": 4000, "batch_size": 128,
               "learning_rate": 3e-3, "options": config.run}  # fmt: skip
    assert asked == [(1, "crop", "mnist_CNN_all", options), (2, "crop", "mnist_ViT_all", options)]
    assert result.metrics == {"mnist_CNN": 99.3, "mnist_ViT": 97.4, "mnist_CNN_minutes": 1.5,
                              "mnist_ViT_minutes": 1.5}  # fmt: skip
    stated = [(c.measured, c.relation, c.expected) for c in result.claims]
    assert stated == [(99.3, ">=", 99.2), (1.5, "<=", 10), (97.4, ">=", 97.5)]


def test_pairs_have_as_many_parameters_as_the_readme_says():
    """1.03 on the digits, 0.95 on MNIST, of the networks that the default trains."""
    digits = question._sizes(sets.digits(False)).claims[0]
    assert digits.measured == pytest.approx(1.03, abs=5e-3) and digits.holds
    data = {"image": np.zeros((2, 28, 28, 1), np.uint8), "label": np.zeros(2, int)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets.mnist_data, "arrays", lambda split: data)
        pair = question._sizes(sets.mnist.__wrapped__())
    assert pair.claims[0].measured == pytest.approx(0.95, abs=5e-3)
    assert set(pair.metrics) == {"mnist_CNN_parameters", "mnist_ViT_parameters"}


def test_images_are_brought_to_one():
    found = sets._unit({"image": np.array([0, 8, 16], np.uint8), "label": 1}, 16)
    assert found["image"].tolist() == [0, 0.5, 1] and found["label"] == 1
    assert sets.digits(True).test["image"].max() == 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": ()}, "labels="),
        ({"labels": (0,)}, "labels="),
        ({"labels": (50, 1498)}, "from 1 to 1497"),
        ({"mnist_labels": (60_001,)}, "from 1 to 60000"),
        ({"num_seeds": 0}, "num_seeds=0"),
        ({"batch_size": 1}, "batches of 2"),
    ],
)
def test_bad_options_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        question._check(dataclasses.replace(question.Config(), **change))


def test_the_least_options_are_taken():
    question._check(question.Config(labels=(1, 1497), mnist_labels=(), num_seeds=1, batch_size=2))


@pytest.mark.parametrize("augment", [None, "flip"])
def test_the_loss_is_cross_entropy_of_augmented_images(monkeypatch, augment):
    monkeypatch.setattr(
        classifiers.augmentation, "each", lambda augment, rngs, images: images + 1.0
    )
    logits = lambda params, state, x, train: (np.stack([x, 0 * x], 1), state + train)  # noqa: E731
    loss_fn = classifiers._loss(classifiers.Learner(None, logits), augment)
    batch = {"image": np.array([0.0, 2.0], np.float32), "label": np.array([0, 1])}
    loss, aux = loss_fn(None, 1, np.zeros(2), batch)
    x = np.array([0.0, 2.0]) + (augment is not None)
    expected = np.mean(np.log1p(np.exp(x)) - x * [1, 0])
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert (aux.weight, aux.model_state) == (2, 2)
