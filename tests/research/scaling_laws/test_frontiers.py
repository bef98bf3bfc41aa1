"""Approaches 1 and 2 on surfaces whose optimum is known in closed form."""

import numpy as np
import pytest

from research.scaling_laws import frontiers, laws, planning, runs
from tests.research.scaling_laws import surfaces


def isoflops(drift):
    """Five budgets, nine sizes each about the optimum times C^drift, the same span each."""
    rows = []
    for compute in np.geomspace(1e18, 1e22, 5):
        centre = surfaces.closed_form(surfaces.EQ_10, compute)[0] * (compute / 1e20) ** drift
        sizes = centre * np.geomspace(0.25, 4, 9)
        rows += [(size, compute / 6 / size, compute) for size in sizes]
    size, tokens, flops = np.array(rows).T
    loss = laws.chinchilla.predict(surfaces.EQ_10, parameters=size, tokens=tokens)
    return runs.Runs(parameters=size, tokens=tokens, flops=flops, loss=loss)


def test_approach_2_keeps_the_exponent_on_a_centred_grid_and_biases_the_intercept():
    minima = frontiers.isoflop_minima(isoflops(0.0), "parabola")
    law = frontiers.power_law(minima.flops, minima.parameters)
    assert law.exponent == pytest.approx(planning.exponents(surfaces.EQ_10)["a"], abs=1e-6)
    # On a grid about the optimum, parabola and cubic term: u = log N - log N* has
    # L - E ~ (exp(-alpha u) / alpha + exp(beta u) / beta), fitted here directly.
    u = np.log(np.geomspace(0.25, 4, 9))
    alpha, beta = surfaces.EQ_10["alpha"], surfaces.EQ_10["beta"]
    square, slope, _ = np.polyfit(u, np.exp(-alpha * u) / alpha + np.exp(beta * u) / beta, 2)
    true = surfaces.closed_form(surfaces.EQ_10, 1e20)[0]
    bias = np.log(law.coefficient * 1e20**law.exponent / true)
    assert bias == pytest.approx(-slope / (2 * square), abs=1e-6)
    assert abs(bias) > 1e-3


def test_approach_2_biases_the_exponent_where_the_grid_drifts():
    minima = frontiers.isoflop_minima(isoflops(0.03), "parabola")
    law = frontiers.power_law(minima.flops, minima.parameters)
    expected = []
    for compute in minima.flops:
        u = 0.03 * np.log(compute / 1e20) + np.log(np.geomspace(0.25, 4, 9))
        alpha, beta = surfaces.EQ_10["alpha"], surfaces.EQ_10["beta"]
        square, slope, _ = np.polyfit(u, np.exp(-alpha * u) / alpha + np.exp(beta * u) / beta, 2)
        expected.append(
            np.log(surfaces.closed_form(surfaces.EQ_10, compute)[0]) - slope / (2 * square)
        )
    slope = np.polyfit(np.log(minima.flops), expected, 1)[0]
    assert law.exponent == pytest.approx(slope, abs=1e-6)
    assert abs(law.exponent - planning.exponents(surfaces.EQ_10)["a"]) > 1e-4


def test_akima_finds_the_optimum_of_each_budget_and_skips_one_sided_profiles():
    data = isoflops(0.0)
    law = frontiers.isoflop_minima(data, "akima")
    np.testing.assert_allclose(
        law.parameters, surfaces.closed_form(surfaces.EQ_10, law.flops)[0], rtol=0.02
    )
    rising = data.take(
        ~((data.flops < 2e18) & (data.parameters < surfaces.closed_form(surfaces.EQ_10, 1e18)[0]))
    )
    assert len(frontiers.isoflop_minima(rising, "akima").skipped) == 1
    with pytest.raises(ValueError, match="interpolation='spline'"):
        frontiers.isoflop_minima(data, "spline")


def test_approach_1_follows_the_lower_envelope():
    flops = np.geomspace(1e16, 1e20, 60)
    sizes = np.geomspace(1e6, 1e9, 13)
    curves = [
        (n, flops, laws.chinchilla.predict(surfaces.EQ_10, parameters=n, tokens=flops / 6 / n))
        for n in sizes
    ]
    at = np.geomspace(1e17, 1e19, 9)
    best, loss = frontiers.envelope(curves, at)
    table = np.stack([
        laws.chinchilla.predict(surfaces.EQ_10, parameters=n, tokens=at / 6 / n) for n in sizes
    ])  # fmt: skip
    np.testing.assert_array_equal(best, sizes[table.argmin(0)])
    np.testing.assert_allclose(loss, table.min(0), rtol=1e-3)
    assert np.isnan(frontiers.envelope(curves, np.array([1e25]))[0][0])


