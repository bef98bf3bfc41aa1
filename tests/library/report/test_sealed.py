"""A sealed prediction is older than its run, and the same only within the tolerance it states."""

import json

import numpy as np
import pytest

from library.report import sealed

PREDICTION = {"loss": 2.5, "ends": [2.4, {"high": 2.6}], "width": 512, "law": "E + A / N"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prediction.json"


def test_a_prediction_is_older_than_its_run(path):
    digest = sealed.write(path, {"loss": 2.5, "low": np.float64(2.4)})
    assert sealed.check(path, digest, sealed.now()) > 0
    first = path.read_bytes()
    assert sealed.write(path, {"loss": 2.5, "low": 2.4}) == digest  # a resumed study
    assert path.read_bytes() == first


def test_a_run_that_came_first_is_no_test_of_a_prediction(path):
    started = sealed.now()
    digest = sealed.write(path, {"loss": 2.5})
    with pytest.raises(ValueError, match="after its run had started"):
        sealed.check(path, digest, started)


def test_within_its_tolerance_a_prediction_is_the_one_that_was_sealed(path):
    digest = sealed.write(path, PREDICTION, tolerance=1e-9)
    first = path.read_bytes()
    later = {**PREDICTION, "loss": 2.5 * (1 + 5e-10), "ends": [2.4 * (1 - 5e-10), {"high": 2.6}]}
    assert sealed.write(path, later, tolerance=1e-9) == digest
    assert sealed.write(path, later, tolerance=0.0) == digest  # the seal's own tolerance counts
    assert path.read_bytes() == first
    assert sealed.check(path, digest, sealed.now()) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loss": 2.5 * (1 + 2e-9)}, "loss is 2.5 there and 2.500000005 now"),
        ({"ends": [2.4, {"high": 2.7}]}, r"ends\[1\].high is 2.6 there and 2.7 now"),
        ({"ends": [2.4]}, "ends is"),
        ({"width": 513}, "width is 512 there and 513 now"),
        ({"width": 512.0}, "width is 512 there and 512.0 now"),
        ({"law": "E"}, "law is 'E . A / N' there"),
        ({"more": 1}, "all is {"),
    ],
)
def test_another_prediction_is_refused_and_the_difference_named(path, change, message):
    sealed.write(path, PREDICTION, tolerance=1e-9)
    first = path.read_bytes()
    with pytest.raises(ValueError, match=f"another prediction than the one just made: {message}"):
        sealed.write(path, {**PREDICTION, **change}, tolerance=0.5)  # no later one loosens it
    assert path.read_bytes() == first


def test_without_a_tolerance_the_last_bit_counts(path):
    digest = sealed.write(path, {"loss": 0.3})
    with pytest.raises(ValueError, match="loss is 0.3 there and 0.30000000000000004 now"):
        sealed.write(path, {"loss": 0.1 + 0.2})
    content = json.loads(path.read_text())
    del content["tolerance"]  # a seal that states none
    path.write_text(json.dumps(content))
    assert sealed.write(path, {"loss": 0.3}) == digest


@pytest.mark.parametrize("name, value", [("prediction", {"loss": 2.6}), ("tolerance", 0.5)])
def test_an_altered_seal_is_refused(path, name, value):
    digest = sealed.write(path, {"loss": 2.5}, tolerance=1e-9)
    with pytest.raises(ValueError, match="not the prediction that the run was started with"):
        sealed.check(path, digest[::-1], sealed.now())
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ValueError, match="not the prediction that the run was started with"):
        sealed.check(path, digest, sealed.now())
    with pytest.raises(ValueError, match="another prediction than the one that was sealed"):
        sealed.write(path, {"loss": 2.5})


@pytest.mark.parametrize("tolerance", [-1e-9, 1.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(path, tolerance):
    with pytest.raises(ValueError, match="expected a relative one"):
        sealed.write(path, {"loss": 2.5}, tolerance=tolerance)
    assert not path.exists()


@pytest.mark.parametrize("content", ["{}", "[]", '{"sha256": "0"}'])
def test_a_damaged_seal_is_named(tmp_path, content):
    path = tmp_path / "prediction.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="prediction.json is no sealed prediction"):
        sealed.write(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="prediction.json is no sealed prediction"):
        sealed.check(path, "0", sealed.now())
