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
    straight = fitting.bootstrap(laws.chinchilla, data, 100, 0, loss="squared").interval()["E"]
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


def test_too_few_runs_to_calibrate_by_are_refused():
    data = surfaces.chinchilla(num_sizes=2, num_ratios=3)
    with pytest.raises(ValueError, match="3 of 6 runs have parameters below 0.5 of the largest"):
        forecasts.forecast(laws.chinchilla, data, larger(), rng=0, by="parameters", **OPTIONS)
    with pytest.raises(ValueError, match="level=1.5"):
        forecasts.forecast(laws.chinchilla, data, larger(), rng=0, level=1.5, **OPTIONS)
