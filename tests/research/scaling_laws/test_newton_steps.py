"""One stage of many small fits: the loss, the matrices by lane, straight and bent steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.scaling_laws.fits import lanes, newton_steps
from tests.research.scaling_laws import surfaces


@pytest.fixture(scope="module")
def noisy():
    return surfaces.noisy_fit()


@pytest.mark.parametrize("delta", [0.3, math.inf])
def test_huber_is_its_definition(delta):
    residual = np.linspace(-1, 1, 21)
    value = np.asarray(newton_steps.huber(residual, delta))
    size = np.abs(residual)
    inside, outside = 0.5 * residual**2, np.minimum(delta, 1e9) * (size - 0.5 * min(delta, 1e9))
    np.testing.assert_allclose(value, np.where(size <= delta, inside, outside), rtol=1e-6)


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


def line(theta, columns):
    """theta [2, B, 1] -> level + slope x, [B, n]."""
    return theta[0] + theta[1] * columns["x"]


def line_data(num=9, outlier=0.0):
    x = np.linspace(-1.0, 2.0, num)
    y = 0.7 - 1.3 * x + 0.05 * np.cos(7 * x)
    y[2] += outlier
    return {"x": x[None]}, y[None]


def test_least_squares_of_a_line_end_after_one_step(x64):
    """A quadratic: the undamped step goes to the minimum, the next one finds no decrease."""
    columns, targets = line_data()
    design = np.stack([np.ones(9), columns["x"][0]], 1)
    expected, (squares,), _, _ = np.linalg.lstsq(design, targets[0])
    stage = newton_steps.Stage(np.float64, 2, 8, 1e-13, 0.1, 8.0, 0.0, 1e12, 0.0)
    theta, objective, _, done, count = newton_steps.advance(
        stage, line, columns, targets, np.ones((2, 9)), np.float64(np.inf), np.ones(2, bool),
        np.array([[5.0, 3.0], [0.0, 0.0]]), np.zeros(2),
    )  # fmt: skip
    np.testing.assert_allclose(theta, np.stack([expected, expected]), rtol=1e-12)
    np.testing.assert_allclose(objective, squares / 2, rtol=1e-10)
    assert done.all() and count <= 2


def test_derivatives_of_the_robust_objective(x64):
    """Gradient and matrices against those of the definition, with a run beyond the threshold."""
    columns, targets = line_data(outlier=1.0)
    weights, delta, theta = np.arange(1.0, 10.0)[None], 0.3, np.array([[0.6, -1.2]])
    objective, sums = newton_steps.derivatives(line, columns, targets, weights, delta, theta)
    grads, newton, above = newton_steps.parts(sums)
    design = np.stack([np.ones(9), columns["x"][0]], 1)
    residual = targets[0] - design @ theta[0]
    size = np.abs(residual)
    inside = size <= delta
    assert 0 < inside.sum() < 9
    rho = np.where(inside, residual**2 / 2, delta * (size - delta / 2))
    assert objective[0] == pytest.approx(weights[0] @ rho)
    slope = weights[0] * np.clip(residual, -delta, delta)
    np.testing.assert_allclose(grads[0], design.T @ slope, rtol=1e-12)
    inner = weights[0] * inside
    np.testing.assert_allclose(newton[0], design.T @ (inner[:, None] * design), rtol=1e-12)
    outer = weights[0] * np.minimum(1, delta / size)
    np.testing.assert_allclose(above[0], design.T @ (outer[:, None] * design), rtol=1e-12)
    predicted, slopes = newton_steps.jacobian(line, columns, theta)
    np.testing.assert_allclose(predicted[0], design @ theta[0], rtol=1e-12)
    np.testing.assert_allclose(slopes[0], design.T, rtol=1e-12)
