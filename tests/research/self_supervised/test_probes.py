import numpy as np
import pytest
from sklearn import linear_model

from research.self_supervised import probes


def _data(num=120, dim=5, classes=3, seed=0, offset=3.0, scale=7.0, signal=0.8):
    """Overlapping classes whose features are neither centred nor of unit size."""
    rng = np.random.default_rng(seed)
    y = np.arange(num) % classes
    x = rng.normal(size=(num, dim)) + signal * rng.normal(size=(classes, dim))[y]
    return scale * x + offset, y


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_linear_is_the_optimum_that_scikit_learn_finds(l2):
    (x, y), (test_x, test_y) = _data(), _data(seed=1)
    probe = probes.linear(x, y, test_x, test_y, l2=l2)
    other = linear_model.LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=10_000)
    other.fit(x, y)
    want = other.coef_.T - other.coef_.T.mean(1, keepdims=True)  # [D, C]
    np.testing.assert_allclose(probe.weights[:-1], want, rtol=1e-4, atol=1e-6)
    assert probe.gradient < 1e-6
    assert probe.accuracy == other.score(test_x, test_y)
    np.testing.assert_array_equal(probe.predictions, other.predict(test_x))


def test_linear_of_more_features_than_examples_is_that_of_scikit_learn_too():
    (x, y), (test_x, test_y) = _data(num=12, dim=40), _data(num=30, dim=40, seed=1)
    probe = probes.linear(x, y, test_x, test_y, l2=3.0)
    other = linear_model.LogisticRegression(C=1 / (12 * 3.0), tol=1e-12, max_iter=10_000).fit(x, y)
    want = other.coef_.T - other.coef_.T.mean(1, keepdims=True)
    np.testing.assert_allclose(probe.weights[:-1], want, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(probe.predictions, other.predict(test_x))
    assert 0 < probe.gradient < 1e-6
    weights = 0.01 * np.random.default_rng(2).normal(size=(41, 3))  # no optimum
    chances = np.exp(x @ weights[:-1] + weights[-1])
    errors = chances / chances.sum(1, keepdims=True) - np.eye(3)[y]
    slope = x.T @ errors / 12 + 3.0 * weights[:-1]
    largest = max(abs(slope).max(), abs(errors.mean(0)).max())
    np.testing.assert_allclose(probes._largest_slope(x, y, weights, 3.0), largest, rtol=1e-10)


def test_linear_has_a_gradient_of_zero_by_finite_differences():
    (x, y), l2 = _data(num=30), 0.03
    weights = probes.linear(x, y, x, y, l2=l2).weights

    def objective(w):
        logits = x @ w[:-1] + w[-1]
        normal = np.log(np.exp(logits).sum(1))
        return np.mean(normal - logits[np.arange(30), y]) + l2 / 2 * np.sum(w[:-1] ** 2)

    for index in np.ndindex(weights.shape):
        step = np.zeros_like(weights)
        step[index] = 1e-6
        slope = (objective(weights + step) - objective(weights - step)) / 2e-6
        assert abs(slope) < 1e-6, index


def test_linear_chooses_the_strength_on_every_fifth_example():
    """Of this draw the examples before each fifth one would choose another."""
    assert probes.STRENGTHS == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    (x, y), (test_x, test_y) = (_data(60, 20, seed=seed, signal=0.3, scale=0.1) for seed in (0, 1))
    chosen = probes.linear(x, y, test_x, test_y)
    held = np.arange(60) % 5 == 4
    right = {
        l2: probes.linear(x[~held], y[~held], x[held], y[held], l2=l2).accuracy
        for l2 in probes.STRENGTHS
    }
    assert right[chosen.l2] == max(right.values()) > min(right.values())
    assert chosen.l2 == max(l2 for l2 in right if right[l2] == max(right.values()))
    again = probes.linear(x, y, test_x, test_y, l2=chosen.l2)
    np.testing.assert_allclose(chosen.weights, again.weights, atol=1e-6)


def test_linear_of_separable_features_and_of_one_constant_feature():
    x, y = np.asarray([[-1.0], [-2.0], [1.0], [2.0]]), np.asarray([0, 0, 1, 1])
    assert probes.linear(x, y, x, y, l2=1e-6).accuracy == 1
    probe = probes.linear(np.ones((4, 2)), y, np.ones((4, 2)), y, l2=1.0)
    np.testing.assert_allclose(probe.weights, 0, atol=1e-9)  # nothing to know: even odds


def test_knn_is_the_weighted_vote():
    (x, y), (test_x, test_y) = _data(num=50, offset=0.0), _data(num=20, seed=1, offset=0.0)
    for k, temperature in ((1, 0.07), (7, 0.07), (7, 5.0), (200, 0.5)):
        found = probes.knn(x, y, test_x, test_y, k=k, temperature=temperature)
        want = []
        for point in test_x:
            cosine = x @ point / np.linalg.norm(x, axis=1) / np.linalg.norm(point)
            near = np.argsort(-cosine)[:k]
            votes = [np.sum(np.exp(cosine[near] / temperature) * (y[near] == c)) for c in range(3)]
            want.append(int(np.argmax(votes)))
        np.testing.assert_array_equal(found.predictions, want)
        assert found.accuracy == np.mean(np.asarray(want) == test_y)


def test_knn_by_default_has_200_neighbours_at_a_temperature_of_7_hundredths():
    (x, y), (test_x, test_y) = _data(num=400, offset=0.0), _data(num=300, seed=2, offset=0.0)
    plain = probes.knn(x, y, test_x, test_y).predictions
    same = probes.knn(x, y, test_x, test_y, k=200, temperature=0.07).predictions
    np.testing.assert_array_equal(plain, same)
    for other in ({"k": 20}, {"temperature": 5.0}):
        assert (probes.knn(x, y, test_x, test_y, **other).predictions != plain).any()


def test_a_feature_of_length_0_is_no_neighbour():
    x, y = np.asarray([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1]]), np.asarray([0, 1, 0])
    found = probes.knn(x, y, np.asarray([[2.0, 0.0], [0.0, 0.0]]), np.asarray([1, 0]), k=2)
    np.testing.assert_array_equal(found.predictions, [1, 0])  # the second: all cosines are 0


