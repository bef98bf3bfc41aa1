"""The tables of the kernel machines' comparison: features, folds."""

import numpy as np
import pytest

from experiments.ntk.lazy_training import descent
from experiments.ntk.mnist import methods as classifiers
from experiments.ntk.uci import methods, question, tabular
from experiments.ntk.uci.tabular import Table


def table(columns, levels, labels=None):
    features = np.array(columns, float).T
    labels = np.zeros(len(features), int) if labels is None else labels
    return Table("made", features, labels, np.array(levels))


def test_features_are_standardised_one_hot_and_filled():
    number, colour = [1, 2, 3, np.nan, 4, 5], [0, 1, 2, 0, 1, np.nan]
    identifier, constant = range(6), [7] * 6
    x = tabular.standardised(table([number, colour, identifier, constant], [0, 3, 6, 0]))
    # Three levels of six rows name no rows only if fewer than half of them.
    assert x.shape == (6, 1)
    x = tabular.standardised(table([number * 2, colour * 2], [0, 3]))
    assert x.shape == (12, 4)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(x[3, 0], 0, atol=1e-12)  # the mean stands for a missing number
    assert len(np.unique(np.round(x[:, 1], 9))) == 3  # yes, no, and the mean for the missing


def test_folds_share_every_class_evenly():
    labels = np.repeat([0, 1, 2], [10, 7, 3])
    fold = tabular.folds(labels, 4, seed=0)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(fold)) <= 1
    assert not np.array_equal(fold, tabular.folds(labels, 4, seed=1))


def test_a_choice_never_sees_the_fold_that_scores_it():
    seen = []

    def fit(train, test):
        seen.append((set(train), set(test)))
        return np.zeros(len(test), int)

    labels = np.repeat([0, 1], 12)
    score = question._score(question.Config(num_folds=2), [fit, fit], labels)
    assert score == pytest.approx(0.5)
    for start in (0, 3):  # two settings, then the refit on the whole training part
        (train, inside), (whole, outside) = seen[start], seen[start + 2]
        assert train | inside == whole and not train & inside
        assert not whole & outside and len(whole | outside) == 24


def test_padded_kernels_are_those_of_the_rows_themselves():
    x = np.random.default_rng(0).normal(size=(5, 3))
    found = methods.network_kernels(x, 1)
    norm = np.linalg.norm(x, axis=1)
    cosine = np.clip(x @ x.T / np.outer(norm, norm), -1, 1)
    angle = np.arccos(cosine)
    first = (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
    expected = {"nngp": first, "ntk": first + cosine * (np.pi - angle) / np.pi}
    for kind, gram in expected.items():
        gram = gram * np.outer(norm, norm)
        np.testing.assert_allclose(found[kind], gram / np.mean(np.diag(gram)), rtol=1e-4, atol=1e-6)


def test_error_of_eulers_method():
    # One mode at z = 1: after one step Euler is at 0, the flow at exp(-1).
    assert descent.euler_bound(1.0, (0, 1)) == pytest.approx(np.exp(-1))


def test_images_are_predicted_in_parts_that_need_not_divide_them(monkeypatch):
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(6, 4)), rng.normal(size=(10, 4))
    data = x.astype(np.float32), np.arange(6), x_test.astype(np.float32)
    whole = classifiers.kernels(*data, num_hidden=1, ridge=1e-3)
    split, sizes = np.array_split, []

    def watched(rows, num):
        parts = split(rows, num)
        sizes.extend(len(part) for part in parts)
        return parts

    monkeypatch.setattr(classifiers.np, "array_split", watched)
    monkeypatch.setattr(classifiers, "LARGEST_PART", 4)
    found = classifiers.kernels(*data, num_hidden=1, ridge=1e-3)
    assert sizes == [4, 3, 3]
    for kind in whole:
        np.testing.assert_array_equal(found[kind], whole[kind])
