"""Forecasts: their intervals hold larger runs as often as they say, and widen where a law bends."""

import dataclasses

import numpy as np
import pytest

from research.scaling_laws import fitting, forecasts, laws, runs
from tests.research.scaling_laws import surfaces

OPTIONS = {"loss": "squared", "num_resamples": 100}
NOISE = 0.003


def larger(factor=8.0):
    """A run of `factor` times the largest compute of the surface, near its optimum."""
    flops = factor * 6 * np.prod(np.max(surfaces.grid(), axis=1))
    size = np.sqrt(flops / 6 / 80)
    return {"parameters": size, "tokens": 80 * size}


def test_intervals_hold_the_larger_run():
    """At least 22 of 25; exact 95 % intervals would fail that once in 29 seeds."""
    target, rng, inside = larger(), np.random.default_rng(5), 0
    inflation, widths = [], []
    for seed in range(25):
        data = surfaces.chinchilla(noise=NOISE, seed=seed)
        found = forecasts.forecast(laws.chinchilla, data, target, rng=seed, **OPTIONS)
        truth = laws.chinchilla.predict(surfaces.TRUE, **target)
        measured = truth * np.exp(NOISE * rng.normal())
        inside += bool(found.low[0] <= measured <= found.high[0])
        inflation.append(found.inflation)
        widths.append(np.log(found.high[0] / found.low[0]) / NOISE)
    assert inside >= 22
    # Not by width alone: the noise of a single run makes 3.9 of it.
    assert 3.9 < np.median(widths) < 10
    assert np.median(inflation) < 1.5


def test_the_residual_is_the_noise():
    data = surfaces.chinchilla(noise=NOISE, num_sizes=12, num_ratios=20)
    found = forecasts.residual(fitting.fit(laws.chinchilla, data, loss="squared"))
    assert found == pytest.approx(NOISE, rel=0.2)  # 240 runs: 5 % (1 s.e.)


def test_a_bend_that_past_predictions_show_widens_the_interval():
    """Beyond 3e9 parameters each factor of two is worth half as much as the law says."""
    data = surfaces.chinchilla(noise=0.0005)
    bent = data.loss * np.maximum(data.parameters / 3e9, 1.0) ** 0.05
    data = runs.Runs(parameters=data.parameters, tokens=data.tokens, loss=bent)
    found = forecasts.forecast(laws.chinchilla, data, larger(), rng=0, by="parameters", **OPTIONS)
    assert found.inflation > 3
    boot = fitting.bootstrap(laws.chinchilla, data, 100, 0, loss="squared")
    straight = forecasts.intervals(boot)["E"]
    low, high = found.parameters["E"]
    point = found.boot.fit.parameters["E"]
    assert np.log(point / low) == pytest.approx(
        found.inflation * np.log(point / straight[0]), rel=1e-6
    )
    assert high > straight[1]


def test_a_lost_resample_leaves_the_interval_finite():
    """A draw whose coefficient exceeds every float: A = e^900 with a power that undoes it."""
    data = surfaces.chinchilla(noise=NOISE)
    boot = fitting.bootstrap(laws.chinchilla, data, 50, 0, loss="squared")
    law, unit = laws.chinchilla, boot.fit.problem.log_unit["parameters"]
    thetas = boot.thetas.copy()
    thetas[law.names.index("alpha"), 0] = 900 / unit
    lost = dataclasses.replace(boot, thetas=thetas, draws=boot.fit.problem.parameters_of(thetas))
    assert not np.isfinite(lost.draws["A"][0])
    columns = {name: np.array([value]) for name, value in larger().items()}
    _, spread = forecasts._spread(lost, columns, 0)
    assert np.all(np.isfinite(spread))


def test_few_runs_need_wider_intervals_than_percentiles():
    """Power laws of 6 runs: coverage of the exponent by percentiles, and with lost freedom.

    200 repetitions have a standard error of 1.5 % at 95 %; three are allowed.
    """
    size, law = np.geomspace(1e7, 1e9, 6), laws.kaplan_parameters
    inside = {"percentiles": 0, "widened": 0}
    for seed in range(200):
        noise = np.exp(NOISE * np.random.default_rng(seed).normal(size=6))
        data = runs.Runs(parameters=size, tokens=20 * size, loss=(8.8e13 / size) ** 0.076 * noise)
        boot = fitting.bootstrap(law, data, 200, seed, loss="squared", num_starts=1)
        found = {"percentiles": boot.interval(), "widened": forecasts.intervals(boot)}
        for name, ends in found.items():
            inside[name] += bool(ends["alpha_N"][0] <= 0.076 <= ends["alpha_N"][1])
    assert inside["percentiles"] / 200 < 0.95 - 0.045
    assert abs(inside["widened"] / 200 - 0.95) < 0.046


