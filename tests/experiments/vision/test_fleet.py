"""The classifiers' fleets: each run is what it would be alone, also after a stop."""

import jax
import numpy as np

from experiments.vision.vit_vs_cnn import classifiers
from library import report, training
from research.vision import resnet

MODEL = resnet.ResNet(num_classes=3, num_blocks=(1,), width=2, small_images=True)
OPTIONS = training.RunOptions(log_every=1, checkpoint_every=1)


def images(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    pixels = rng.uniform(size=(40, 4, 4, 1)) + labels[:, None, None, None] / 3
    return {"image": pixels.astype(np.float32), "label": labels}


def train(folder, learner, seeds, num_steps=3):
    return classifiers.train(
        learner,
        images(),
        None,
        report.RunDir(folder),
        seeds=seeds,
        num_labels=20,
        num_steps=num_steps,
        batch_size=8,
        learning_rate=1e-2,
        options=OPTIONS,
    )


def test_a_fleet_is_its_runs_alone_and_resumes(tmp_path):
    learner = classifiers.cnn(MODEL)
    fleet = train(tmp_path / "fleet", learner, [4, 7])
    alone = train(tmp_path / "alone", learner, [7])

    def pick(state, index):
        return jax.tree.map(lambda leaf: leaf[index], (state.params, state.model_state))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        pick(fleet, 1),
        pick(alone, 0),
    )
    kernels = fleet.params["stem"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2
    # What was finished is restored, not trained again, and judged alike.
    again = train(tmp_path / "fleet", learner, [4, 7])
    jax.tree.map(np.testing.assert_array_equal, again.params, fleet.params)
    scores = classifiers.accuracies(learner, fleet, images(1), batch_size=16)
    assert scores.shape == (2,)
    logits, _ = learner.apply(*pick(fleet, 1), images(1)["image"], False)
    right = np.asarray(logits).argmax(-1) == images(1)["label"]
    np.testing.assert_allclose(scores[1], 100 * right.mean())


def test_labels_are_the_first_of_an_order_that_the_seed_draws():
    """40 examples, 5 labelled: every batch holds these only, each equally often."""
    data = images()

    def at(step, seed, num_labels=5, batch_size=10):
        return classifiers.labelled(data, seed, num_labels, batch_size)(step)["image"]

    for seed in range(2):
        seen = np.concatenate([at(step, seed) for step in range(2)])
        distinct, counts = np.unique(seen, axis=0, return_counts=True)
        assert len(distinct) == 5 and (counts == 4).all()
    assert np.abs(at(0, 0) - at(0, 1)).max() > 0
    more = at(0, 0, num_labels=9, batch_size=9)
    assert all((more == image).all((1, 2, 3)).any() for image in at(0, 0))
