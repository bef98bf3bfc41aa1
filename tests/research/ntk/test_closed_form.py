"""The algebra of gradient flow, against matrix exponentials and by its shapes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from research import ntk
from research.ntk import closed_form


def test_rounding_errors_move_nothing_once_they_would_be_inverted(x64):
    """Eigenvalues of 0 and 1e-17 beside 1 are zeros: t until t = 1 / cutoff, then nothing."""
    with pytest.warns(RuntimeWarning, match="2 eigenvalues"):
        parts = ntk.eigen.decompose(np.diag([0.0, 1e-17, 1.0]))
    late = float(1 / parts.cutoff)
    times = jnp.array([1.0, 0.5 * late, 2 * late, jnp.inf])
    moved = closed_form.progress(parts, 1.0, times)
    zeros = np.array([1, 0.5 * late, 0, 0])  # 1e-17 is slower by 1e-17 late / 4 at most
    np.testing.assert_allclose(moved[:, :2], np.stack([zeros, zeros], 1), rtol=1e-2)
    np.testing.assert_allclose(moved[:, 2], [1 - np.exp(-1), 1, 1, 1], rtol=1e-12)


def problem():
    """A kernel of 5 training and 2 test points, its decomposition, an error [5, 2]."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(7, 9)) / 3
    theta = factor @ factor.T
    return theta, ntk.eigen.decompose(theta[:5, :5]), rng.normal(size=(5, 2))


def test_change_is_the_matrix_exponential(x64):
    """Theta(x, X) Theta^-1 (1 - exp(-s Theta t)) (y - f_0), at several times and at infinity."""
    theta, parts, error = problem()
    times, train, cross = np.array([0.0, 0.4, 9.0, np.inf]), theta[:5, :5], theta[5:, :5]
    found = closed_form.change(parts, 0.5, times, error, cross)
    for time, moved in zip(times, found):
        ended = scipy.linalg.expm(-0.5 * train * time) if np.isfinite(time) else np.zeros((5, 5))
        expected = cross @ np.linalg.solve(train, (np.eye(5) - ended) @ error)
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-12)
    one = closed_form.change(parts, 0.5, np.float64(0.4), error, cross)
    np.testing.assert_allclose(one, found[1], rtol=1e-12)


def test_ensemble_is_a_linear_map_of_a_gaussian(x64):
    """Mean and covariance of f_0(x) + A_t (y - f_0(X) - noise), A_t by matrix exponential."""
    theta, parts, y = problem()
    train, cross, nngp, noise = theta[:5, :5], theta[5:, :5], theta + 0.3 * np.eye(7), 0.2
    mean, covariance = closed_form.ensemble(
        parts, 1.0, np.array([0.7]), y, cross, nngp[5:, :5], nngp[5:, 5:], nngp[:5, :5], noise
    )
    a = cross @ np.linalg.solve(train, np.eye(5) - scipy.linalg.expm(-0.7 * train))
    joint = np.concatenate([-a, np.eye(2)], 1)
    expected = joint @ nngp @ joint.T + noise * a @ a.T
    np.testing.assert_allclose(mean[0], a @ y, rtol=1e-10)
    np.testing.assert_allclose(covariance[0], expected, rtol=1e-10)


def test_recompose_takes_the_ridge_off_again(x64):
    theta, _, _ = problem()
    parts = ntk.eigen.decompose(theta, 0.5)
    np.testing.assert_allclose(closed_form.recompose(parts), theta, rtol=1e-10, atol=1e-12)


def test_arguments_in_the_shapes_of_the_algebra():
    kernel = np.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    flat = closed_form.as_matrix(kernel, (3, 4), "k_test_train")
    assert flat.shape == (8, 12) and flat[1 * 4 + 2, 2 * 4 + 3] == kernel[1, 2, 2, 3]
    assert closed_form.as_matrix(np.ones((2, 3)), (3, 4), "k_train").shape == (2, 3)
    assert closed_form.as_targets(np.ones(3), 3)[0].shape == (3, 1)
    assert (
        closed_form.as_targets(np.ones(3), 3)[1]
        and not closed_form.as_targets(np.ones((3, 1)), 3)[1]
    )
    assert (
        closed_form.as_speed(0.5, "sum", 8) == 0.5
        and closed_form.as_speed(0.5, "mean", 8) == 1 / 16
    )
    assert closed_form.as_time(None) == np.inf and closed_form.as_time([0, 1]).shape == (2,)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: closed_form.as_matrix(np.ones((2, 3, 4, 5)), (3, 4), "k_train"), "k_train has sh"),
        (lambda: closed_form.as_targets(np.ones((2, 3)), 3), r"y_train has shape \(2, 3\)"),
        (lambda: closed_form.as_targets(np.ones(3, int), 3), "expected floats"),
        (lambda: closed_form.as_speed(1.0, "max", 3), "loss='max'"),
        (lambda: closed_form.as_speed(0.0, "sum", 3), "learning_rate=0.0"),
        (lambda: closed_form.as_time(-1.0), "time=-1.0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_kernels_of_other_points_do_not_fit(x64):
    _, parts, error = problem()
    with pytest.raises(AssertionError, match="on axis '1' but got '6'"):
        closed_form.change(parts, 1.0, np.array(1.0), error, np.ones((2, 6)))
