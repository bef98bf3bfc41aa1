"""The classifier that judges: what it learns, and that it reads images in blocks."""

import numpy as np

from experiments.gan import _judge


def test_a_judge_tells_classes_apart_by_features_of_the_size_asked_for():
    """Three classes of even images, all told right after 200 updates; 510 are more than a block."""
    labels = np.arange(510) % 3
    noise = np.random.default_rng(0).normal(size=(510, 4, 4, 1)) * 0.05
    images = (labels[:, None, None, None] - 1 + noise).astype(np.float32)
    judge = _judge.train(
        {"images": images, "labels": labels}, num_steps=200, batch_size=30, widths=(4, 8),
        num_features=9,
    )  # fmt: skip
    assert (judge.labels(images) == labels).all()
    features = judge.features(images)
    assert features.shape == (510, 9) and features.min() >= 0
    np.testing.assert_allclose(features[505:], judge.features(images[505:]), rtol=1e-4, atol=1e-5)
    assert judge.name == "9 features of a convolutional classifier after 200 updates"
