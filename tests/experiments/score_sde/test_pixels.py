"""Bytes, cells and the Gaussian baseline of the image studies."""

import numpy as np
import pytest

from experiments.score_sde import _images, _judges, _options, _pixels, mnist


def test_every_byte_comes_back_from_anywhere_in_its_cell():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for fill in (0.0, 0.5, 0.999):
        samples = _pixels.to_cells(images) + np.float32(_pixels.WIDTH * fill)
        np.testing.assert_array_equal(_pixels.to_bytes(samples), images)
    np.testing.assert_array_equal(_pixels.to_bytes(np.array([-1.5, 1.0, 7.0])), [0, 255, 255])
    np.testing.assert_allclose(_pixels.to_centres(images) - _pixels.to_cells(images), 1 / 256)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (400, 2, 2, 1)).astype(np.uint8)


def test_draws_of_the_gaussian_baseline_have_the_moments_of_the_noised_data(images):
    flat = _pixels.to_centres(images).reshape(400, 4).astype(np.float64)
    covariance = np.cov(flat.T, bias=True) + _pixels.WIDTH**2 / 12 * np.eye(4)
    draws = _pixels.Gaussian(images).draw(20_000).reshape(-1, 4)
    std = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(0) - flat.mean(0)) / std).max() < 6 / 20_000**0.5
    spread = np.abs(np.cov(draws.T) - covariance) / np.outer(std, std)
    assert spread.max() < 6 * (2 / 20_000) ** 0.5  # six standard errors of a variance


def test_independent_pixels_have_their_smoothed_counts():
    train = np.array([[0, 7], [0, 9], [255, 7]], np.uint8)
    found = _pixels.histogram_log_prob(train, np.array([[0, 7], [1, 9]], np.uint8))
    expected = [np.log(3 / 259) + np.log(3 / 259), np.log(1 / 259) + np.log(2 / 259)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_labels_fill_a_table_of_all_classes():
    labels = _images.classes_in_turn(200)
    np.testing.assert_array_equal(
        labels[:100].reshape(10, 10), np.arange(10)[:, None] * np.ones(10)
    )
    assert np.bincount(labels).tolist() == [20] * 10


def test_verdicts_count_what_the_judge_says(images):
    judge = lambda images: images[:, 0, 0, 0] % 10  # noqa: E731
    labels = np.where(np.arange(400) < 300, judge(images), (judge(images) + 1) % 10)
    held_out = {"image": images, "label": labels}
    result = _judges.verdicts(judge, held_out, images[:300], labels[:300], (0.8, None))
    assert result.metrics == {"judge_accuracy": 0.75, "guided_accuracy": 1.0}
    (claim,) = result.claims
    assert not claim.holds and claim.expected == 0.8


def test_a_smoke_keeps_what_it_does_not_make_small():
    config = mnist.Config(fit=_options.Fit(learning_rate=0.5, ema_decay=0.25), num_train=7)
    small = _options.smoke(config, num_steps=8, batch_size=3)
    assert small.fit == _options.Fit(batch_size=3, learning_rate=0.5, ema_decay=0.25)
    assert (small.num_steps, small.num_train, small.model.channels) == (8, 7, (8,))
    assert small.sampling == _options.Sampling(num_samples=100, num_steps=2)
    assert (small.run.log_every, small.run.checkpoint_every) == (2, 4)
