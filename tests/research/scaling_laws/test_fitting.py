"""Fits: exact recovery, optimality against SciPy, robustness, intervals, what cannot be told."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from research.scaling_laws import fitting, identifiability, laws, profiles, runs
from research.scaling_laws.fits import lanes, newton_steps
from tests.research.scaling_laws import surfaces
from tests.research.scaling_laws.surfaces import TRUE


@pytest.fixture(scope="module")
def noisy():
    return fitting.fit(laws.chinchilla, surfaces.chinchilla(noise=0.01))


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


def test_one_ratio_of_tokens_to_parameters_is_refused():
    size = np.geomspace(1e7, 1e10, 12)
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=20 * size)
    data = runs.Runs(parameters=size, tokens=20 * size, loss=loss)
    with pytest.raises(fitting.Unidentifiable, match="D / N within .* of 20; vary tokens"):
        fitting.fit(laws.chinchilla, data)
    with pytest.warns(identifiability.IdentifiabilityWarning, match="not identifiable"):
        fitting.fit(laws.chinchilla, data, allow_unidentified=True)


def test_a_narrow_design_warns():
    size = np.geomspace(1e7, 1e10, 12)
    tokens = 20 * size * np.tile([0.9, 1.1], 6)
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=tokens)
    with pytest.warns(identifiability.IdentifiabilityWarning, match="hardly identifiable"):
        fitting.fit(laws.chinchilla, runs.Runs(parameters=size, tokens=tokens, loss=loss))


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


def test_too_few_runs_are_refused():
    data = surfaces.chinchilla().take(np.arange(4))
    with pytest.raises(ValueError, match="5 free parameters: 4 runs are too few"):
        fitting.fit(laws.chinchilla, data)


@pytest.mark.parametrize("delta", [0.3, math.inf])
def test_huber_is_its_definition(delta):
    residual = np.linspace(-1, 1, 21)
    value = np.asarray(newton_steps.huber(residual, delta))
    size = np.abs(residual)
    inside, outside = 0.5 * residual**2, np.minimum(delta, 1e9) * (size - 0.5 * min(delta, 1e9))
    np.testing.assert_allclose(value, np.where(size <= delta, inside, outside), rtol=1e-6)


def test_lanes_merge_only_with_likes_of_their_own_resample():
    """Alike in theta and objective, and of one row of weights; the best of them leads."""
    theta = np.array([[0.0, 0.0], [0.001, 0.0], [0.0, 0.001], [0.5, 0.0], [0.0, 0.0], [0.5, 0.001]])
    state = lanes._State(theta)
    state.objective = np.array([1.00001, 1.0, 1.1, 1.00002, 1.0, 1.00003])
    rows = np.array([0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(lanes._merged(state, rows), [1, 1, 2, 3, 4, 3])


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


def test_inverses_by_lane(x64):
    """Of badly scaled matrices, with parameters held; without a positive pivot a lane says so."""
    rng = np.random.default_rng(0)
    root, scale = rng.normal(size=(6, 5, 5)), 10.0 ** rng.integers(-6, 7, (6, 5))
    matrix = scale[:, :, None] * (root @ root.swapaxes(1, 2)) * scale[:, None]
    matrix[4] -= 2 * np.diag(np.diag(matrix[4]))
    matrix[5, 2, 3] = matrix[5, 3, 2] = np.nan
    free, right = np.array([True, True, False, True, True]), rng.normal(size=(6, 5)) * scale
    inverse = newton_steps.Inverse(jnp.asarray(matrix), jnp.asarray(free))
    np.testing.assert_array_equal(inverse.positive, [True] * 4 + [False, True])  # nan is held
    found = np.asarray(inverse.solve(jnp.asarray(right)))
    for lane in (0, 1, 2, 3):
        part = matrix[lane][np.ix_(free, free)] / np.outer(scale[lane, free], scale[lane, free])
        expected = np.linalg.solve(part, right[lane, free] / scale[lane, free]) / scale[lane, free]
        np.testing.assert_allclose(found[lane, free], expected, rtol=1e-8)
    np.testing.assert_array_equal(found[:, 2], 0.0)
    everything = newton_steps.Inverse(jnp.asarray(matrix), jnp.ones(5, bool))
    np.testing.assert_array_equal(everything.positive, [True] * 4 + [False, False])
    only_first = jnp.asarray(np.diag([-1.0, 1.0, 1.0, 1.0, 1.0]))[None]
    assert not newton_steps.Inverse(only_first, jnp.ones(5, bool)).positive


def test_a_curved_step_is_its_formula(noisy):
    """a = -(H + lambda H_+)^-1 J^T W m'', m'' by differences, W by the rows of H and H_+."""
    problem = noisy.problem.solver
    theta, damping = noisy.theta + np.array([0.1, -0.2, 0.1, 0.05, 0.1]), 0.3
    with jax.enable_x64(True):
        columns, targets = lanes._data(problem, np.float64)
        ones, delta = np.ones_like(targets), np.float64(problem.delta)
        data = (problem.predict, columns, targets, ones, delta)
        grads, newton, above = newton_steps.parts(newton_steps.derivatives(*data, theta[None])[1])
        inverse = newton_steps.Inverse(newton + damping * above, problem.free)
        move = inverse.solve(grads)
        bent = newton_steps.bent(
            lanes.FAR, data, inverse, theta[None], move, np.full(1, damping), np.full(1, np.inf)
        )
        found = 2 * np.asarray(bent - move)[0]
        at = lambda share: problem.predict((theta + share * move[0])[:, None, None], columns)[0]  # noqa: E731
        second = np.asarray(at(1e-3) - 2 * at(0.0) + at(-1e-3)) / 1e-6
        jacobian = np.asarray(newton_steps.jacobian(problem.predict, columns, theta[None])[1])[0].T
        size = np.abs(targets[0] - np.asarray(at(0.0)))
    inside = size <= delta
    weight = inside + damping * np.where(inside, 1.0, delta / size)
    matrix = jacobian.T @ (weight[:, None] * jacobian)
    expected = -np.linalg.solve(matrix, jacobian.T @ (weight * second))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)


def test_a_start_in_a_bent_valley_arrives(noisy):
    """A / N^alpha with alpha near 0 is nearly a logarithm; straight steps take 168."""
    start = noisy.problem.theta_of({"E": 0.05, "A": 5.0, "B": 1e6, "alpha": 0.02, "beta": 0.8})
    weights = np.ones((1, len(noisy.problem.raw_target)))
    found = lanes.solve(noisy.problem.solver, start[:, None], weights, np.zeros(1, int), 96)
    assert found.objective[0] == pytest.approx(noisy.objective, rel=1e-9)
