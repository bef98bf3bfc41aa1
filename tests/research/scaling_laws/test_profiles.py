"""Profiles touch the optimum and end where the likelihood of a line says."""

import math

import numpy as np
import pytest

from research.scaling_laws import fitting, laws, profiles, runs


def test_profile_touches_the_optimum_and_its_interval_is_likelihood_of_a_linear_model():
    """One exponent and one coefficient with small noise: a straight line with a known interval."""
    size = np.geomspace(1e6, 1e9, 12)
    noise = 0.01 * np.random.default_rng(3).normal(size=12)
    data = runs.Runs(parameters=size, loss=(8.8e13 / size) ** 0.076 * np.exp(noise))
    result = fitting.fit(laws.kaplan_parameters, data, loss="squared")
    objectives, _ = profiles.profile(result, "alpha_N", [result.parameters["alpha_N"], 0.09])
    assert objectives[0] == pytest.approx(result.objective, rel=1e-9)
    assert objectives[1] > result.objective
    x = np.log(size) - np.log(size).mean()
    slope = -(x @ np.log(data.loss)) / (x @ x)
    assert result.parameters["alpha_N"] == pytest.approx(slope, rel=1e-9)
    # sum (r + d x)^2 = S + d^2 sum x^2 = S exp(chi2 / n)
    reach = math.sqrt(2 * result.objective * math.expm1(3.841458820694124 / 12) / (x @ x))
    low, high = profiles.profile_interval(result, "alpha_N")
    assert low == pytest.approx(slope - reach, abs=0.02 * reach)
    assert high == pytest.approx(slope + reach, abs=0.02 * reach)
    # A level of 0.6827 is one standard error of chi square, 1.
    reach = math.sqrt(2 * result.objective * math.expm1(1 / 12) / (x @ x))
    ends = profiles.profile_interval(result, "alpha_N", level=0.6826894921370859)
    assert ends == pytest.approx((slope - reach, slope + reach), abs=0.02 * reach)
    # Straight lines have one optimum, which one start finds as well as eight.
    alone, found = profiles.profile(result, "alpha_N", [0.07, 0.09], num_starts=1)
    gap = np.array([0.07, 0.09]) - slope
    np.testing.assert_allclose(alone, result.objective + 0.5 * gap**2 * (x @ x), rtol=1e-8)
    assert [p["alpha_N"] for p in found] == pytest.approx([0.07, 0.09])