def test_a_power_law_by_two_points_and_by_weights():
    found = frontiers.power_law(np.array([1.0, 100.0]), np.array([2.0, 20.0]))
    assert found.exponent == pytest.approx(0.5) and found.coefficient == pytest.approx(2.0)
    x, y = np.array([1.0, 10.0, 100.0]), np.array([1.0, 10.0, 1000.0])
    kept = frontiers.power_law(x, y, np.array([1.0, 1.0, 0.0]))
    assert kept.exponent == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two"):
        frontiers.power_law(np.ones(2), np.ones(2))


def test_the_exponents_interval_follows_the_scatter_of_budgets():
    """Noise in log N of 8 budgets: percentiles reach as far as the standard error of a slope."""
    flops, noise = np.geomspace(1e18, 1e22, 8), 0.05 * np.random.default_rng(1).normal(size=8)
    sizes = 0.1 * flops**0.5 * np.exp(noise)
    minima = frontiers.Minima(flops, sizes, flops / 6 / sizes, np.ones(8), ())
    low, high = frontiers.exponent_interval(minima, 0.9, np.random.default_rng(0), 500)
    x = np.log(flops) - np.log(flops).mean()
    slope = frontiers.power_law(flops, sizes).exponent
    residual = np.log(sizes) - np.log(sizes).mean() - slope * x
    error = np.sqrt(np.mean(residual**2) / (x @ x))
    assert low < slope < high
    assert (high - low) / (2 * 1.645 * error) == pytest.approx(1, abs=0.35)  # 8 budgets
    # Where D = C / 6 N a budget's errors of log N and log D are opposite, and a + b is 1.
    of_tokens = frontiers.exponent_interval(
        minima, 0.9, np.random.default_rng(0), num_resamples=500, of="tokens"
    )
    np.testing.assert_allclose(of_tokens, (1 - high, 1 - low), rtol=1e-12)
    few = frontiers.Minima(*(a[:2] for a in (flops, sizes, flops, sizes)), ())
    assert np.all(np.isnan(frontiers.exponent_interval(few, 0.9, np.random.default_rng(0))))


@pytest.mark.parametrize(
    "options, words", [({"of": "loss"}, "of='loss'"), ({"num_resamples": 0}, "num_resamples=0")]
)
def test_bad_resamples_are_refused(options, words):
    minima = frontiers.Minima(*np.geomspace(1, 9, 12).reshape(4, 3), ())
    with pytest.raises(ValueError, match=words):
        frontiers.exponent_interval(minima, 0.9, np.random.default_rng(0), **options)


def test_budgets_are_runs_of_near_neighbours():
    flops = np.array([1e20, 1e18, 1.01e18, 1e20, 1.02e18, 1.2e18])
    found = frontiers.budgets(flops)
    assert [sorted(rows.tolist()) for rows in found] == [[1, 2, 4], [5], [0, 3]]
    assert [len(rows) for rows in frontiers.budgets(flops, same_budget=0.2)] == [4, 2]


def test_budgets_that_scatter_are_one_within_the_tolerance():
    """Steps are whole: runs of a budget differ by some per cent."""
    data, rng = isoflops(0.0), np.random.default_rng(0)
    scattered = data.flops * np.exp(0.1 * rng.uniform(-1, 1, len(data)))
    data = runs.Runs(
        parameters=data.parameters, tokens=data.tokens, loss=data.loss, flops=scattered
    )
    assert len(frontiers.isoflop_minima(data, same_budget=0.2).flops) == 5
    with pytest.raises(ValueError, match="0 of .* budgets have an optimum inside their profile"):
        frontiers.isoflop_minima(data, same_budget=0.0)
    with pytest.raises(ValueError, match="same_budget=-1"):
        frontiers.isoflop_minima(data, same_budget=-1)


def test_flops_in_another_unit_are_warned_of():
    data = isoflops(0.0)
    data = runs.Runs(
        parameters=data.parameters, tokens=data.tokens, loss=data.loss, flops=data.flops / 1e18
    )
    with pytest.warns(runs.UnitsWarning, match="is 1e-18"):
        frontiers.isoflop_minima(data)
