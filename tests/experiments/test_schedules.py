"""How the studies train: clipping, warm-up, decay and the last rate, as their READMEs say."""

import types

import jax
import numpy as np
import pytest

from experiments.language_models.inference import question as inference
from experiments.score_sde import _images, _options
from experiments.score_sde.toys import checkerboard
from experiments.transformers import _options as text_options
from experiments.transformers.seq2seq import length_runs
from experiments.vae import images as vae_images
from experiments.vae import ladder as vae_ladder
from experiments.vae import mnist as vae_mnist
from experiments.vision.vit_vs_cnn import classifiers
from library import training

RUN = training.RunOptions(seed=3)


def of_inference():
    config = inference.Config(num_steps=50, run=RUN)
    inference._train(config, None, types.SimpleNamespace(apply=None), np.arange(200))


def of_sequences():
    size = text_options.Size(depth=1, width=8, num_heads=2)
    length_runs.accuracies(
        length_runs.Task("sort", 2, 60), "none", size, None,
        batch_size=2, learning_rate=0.25, num_test=2, run=RUN,
    )  # fmt: skip


def of_images():
    data = {"image": np.zeros((8, 2, 2, 1), np.float32), "label": np.zeros(8, int)}
    fit = _options.Fit(batch_size=4, learning_rate=0.25, ema_decay=0.75)
    _images.train(None, None, data, None, num_steps=900, fit=fit, run=RUN)


def of_points():
    fit = checkerboard.Fit(num_train=8, batch_size=4, width=8, learning_rate=0.25)
    checkerboard._train(np.zeros((8, 2), np.float32), None, 100, fit, RUN)


def of_classifiers():
    data = {"image": np.zeros((8, 2, 2, 1), np.float32), "label": np.zeros(8, int)}
    classifiers.train(
        classifiers.Learner(lambda rng, image_shape: None, None), data, None, None,
        seeds=[0], num_labels=8, num_steps=70, batch_size=4, learning_rate=0.25, options=RUN,
    )  # fmt: skip


def of_vae(question, shape, *rest):
    config = question.Config(num_steps=900, learning_rate=0.25, batch_size=4, run=RUN)
    question._train(config, None, np.zeros((8, *shape), np.uint8), *rest, None)


def of_vae_mnist():
    of_vae(vae_mnist, (28, 28, 1), 1)


def of_vae_images():
    of_vae(vae_images, (8, 8, 1))


def of_vae_ladder():
    of_vae(vae_ladder, (8, 8, 1))


# (peak, updates, warm-up), clipping, last rate, Adam's first and second decay, weight decay
CASES = [
    (of_inference, (1e-3, 50, 5), 1.0, 1e-4, 0.9, 0.99, 1e-4),
    (of_sequences, (0.25, 60, 3), 1.0, 0.0, 0.9, 0.98, 0.0),
    (of_images, (0.25, 900, 200), 1.0, 0.0, 0.9, 0.999, 0.0),
    (of_points, (0.25, 100, 5), 1.0, 0.0, 0.9, 0.999, 0.0),
    (of_classifiers, (0.25, 70, 7), None, 0.0, 0.9, 0.999, 0.05),
    (of_vae_mnist, (0.25, 900, 500), None, 0.0, 0.9, 0.999, 0.0),
    (of_vae_images, (0.25, 900, 100), 1000.0, 0.0, 0.9, 0.999, 0.0),
    (of_vae_ladder, (0.25, 900, 100), 200.0, 0.0, 0.9, 0.999, 0.0),
]


IDS = ["language_models.inference", "transformers.seq2seq", "score_sde.digits", "score_sde.toys"]
IDS += ["vision.vit_vs_cnn", "vae.mnist", "vae.images", "vae.ladder"]


@pytest.mark.parametrize("train, schedule, clip, end, b1, b2, decay", CASES, ids=IDS)
def test_schedules(monkeypatch, train, schedule, clip, end, b1, b2, decay):
    """What is asked for, and two of its updates by hand at the peak: under gradients 1 and -1/2."""
    seen, asked, real = {}, {}, training.warmup_cosine

    def warmup_cosine(*positional, **named):
        asked.update(positional=positional, **named)
        return real(*positional, **named)

    def stop(*positional, **named):
        seen.update(named, positional=positional)
        raise InterruptedError

    monkeypatch.setattr(training, "warmup_cosine", warmup_cosine)
    monkeypatch.setattr(training, "train", stop)
    monkeypatch.setattr(classifiers.fleet, "train", stop)
    with pytest.raises(InterruptedError):
        train()
    assert asked["positional"] == schedule and asked.get("clip") == clip
    assert asked.get("end", 0.0) == end
    assert (seen["num_steps"], seen["run"]) == (schedule[1], RUN)
    optimizer = seen["positional"][1]
    params = {"kernel": np.full((1, 1), 2.0, np.float32)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    moved = []
    for sign in [1.0] * (schedule[2] + 1) + [-0.5]:
        grads = {"kernel": np.full((1, 1), sign, np.float32)}
        updates, state = update(grads, state, params)
        moved.append(-float(updates["kernel"][0, 0]))
    n = schedule[2] + 1
    rate = moved[-2] / (1 + 2 * decay)
    assert rate == pytest.approx(schedule[0], rel=2e-3)
    mean = (b1 * (1 - b1**n) - (1 - b1) / 2) / (1 - b1 ** (n + 1))
    square = (b2 * (1 - b2**n) + (1 - b2) / 4) / (1 - b2 ** (n + 1))
    # The cosine has begun, a thousandth or less below the peak.
    expected = mean / square**0.5 + 2 * decay
    assert moved[-1] / schedule[0] == pytest.approx(expected, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize(
    "train, average",
    [(of_images, 0.75), (of_points, 0.999), (of_vae_images, 0.999), (of_vae_ladder, 0.995)],
    ids=["score_sde.mnist", IDS[3], *IDS[-2:]],
)
def test_averages_warm_up_to_their_decay(monkeypatch, train, average):
    found = []
    monkeypatch.setattr(training, "ema_warmup", lambda decay: found.append(decay) or decay)
    seen = {}

    def stop(*_, **named):
        seen.update(named)
        raise InterruptedError

    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(InterruptedError):
        train()
    assert found == [average] and seen["ema_decay"] == average and seen["rng_per_example"] is True
