"""Fits: exact recovery, optimality against SciPy, robustness, intervals, what cannot be told."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import scipy.optimize

from research.scaling_laws import fitting, laws, runs
from tests.research.scaling_laws import surfaces
from tests.research.scaling_laws.surfaces import TRUE


@pytest.fixture(scope="module")
def noisy():
    return surfaces.noisy_fit()


def by_hand(theta, data, delta):
    """The objective as a reader would write it, uncentred."""
    e, a, b, alpha, beta = theta
    loss = (
        np.exp(e)
        + np.exp(a - alpha * np.log(data.parameters))
        + np.exp(b - beta * np.log(data.tokens))
    )
    residual = np.abs(np.log(data.loss) - np.log(loss))
    return np.sum(np.where(residual <= delta, 0.5 * residual**2, delta * (residual - 0.5 * delta)))


def test_a_noise_free_surface_is_recovered():
    result = fitting.fit(laws.chinchilla, surfaces.chinchilla())
    for name, value in TRUE.items():
        assert result.parameters[name] == pytest.approx(value, rel=1e-6)
    assert result.objective < 1e-18
    assert result.report.rank == 5 and not result.report.message


def test_the_callers_precision_is_left_alone(noisy):
    assert not jax.config.jax_enable_x64
    assert noisy.theta.dtype == np.float64


def test_the_objective_is_the_sum_and_no_scipy_start_ends_lower(noisy):
    data = surfaces.chinchilla(noise=0.01)
    p = noisy.parameters
    theta = [math.log(p["E"]), math.log(p["A"]), math.log(p["B"]), p["alpha"], p["beta"]]
    assert noisy.objective == pytest.approx(by_hand(theta, data, 1e-3), rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(5):
        end = scipy.optimize.minimize(
            by_hand, theta + 0.02 * rng.normal(size=5), (data, 1e-3), "Nelder-Mead",
            options={"maxiter": 4000, "fatol": 1e-14, "xatol": 1e-10},
        )  # fmt: skip
        assert end.fun >= noisy.objective * (1 - 1e-9)


def test_one_wild_run_moves_a_huber_fit_less_than_least_squares():
    data = surfaces.chinchilla(noise=1e-3)
    spoiled = np.array(data.loss)
    spoiled[7] *= 1.5
    spoiled = dataclasses.replace(data, loss=spoiled)
    errors = {}
    for loss in ("huber", "squared"):
        found = fitting.fit(laws.chinchilla, spoiled, loss=loss).parameters
        errors[loss] = abs(found["alpha"] - TRUE["alpha"])
    assert errors["huber"] < 0.02 < errors["squared"]


def test_units_do_not_matter(noisy):
    data = surfaces.chinchilla(noise=0.01)
    scaled = runs.Runs(parameters=data.parameters / 1e6, tokens=data.tokens / 1e9, loss=data.loss)
    other = fitting.fit(laws.chinchilla, scaled)
    assert other.objective == pytest.approx(noisy.objective, rel=1e-9)
    a = noisy.parameters["A"] * 1e6 ** -noisy.parameters["alpha"]
    assert other.parameters["A"] == pytest.approx(a, rel=1e-4)


def test_held_parameters_stay_and_the_rest_is_optimal(noisy):
    data = surfaces.chinchilla(noise=0.01)
    held = fitting.fit(laws.chinchilla, data, fixed={"alpha": 0.4, "E": 1.6})
    assert held.parameters["alpha"] == 0.4
    assert held.parameters["E"] == pytest.approx(1.6, rel=1e-12)
    assert held.objective > noisy.objective
    again = fitting.fit(laws.chinchilla, data, fixed={"A": noisy.parameters["A"]})
    assert again.objective == pytest.approx(noisy.objective, rel=1e-6)


def test_bootstrap_agrees_with_the_sandwich_and_with_itself():
    data = surfaces.chinchilla(noise=0.003)
    options = {"loss": "squared"}
    boot = fitting.bootstrap(laws.chinchilla, data, 300, jax.random.key(0), **options)
    same = fitting.bootstrap(laws.chinchilla, data, 300, jax.random.key(0), **options)
    np.testing.assert_array_equal(boot.draws["A"], same.draws["A"])
    # 30 runs and 300 resamples: a standard error is known to about a quarter.
    for name in ("alpha", "beta"):
        ratio = boot.standard_errors[name] / boot.fit.standard_errors[name]
        assert 0.7 < ratio < 1.6
    low, high = boot.interval(0.95)["alpha"]
    assert low < boot.fit.parameters["alpha"] < high


def test_more_starts_never_end_higher(noisy):
    counts = fitting.resample_counts(np.random.default_rng(1), 30, 32)
    few = fitting.bootstrap_from(noisy, counts, fitting.restarts(noisy, 1))
    many = fitting.bootstrap_from(noisy, counts, fitting.restarts(noisy, 4))
    assert np.all(many.objectives <= few.objectives * (1 + 1e-12))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"loss": "mean"}, "loss='mean': expected 'huber' or 'squared'"),
        ({"space": "exp"}, "space='exp'"),
        ({"method": "adam"}, "method='adam'"),
        ({"delta": -1.0}, "delta=-1.0: expected a positive"),
        ({"method": "newton"}, "needs starts"),
        ({"fixed": {"gamma": 1.0}}, "no parameter 'gamma'"),
        ({"starts": [{"E": 1.0}]}, "needs a value of 'A'"),
        ({"starts": [TRUE | {"A": -1.0}]}, "A=-1.0: expected a positive"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        fitting.fit(laws.chinchilla, surfaces.chinchilla(), **options)


@pytest.mark.parametrize("counts", [{"num_resamples": 0}, {"num_resamples": 2, "num_starts": 0}])
def test_counts_of_a_bootstrap_are_at_least_one(counts):
    with pytest.raises(ValueError, match="num_(resamples|starts)=0.*: expected at least 1"):
        fitting.bootstrap(laws.chinchilla, surfaces.chinchilla(), rng=0, **counts)


def test_starts_without_a_finite_objective_are_refused():
    start = {"E": 1e308, "A": 1.0, "B": 1.0, "alpha": -30.0, "beta": 0.3}
    with pytest.raises(ValueError, match="chinchilla: no start has a finite objective"):
        fitting.fit(
            laws.chinchilla, surfaces.chinchilla(), space="linear", method="newton",
            loss="squared", starts=[start],
        )  # fmt: skip


def test_too_few_runs_are_refused():
    data = surfaces.chinchilla().take(np.arange(4))
    with pytest.raises(ValueError, match="5 free parameters: 4 runs are too few"):
        fitting.fit(laws.chinchilla, data)


def test_restarts_are_as_many_as_asked_for(noisy):
    """The grid has 36 points; 64 distinct starts need a finer one."""
    starts = fitting.restarts(noisy, 64)
    assert starts.shape == (5, 64)
    assert len(np.unique(starts[3:].round(6), axis=1).T) > 60


def test_standard_errors_of_a_line_with_outliers_are_the_huber_sandwich():
    """c H^-1 S H^-1 by hand: H of the runs inside the threshold, S of clipped residuals."""
    rng, delta = np.random.default_rng(4), 2e-3
    size = np.geomspace(1e7, 1e10, 16)
    gap = 1e-3 * rng.normal(size=16)
    gap[[2, 7, 11]] += [0.02, -0.03, 0.01]
    data = runs.Runs(parameters=size, tokens=size, loss=(8.8e13 / size) ** 0.076 * np.exp(gap))
    found = fitting.fit(laws.kaplan_parameters, data, delta=delta)
    design = np.stack([np.ones(16), np.log(size / 1e8)], 1)
    slope = -found.parameters["alpha_N"]
    level = np.log(found.predict(parameters=np.array([1e8])))[0]
    residual = np.log(data.loss) - design @ [level, slope]
    inside = np.abs(residual) <= delta
    assert 3 <= (~inside).sum() < 8
    inverse = np.linalg.inv(design[inside].T @ design[inside])
    scores = design * np.clip(residual, -delta, delta)[:, None]
    covariance = 16 / 14 * inverse @ (scores.T @ scores) @ inverse
    assert found.standard_errors["alpha_N"] == pytest.approx(covariance[1, 1] ** 0.5, rel=1e-6)