def test_resamples_spread_as_much_as_standard_errors():
    """A single prediction's spread without the run's own noise, by resamples and by the sandwich.

    log L = log c - alpha log N is linear, so the delta method is exact: both are (n / (n - p))^1/2
    times the raw spread of the draws. 8 runs; resampling itself differs by a tenth or so.
    """
    size = np.geomspace(1e7, 1e9, 8)
    noise = np.exp(NOISE * np.random.default_rng(3).normal(size=8))
    data = runs.Runs(parameters=size, tokens=20 * size, loss=(8.8e13 / size) ** 0.076 * noise)
    boot = fitting.bootstrap(laws.kaplan_parameters, data, 400, 0, loss="squared", num_starts=1)
    columns = {"parameters": np.array([1e8])}
    _, spread = forecasts._spread(boot, columns, 0)
    normal = fitting.generator(0).standard_normal(spread.shape)
    drawn = spread - forecasts.residual(boot.fit) * normal
    raw = [laws.kaplan_parameters.predict({n: v[i] for n, v in boot.draws.items()}, parameters=1e8)
           for i in range(400)]  # fmt: skip
    np.testing.assert_allclose(drawn.std(), np.sqrt(8 / 6) * np.std(np.log(raw)), rtol=1e-9)


def test_an_infinite_draw_makes_an_end_infinite_and_no_nan():
    """Two draws of 20 whose A exceeds every float: the 95 % end is theirs, the 80 % end is not."""
    data = surfaces.chinchilla(noise=NOISE)
    boot = fitting.bootstrap(laws.chinchilla, data, 20, 0, loss="squared")
    draws = {name: values.copy() for name, values in boot.draws.items()}
    draws["A"][:2] = np.inf
    lost = dataclasses.replace(boot, draws=draws)
    found = forecasts.intervals(lost)["A"]
    assert found[1] == np.inf and 0 < found[0] < boot.fit.parameters["A"]
    assert np.isfinite(forecasts.intervals(lost, 0.7)["A"]).all()
    assert forecasts.intervals(lost)["alpha"] == forecasts.intervals(boot)["alpha"]


def test_too_few_runs_to_calibrate_by_are_refused():
    data = surfaces.chinchilla(num_sizes=2, num_ratios=3)
    with pytest.raises(ValueError, match="3 of 6 runs have parameters below 0.5 of the largest"):
        forecasts.forecast(laws.chinchilla, data, larger(), rng=0, by="parameters", **OPTIONS)
    with pytest.raises(ValueError, match="level=1.5"):
        forecasts.forecast(laws.chinchilla, data, larger(), rng=0, level=1.5, **OPTIONS)


def test_as_many_past_runs_as_parameters_are_refused():
    """A fit through all of them leaves no residual, beside which every error is infinite."""
    data = surfaces.chinchilla(num_sizes=6, num_ratios=2, noise=NOISE)
    kept = data.take(np.arange(12) != 1)  # 5 of 11 runs in the smaller half
    with pytest.raises(ValueError, match="5 of 11 .* needs more than 5 there"):
        forecasts.forecast(
            laws.chinchilla, kept, larger(), rng=0, by="parameters", share=0.03, **OPTIONS
        )


def test_past_predictions_reach_as_far_as_they_should():
    """At a distance of 8 the runs in between take no part, neither fitted nor predicted."""
    flops = np.repeat(1e18 * np.array([1, 2, 4, 10, 32]), 6)
    size = np.sqrt(flops / 120) * np.tile(np.geomspace(0.25, 4, 6), 5)
    loss = laws.chinchilla.predict(surfaces.TRUE, parameters=size, tokens=flops / 6 / size)
    loss = loss * (flops / 4e18).clip(1) ** -0.01 * np.exp(1e-3 * np.sin(np.arange(30)))
    data = runs.Runs(parameters=size, tokens=flops / 6 / size, loss=loss, flops=flops)
    options = {"loss": "squared", "num_resamples": 20, "rng": 0, "share": 0.75}
    far = forecasts.forecast(laws.chinchilla, data, larger(), distance=8.0, **options)
    ends = data.take((flops <= 4e18) | (flops == 32e18))
    alone = forecasts.forecast(laws.chinchilla, ends, larger(), **options)
    assert far.inflation == pytest.approx(alone.inflation, rel=1e-9)
    near = forecasts.forecast(laws.chinchilla, data, larger(), **options)
    assert not far.inflation == pytest.approx(near.inflation, rel=0.1)
    np.testing.assert_allclose(far.predicted, near.predicted, rtol=1e-12)
    with pytest.raises(ValueError, match="5 of 29 runs have flops at most 1/32 .* more than 5"):
        fewer = data.take(np.arange(30) != 0)
        forecasts.forecast(laws.chinchilla, fewer, larger(), distance=32.0, **options)
    with pytest.raises(ValueError, match="distance=1.2: less than 1 / share"):
        forecasts.forecast(laws.chinchilla, data, larger(), distance=1.2, **options)


def test_an_interval_about_infinity_is_none():
    assert np.isnan(forecasts._widened(np.inf, 0.2, 1.6))
    assert forecasts._widened(0.2, np.inf, 1.6) == np.inf
    assert forecasts._widened(2.0, 4.0, 2.0) == pytest.approx(8.0, rel=1e-12)
