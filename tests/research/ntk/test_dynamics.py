"""ODE dynamics against the closed form and against the iterations they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import ntk

RNG = np.random.default_rng(0)


FACTOR = RNG.normal(size=(9, 12)) / 3


THETA = FACTOR @ FACTOR.T  # 6 training and 3 test points


TRAIN, CROSS = THETA[:6, :6], THETA[6:, :6]


START, TARGETS = RNG.normal(size=(9, 2)), RNG.normal(size=(6, 2))


def squared(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def cross_entropy(f, y):
    return -jnp.mean(jnp.sum(jax.nn.softmax(y) * jax.nn.log_softmax(f), axis=1))


def test_squared_error_is_the_closed_form(x64):
    times = np.array([0.0, 0.3, 4.0])
    found = ntk.dynamics.solve(
        squared, TARGETS, TRAIN, START[:6], times,
        k_test_train=CROSS, f_test=START[6:], learning_rate=0.5,
    )  # fmt: skip
    flow = ntk.predict.network_flow(TRAIN, TARGETS, START[:6], learning_rate=0.5)
    np.testing.assert_allclose(found.train, flow(times), atol=1e-6)
    np.testing.assert_allclose(found.test, flow(times, CROSS, START[6:]), atol=1e-6)
    np.testing.assert_array_equal(found.train[0], START[:6])


@jax.jit
def iterate(rate, momentum, num_steps):
    """Outputs after gradient descent or the heavy ball, [9, 2], by the iteration itself."""
    gradient = jax.grad(cross_entropy)
    kernel = jnp.asarray(np.concatenate([TRAIN, CROSS]))

    def step(_, carry):
        f, velocity = carry
        velocity = momentum * velocity - rate * kernel @ gradient(f[:6], TARGETS)
        return f + velocity, velocity

    start = jnp.asarray(START)
    return jax.lax.fori_loop(0, num_steps, step, (start, jnp.zeros_like(start)))[0]


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_iterations_approach_the_ode_as_steps_shrink(x64, momentum):
    """Halving the step twice, 1 - momentum with its root: errors fall at the order of the method.

    Descent errs by one step's curvature (order 1 in its size). The heavy ball's equation is exact
    to second order but starts at rest half a step late, so its order is that of the step in time,
    the root of the learning rate.
    """
    errors, rates = [], 0.4 / 4.0 ** np.arange(3)
    for rate in rates:
        m = None if momentum is None else 1 - (1 - momentum) * (rate / rates[0]) ** 0.5
        num_steps = round(8 / rate) if m is None else round(16 / rate**0.5)
        found = ntk.dynamics.solve(
            cross_entropy, TARGETS, TRAIN, START[:6], [num_steps],
            k_test_train=CROSS, f_test=START[6:], learning_rate=rate, momentum=m,
        )  # fmt: skip
        both = np.concatenate([found.train[-1], found.test[-1]])
        errors.append(np.abs(both - iterate(rate, m or 0.0, num_steps)).max())
    assert np.abs(both - START).max() > 0.3
    order = np.log(errors[0] / errors[-1]) / np.log(rates[0] / rates[-1])
    assert order > (0.85 if momentum is None else 0.42)
    assert errors[-1] < (1e-2 if momentum is None else 5e-2)


def test_full_kernels_couple_the_outputs(x64):
    """A kernel Theta x B: diagonal B scales the rate of each output."""
    scales = np.array([1.0, 0.25])
    full = np.einsum("nm,cd->nmcd", TRAIN, np.diag(scales))
    found = ntk.dynamics.solve(squared, TARGETS, full, START[:6], [2.0])
    for column, scale in enumerate(scales):
        alone = ntk.predict.network_flow(scale * TRAIN, TARGETS[:, column], START[:6, column])
        np.testing.assert_allclose(found.train[0, :, column], alone(2.0), atol=1e-6)


def test_float32_input_is_solved_in_float64():
    arguments = (np.float32(v) for v in (TARGETS, TRAIN, START[:6]))
    found = ntk.dynamics.solve(squared, *arguments, [3.0])
    flow = ntk.predict.network_flow(np.float32(TRAIN), np.float32(TARGETS), np.float32(START[:6]))
    assert found.train.dtype == jnp.float32
    np.testing.assert_allclose(found.train[0], flow(3.0), atol=2e-6)


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("method, momentum", [
    ("heavy_ball", 0.0), ("heavy_ball", 0.9), ("nesterov", 0.9)
])  # fmt: skip
def test_training_converges_below_the_largest_learning_rate_only(x64, loss, method, momentum):
    """Parameters of a linear model, at 0.95 and 1.05 of it."""
    phi = FACTOR[:6]
    lambda_max = ntk.eigen.decompose(phi @ phi.T).values[-1]
    largest = ntk.dynamics.largest_learning_rate(
        lambda_max, momentum=momentum, method=method, loss=loss, num_targets=12
    )

    def gap(rate):
        """|phi theta - y| over |y|, after many steps or a growth that decides."""
        theta, velocity = np.zeros((12, 2)), np.zeros((12, 2))
        for _ in range(4000):
            at = theta + momentum * velocity if method == "nesterov" else theta
            gradient = phi.T @ (phi @ at - TARGETS) / {"sum": 1, "mean": 12}[loss]
            velocity = momentum * velocity - rate * gradient
            theta = theta + velocity
            if abs(theta).max() > 1e9:
                break
        return np.linalg.norm(phi @ theta - TARGETS) / np.linalg.norm(TARGETS)

    assert gap(0.95 * float(largest)) < 1e-2
    assert gap(1.05 * float(largest)) > 1e6


def test_stiff_equation_ends_in_a_clear_error(x64):
    with pytest.raises(RuntimeError, match="more than max_steps=20 to reach t=1000"):
        ntk.dynamics.solve(squared, TARGETS, TRAIN, START[:6], [1000.0], max_steps=20)


@pytest.mark.parametrize("change, message", [
    ({"times": [1.0, 0.5]}, "ascending"),
    ({"times": [np.inf]}, "finite"),
    ({"rtol": -1.0}, "rtol=-1.0"),
    ({"rtol": 0.0, "atol": 0.0}, "rtol=0.0: expected a number >= 0, not both"),
    ({"atol": np.nan}, "atol=nan"),
    ({"max_steps": 0}, "max_steps=0"),
    ({"max_steps": 10.0}, "max_steps=10.0"),
    ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ({"learning_rate": np.nan}, "learning_rate=nan"),
    ({"k_test_train": CROSS[:, :2], "f_test": START[6:]}, "k_test_train has shape"),
    ({"k_train": THETA}, r"k_train has shape \(9, 9\): expected \[6, 6\]"),
    ({"momentum": 1.0}, "momentum=1.0"),
    ({"k_test_train": CROSS}, "come together"),
    ({"f_train": START[0]}, r"f_train has shape \(2,\)"),
])  # fmt: skip
def test_bad_input_is_named(change, message):
    arguments = dict(k_train=TRAIN, f_train=START[:6], times=[1.0])
    with pytest.raises(ValueError, match=message):
        ntk.dynamics.solve(squared, TARGETS, **(arguments | change))


@pytest.mark.parametrize("change, message", [
    ({"loss": "mean"}, "needs num_targets"),
    ({"loss": "mean", "num_targets": 2.5}, "num_targets=2.5"),
    ({"loss": "max"}, "loss='max'"),
    ({"method": "adam"}, "method='adam'"),
    ({"momentum": -0.1}, "momentum=-0.1"),
    ({"lambda_max": 0.0}, "lambda_max=0.0: expected a positive number"),
    ({"lambda_max": np.nan}, "lambda_max=nan"),
])  # fmt: skip
def test_bad_rates_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ntk.dynamics.largest_learning_rate(**({"lambda_max": 1.0} | change))
