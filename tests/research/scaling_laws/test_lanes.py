"""Many fits at once: lanes that merge, valleys that bend, curvature and gradients by hand."""

import numpy as np
import pytest

from research.scaling_laws.fits import lanes
from tests.research.scaling_laws import surfaces


@pytest.fixture(scope="module")
def noisy():
    return surfaces.noisy_fit()


def test_lanes_merge_only_with_likes_of_their_own_resample():
    """Alike in theta and objective, and of one row of weights; the best of them leads."""
    theta = np.array([[0.0, 0.0], [0.001, 0.0], [0.0, 0.001], [0.5, 0.0], [0.0, 0.0], [0.5, 0.001]])
    state = lanes._State(theta)
    state.objective = np.array([1.00001, 1.0, 1.1, 1.00002, 1.0, 1.00003])
    rows = np.array([0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(lanes._merged(state, rows), [1, 1, 2, 3, 4, 3])


def test_a_start_in_a_bent_valley_arrives(noisy):
    """A / N^alpha with alpha near 0 is nearly a logarithm; straight steps take 168."""
    start = noisy.problem.theta_of({"E": 0.05, "A": 5.0, "B": 1e6, "alpha": 0.02, "beta": 0.8})
    weights = np.ones((1, len(noisy.problem.raw_target)))
    found = lanes.solve(noisy.problem.solver, start[:, None], weights, np.zeros(1, int), 96)
    assert found.objective[0] == pytest.approx(noisy.objective, rel=1e-9)


def cubic(theta, columns):
    """A curved model of two parameters, [B, n]."""
    return theta[0] * columns["x"] + theta[1] ** 3


def cubic_problem(free=(True, True)):
    x = np.linspace(-1.0, 1.0, 7)
    return lanes.Problem(cubic, {"x": x}, 2 * x + 0.1 + 0.5 * x**2, 0.2, np.array(free))


def test_value_and_gradient_are_those_of_the_sum():
    problem, theta = cubic_problem(), np.array([1.7, 0.4])
    x, y = problem.columns["x"], problem.targets
    residual = y - theta[0] * x - theta[1] ** 3
    size = np.abs(residual)
    rho = np.where(size <= 0.2, residual**2 / 2, 0.2 * (size - 0.1))
    slope = np.clip(residual, -0.2, 0.2)
    expected = -np.array([slope @ x, slope.sum() * 3 * theta[1] ** 2])
    value, grads = lanes.value_and_gradient(problem)(theta)
    assert value == pytest.approx(rho.sum(), rel=1e-12)
    np.testing.assert_allclose(grads, expected, rtol=1e-12)
    held = lanes.value_and_gradient(cubic_problem((False, True)))(theta)[1]
    np.testing.assert_allclose(held, [0, expected[1]], rtol=1e-12)
    found, jacobian, curvature = lanes.curvature(problem, theta)
    design = np.stack([x, np.full(7, 3 * theta[1] ** 2)], 1)
    np.testing.assert_allclose(found, residual, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(jacobian, design, rtol=1e-12)
    inside = design[size <= 0.2]
    assert 0 < len(inside) < 7
    np.testing.assert_allclose(curvature, inside.T @ inside, rtol=1e-12)


def test_what_does_not_fit_the_problem_is_named():
    problem = cubic_problem()
    for starts, weights in ((np.ones((3, 1)), np.ones((1, 7))), (np.ones((2, 1)), np.ones((1, 6)))):
        with pytest.raises(AssertionError, match="has shape"):
            lanes.solve(problem, starts, weights, np.zeros(1, int))
