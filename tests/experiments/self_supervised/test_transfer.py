"""Transfer: how digits become colour images, and how many labels the probes have."""

import pathlib

import numpy as np
import pytest

from experiments.self_supervised import _images, transfer
from library import report
from library.data.sets import digits, mnist


def test_digits_are_made_larger_by_repeating_pixels():
    raw = digits.arrays("test")
    images, labels = transfer.READERS["digits"]("test")
    assert images.shape == (300, 32, 32, 3) and images.dtype == np.uint8
    assert (labels == raw["label"]).all()
    want = np.round(raw["image"][..., 0] * (255 / 16))
    for i, j, channel in ((0, 0, 0), (3, 3, 1), (1, 2, 2)):
        np.testing.assert_array_equal(images[:, i::4, j::4, channel], want)


def test_mnist_gets_a_margin_of_two(monkeypatch):
    raw = np.random.default_rng(0).integers(1, 256, (3, 28, 28, 1)).astype(np.uint8)
    monkeypatch.setattr(mnist, "arrays", lambda split: {"image": raw, "label": np.arange(3)})
    images, labels = transfer.READERS["mnist"]("train")
    assert images.shape == (3, 32, 32, 3) and labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(images[:, 2:-2, 2:-2], np.repeat(raw, 3, -1))
    assert (images > 0).sum() == 3 * raw.size


def test_cifar10_has_training_and_test_images(monkeypatch):
    monkeypatch.setattr(_images, "cifar10", lambda *_: _images.Data("all", "train", "test"))
    assert [transfer.READERS["cifar10"](split) for split in ("train", "test")] == ["train", "test"]


def test_probes_have_as_many_labels_of_each_class_and_the_first_test_images():
    data = transfer.read("digits", transfer.Config(per_class=7, num_test=11))
    assert np.bincount(data.train[1]).tolist() == [7] * 10
    assert len(data.train[0]) == 70 and len(data.test[0]) == len(data.test[1]) == 11
    np.testing.assert_array_equal(data.test[1], digits.arrays("test")["label"][:11])


def test_another_set_is_refused_before_any_work():
    with pytest.raises(ValueError, match="sets=.*: expected some of cifar10, mnist, digits"):
        transfer.run(transfer.Config(sets=("svhn",)), report.RunDir(pathlib.Path("never")))