def test_knn_of_many_test_examples_goes_in_blocks(monkeypatch):
    (x, y), (test_x, test_y) = _data(num=40), _data(num=25, seed=3)
    whole = probes.knn(x, y, test_x, test_y, k=5)
    monkeypatch.setattr(probes, "_BLOCK", 4)
    np.testing.assert_array_equal(
        probes.knn(x, y, test_x, test_y, k=5).predictions, whole.predictions
    )


def test_features_of_blocks_are_those_of_each_example():
    images = np.random.default_rng(0).normal(size=(7, 2, 2, 1)).astype(np.float32)
    apply = lambda x: x.reshape(len(x), -1) ** 2
    for block in (3, 7, 250):
        found = probes.features(apply, images, block)
        np.testing.assert_allclose(found, images.reshape(7, 4) ** 2, rtol=1e-6)


def test_a_fingerprint_sees_every_byte_name_dtype_and_shape():
    params = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    same = {"b": np.ones(4, np.float32), "a": np.zeros((2, 3), np.float32)}
    assert probes.fingerprint(params) == probes.fingerprint(same)
    assert len(probes.fingerprint(params)) == 12
    moved = {**params, "b": np.nextafter(params["b"], np.float32(2))}
    renamed = {"a": params["a"], "c": params["b"]}
    shaped = {**params, "a": params["a"].T}
    typed = {**params, "a": params["a"].view(np.int32)}
    prints = {probes.fingerprint(each) for each in (params, moved, renamed, shaped, typed)}
    assert len(prints) == 5


def test_a_fraction_has_the_same_share_of_every_class_and_grows_by_inclusion():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    tenth, half = probes.fraction(labels, 0.1, seed=3), probes.fraction(labels, 0.5, seed=3)
    np.testing.assert_array_equal(np.bincount(labels[tenth]), [10, 5, 1])
    assert set(tenth) < set(half)
    assert (np.diff(tenth) > 0).all()
    np.testing.assert_array_equal(probes.fraction(labels, 1.0), np.arange(160))
    np.testing.assert_array_equal(np.bincount(labels[probes.fraction(labels, 0.01)]), [1, 1, 1])
    assert set(tenth) != set(probes.fraction(labels, 0.1, seed=4))
    np.testing.assert_array_equal(probes.fraction(labels, 0.1), probes.fraction(labels, 0.1, 0))


_X, _Y = np.ones((4, 2)), np.asarray([0, 1, 0, 1])
BAD = {
    "features of one axis": (dict(train_x=np.ones(4)), r"train_x \[4\], train_y \[4\]: expected"),
    "labels of other examples": (dict(test_y=_Y[:3]), r"test_x \[4, 2\], test_y \[3\]: expected"),
    "no feature": (dict(train_x=np.ones((4, 0))), r"train_x \[4, 0\]"),
    "other width": (dict(test_x=np.ones((4, 3))), "test_x has 3 features: expected 2, as train_x"),
    "float labels": (dict(train_y=_Y * 1.0), "train_y holds float64: expected whole numbers"),
    "not finite": (dict(train_x=_X * np.nan), "train_x holds values that are not finite"),
    "missing class": (dict(train_y=2 * _Y), "train_y lacks class 1: expected all of the labels"),
    "one class": (dict(train_y=0 * _Y, test_y=0 * _Y), r"train_y holds \[0\]: expected all"),
    "negative class": (dict(train_y=_Y - 1), r"train_y holds \[-1, 0\]: expected all"),
    "class outside": (dict(test_y=_Y + 1), "test_y holds 2: expected labels of training, 0 to 1"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("probe", [probes.linear, probes.knn])
def test_bad_input_of_a_probe(probe, name):
    changed, message = BAD[name]
    given = {"train_x": _X, "train_y": _Y, "test_x": _X, "test_y": _Y} | changed
    with pytest.raises(ValueError, match=message):
        probe(**given)


def test_bad_options():
    with pytest.raises(ValueError, match="l2=0: expected a positive number, or None"):
        probes.linear(_X, _Y, _X, _Y, l2=0)
    with pytest.raises(ValueError, match="k=0: expected a positive whole number of neighbours"):
        probes.knn(_X, _Y, _X, _Y, k=0)
    with pytest.raises(ValueError, match="temperature=0: expected a positive number"):
        probes.knn(_X, _Y, _X, _Y, temperature=0)
    with pytest.raises(ValueError, match="images: got none"):
        probes.features(lambda x: x, np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"share=0: expected a number in \(0, 1\]"):
        probes.fraction(_Y, 0.0)
