"""Centred units: parameters make the way there and back, and the fit does not see them."""

import math

import numpy as np
import pytest

from research.scaling_laws import laws, runs
from research.scaling_laws.fits import centring
from tests.research.scaling_laws import surfaces

OPTIONS = {"loss": "huber", "delta": 1e-3, "space": "log"}


@pytest.fixture(scope="module")
def centred():
    return centring.centre(laws.chinchilla, surfaces.chinchilla(), fixed={}, **OPTIONS)


def test_parameters_make_the_round_trip(centred):
    theta = centred.theta_of(surfaces.TRUE)
    again = centred.parameters_of(theta[:, None])
    for name, value in surfaces.TRUE.items():
        assert again[name][0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(centred.parameters_from(centred, theta[:, None])[:, 0], theta)


def test_predictions_are_those_of_the_law_and_columns_have_mean_zero(centred):
    data, solver = surfaces.chinchilla(), centred.solver
    for name, column in solver.columns.items():
        assert column.mean() == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(column + centred.log_unit[name], np.log(data.column(name)))
    theta = centred.theta_of(surfaces.TRUE)
    # exp(theta) are the terms of the loss at the mean logarithms.
    size, tokens = (math.exp(centred.log_unit[name]) for name in ("parameters", "tokens"))
    p = surfaces.TRUE
    terms = [p["E"], p["A"] / size ** p["alpha"], p["B"] / tokens ** p["beta"]]
    np.testing.assert_allclose(np.exp(theta[:3]), terms, rtol=1e-12)
    columns = {name: column[None] for name, column in solver.columns.items()}
    predicted = solver.predict(theta[:, None, None], columns)[0]
    np.testing.assert_allclose(predicted, np.log(data.loss), rtol=1e-6)  # in float32
    np.testing.assert_array_equal(solver.targets, np.log(data.loss))


def test_the_uncentred_problem_is_in_the_callers_units(centred):
    plain = centred.uncentred()
    p = surfaces.TRUE
    theta = [math.log(p["E"]), math.log(p["A"]), math.log(p["B"]), p["alpha"], p["beta"]]
    np.testing.assert_allclose(plain.theta_of(p), theta, rtol=1e-12)
    moved = plain.parameters_from(centred, centred.theta_of(p)[:, None])
    np.testing.assert_allclose(moved[:, 0], theta, rtol=1e-10)
    np.testing.assert_allclose(
        plain.solver.columns["tokens"], np.log(surfaces.chinchilla().tokens), rtol=1e-12
    )


def test_errors_follow_by_the_delta_method(centred):
    """log A = theta_A + alpha log(unit): its variance by hand."""
    theta = centred.theta_of(surfaces.TRUE)
    root = 1e-2 * np.random.default_rng(0).normal(size=(5, 5))
    covariance = root @ root.T
    found = centred.errors_of(theta, covariance)
    slope = np.zeros(5)
    slope[1], slope[3] = 1, centred.log_unit["parameters"]
    expected = surfaces.TRUE["A"] * math.sqrt(slope @ covariance @ slope)
    assert found["A"] == pytest.approx(expected, rel=1e-6)
    assert found["alpha"] == pytest.approx(math.sqrt(covariance[3, 3]), rel=1e-6)


def test_held_coefficients_keep_the_callers_units():
    data = surfaces.chinchilla()
    held = centring.centre(laws.chinchilla, data, fixed={"A": 300.0}, **OPTIONS)
    assert set(held.log_unit.values()) == {0.0}  # its exponent is fitted: no unit may change
    np.testing.assert_array_equal(held.solver.free, [True, False, True, True, True])
    theta = held.with_fixed(np.zeros(5))
    np.testing.assert_allclose(theta, [0, math.log(300), 0, 0, 0])
    exponent = centring.centre(laws.chinchilla, data, fixed={"alpha": 0.4}, **OPTIONS)
    assert exponent.log_unit["parameters"] != 0 and exponent.with_fixed(np.zeros(5))[3] == 0.4
    more = exponent.holding("E")
    np.testing.assert_array_equal(more.solver.free, [False, True, True, False, True])
    assert more.log_unit == exponent.log_unit  # E has no unit


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loss": "mean"}, "loss='mean'"),
        ({"space": "exp"}, "space='exp'"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"fixed": {"gamma": 1.0}}, "no parameter 'gamma'"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        centring.centre(
            laws.chinchilla, surfaces.chinchilla(), **(OPTIONS | {"fixed": {}} | change)
        )


def test_bad_parameters_and_runs_are_refused(centred):
    with pytest.raises(ValueError, match="needs a value of 'beta'"):
        centred.theta_of({name: 1.0 for name in ("E", "A", "B", "alpha")})
    with pytest.raises(ValueError, match="B=0.0: expected a positive"):
        centred.theta_of({**surfaces.TRUE, "B": 0})
    few = runs.Runs(parameters=[1e6, 2e6], tokens=[1e8, 1e9], loss=[3.0, 2.9])
    with pytest.raises(ValueError, match="5 free parameters: 2 runs are too few"):
        centring.centre(laws.chinchilla, few, fixed={}, **OPTIONS)


def test_a_scale_beyond_all_numbers_has_no_error(centred):
    """An exponent of 440 makes its coefficient infinite: nan, and no warning."""
    theta = centred.theta_of(surfaces.TRUE)
    theta[3] = 440.0
    errors = centred.errors_of(theta, 1e-4 * np.eye(len(theta)))
    assert math.isnan(errors["A"]) and math.isfinite(errors["B"])
