"""Power laws: exact ones, NumPy's own fit, weights as repetitions, and points that fit none."""

import numpy as np
import pytest

from library.statistics import power_law


def noisy():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 12)
    return x, x**0.3 * np.exp(0.1 * rng.standard_normal(12))


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 8.0)])
def test_an_exact_power_law_is_found_exactly(weights):
    x = np.geomspace(3, 3e5, 7)
    law = power_law.fit(x, 2.5 * x**-0.5, weights)
    found = [law.exponent, law.coefficient, law.intercept, law.r_squared]
    np.testing.assert_allclose(found, [-0.5, 2.5, np.log(2.5), 1], rtol=1e-12)
    assert law.standard_error < 1e-12
    np.testing.assert_allclose(law([4.0, 16.0]), [1.25, 0.625], rtol=1e-12)


def test_two_points_have_no_error():
    law = power_law.fit([1, 2], [1, 8])
    assert (law.exponent, law.intercept) == pytest.approx((3.0, 0.0), abs=1e-12)
    assert law.standard_error == 0


@pytest.mark.parametrize("weights", [None, np.full(12, 7.0)])
def test_law_and_errors_agree_with_numpys_own_fit(weights):
    x, y = noisy()
    (slope, intercept), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    law = power_law.fit(x, y, weights)
    found = (law.exponent, law.intercept, law.standard_error, law.r_squared)
    r_squared = np.corrcoef(np.log(x), np.log(y))[0, 1] ** 2
    expected = (slope, intercept, np.sqrt(covariance[0, 0]), r_squared)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_weight_is_a_repetition_and_zero_is_absence():
    x, y = noisy()
    weights = np.array([0, 1, 2, 3] * 3)
    weighted = power_law.fit(x, y, weights)
    repeated = power_law.fit(np.repeat(x, weights), np.repeat(y, weights))
    for name in ("exponent", "coefficient", "r_squared"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-12)


def test_a_law_through_points_without_slope_explains_all():
    law = power_law.fit([1, 2, 3], [5, 5, 5])
    assert law.exponent == pytest.approx(0, abs=1e-15) and law.r_squared == 1


@pytest.mark.parametrize(
    "x, y, weights, message",
    [
        ([1, 2], [1, -1], None, "positive"),
        ([1, 2], [1, np.nan], None, "positive and finite"),
        ([1], [1], None, "N >= 2"),
        ([1, 2], [1, 2, 3], None, "shapes"),
        ([3, 3], [1, 2], None, "x=3.0: expected at least two places"),
        ([1, 2], [1, 2], [1, -1], "expected 2 finite numbers >= 0"),
        ([1, 2], [1, 2], [1], "expected 2 finite numbers >= 0"),
        ([1, 2], [1, 2], [0, 0], "expected 2 finite numbers >= 0"),
        ([1, 2], [1, 2], [1, np.inf], "expected 2 finite numbers >= 0"),
        ([1, 2, 4], [1, 3, 4], [1, 0, 0], "all points of weight lie at one x"),
    ],
)
def test_points_without_a_power_law_are_refused(x, y, weights, message):
    with pytest.raises(ValueError, match=message):
        power_law.fit(x, y, weights)
