"""Gradient flow in closed form against matrix exponentials, parameter space and Bayes' rule."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from research import ntk
from tests.research.ntk import networks as ntk_networks

WEIGHTS = np.random.default_rng(0).normal(size=(5, 40))


def hidden(x):
    return jnp.tanh(x @ WEIGHTS.astype(x.dtype))


def kernel(x1, x2, get):
    """Of networks with one hidden layer of 40 units: the last layer's, and with one more term."""
    nngp = hidden(x1) @ hidden(x2).T / 40
    return types.SimpleNamespace(nngp=nngp, ntk=nngp + (1 + x1 @ x2.T) ** 2 / 20)


def data(num=7, dtype=np.float64):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)
    return draw(num, 5), draw(num, 2), draw(4, 5)


def exact(x, y, x_test, time, kind, ridge):
    """Mean and covariance by one matrix exponential of the joint linear equation."""
    both, n = np.concatenate([x, x_test]), len(x)
    k = kernel(both, both, None)
    theta, nngp = np.asarray(getattr(k, kind)), np.asarray(k.nngp)
    generator = np.zeros((len(both), len(both)))
    generator[:, :n] = -theta[:, :n]
    # Weight decay acts on the change of the function: c' = -theta (f_0 + c - y) - ridge c.
    size = len(both)
    system = np.zeros((2 * size, 2 * size))  # of (f_0 - y, c)
    system[size:, :size] = generator
    system[size:, size:] = generator - ridge * np.eye(size)
    flow = scipy.linalg.expm(system * time)[size:, :n]  # c_t = flow (f_0(X) - y)
    change = np.eye(size) + np.pad(flow, ((0, 0), (0, size - n)))
    noise = ridge * flow @ flow.T if kind == "nngp" else 0.0
    covariance = change @ nngp @ change.T + noise
    return -(flow @ y)[n:], covariance[n:, n:]


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_mean_and_covariance_at_any_time(x64, kind, ridge):
    x, y, x_test = data()
    flow = ntk.predict.gradient_flow(kernel, x, y, ridge=ridge)
    times = np.array([0.0, 0.05, 1.0, 7.0])
    means, covariances = flow(x_test, times, kind)
    for time, mean, covariance in zip(times, means, covariances):
        expected = exact(x, y, x_test, time, kind, ridge)
        np.testing.assert_allclose(mean, expected[0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(covariance, expected[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(flow.mean(x_test, times, kind), means, rtol=1e-12)
    one = flow(x_test, 1.0, kind)
    np.testing.assert_allclose(one[0], means[2], rtol=1e-12)
    np.testing.assert_array_equal(covariances[0], kernel(x_test, x_test, None).nngp)


def test_start_and_end_on_the_training_points(x64):
    x, y, _ = data()
    flow = ntk.predict.gradient_flow(kernel, x, y)
    for kind in ("ntk", "nngp"):
        for points in (None, x):
            mean, covariance = flow(points, 0.0, kind)
            np.testing.assert_array_equal(mean, np.zeros_like(y))
            np.testing.assert_allclose(covariance, kernel(x, x, None).nngp, rtol=1e-12)
            mean, covariance = flow(points, jnp.inf, kind)
            np.testing.assert_allclose(mean, y, atol=1e-10)
            np.testing.assert_allclose(covariance, np.zeros((7, 7)), atol=1e-10)
    late, end = flow(data()[2], 1e9), flow(data()[2])
    np.testing.assert_allclose(late[0], end[0], rtol=1e-8)
    np.testing.assert_allclose(late[1], end[1], rtol=1e-8)


def test_flow_of_an_infinite_network(x64):
    """Two erf layers: start and end to 1e-8, and the ODE of the same kernels in between."""
    wide = {"weight_std": 1.3, "bias_std": 0.2}
    dense = lambda width: ntk.layers.dense(width, **wide)
    net = ntk.layers.serial(dense(512), ntk.layers.erf(), dense(512), ntk.layers.erf(), dense(1))
    x, y, x_test = data(num=6)
    flow = ntk.predict.gradient_flow(net.kernel, x, y)
    np.testing.assert_allclose(flow(x, None)[0], y, atol=1e-8)
    np.testing.assert_allclose(flow(x, None)[1], 0, atol=1e-8)
    np.testing.assert_array_equal(flow(x_test, 0.0)[0], 0)
    k, cross = net.kernel(x, x, get=("ntk",)).ntk, net.kernel(x_test, x, get=("ntk",)).ntk
    squared = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
    zeros = np.zeros_like(y), np.zeros((4, 2))
    ode = ntk.dynamics.solve(squared, y, k, zeros[0], [5.0], k_test_train=cross, f_test=zeros[1])
    np.testing.assert_allclose(flow(x_test, 5.0)[0], ode.test[0], atol=1e-6)


def test_ridge_is_weight_decay_towards_the_start(x64):
    """In the space of parameters: theta' = -phi' (phi theta - y) - ridge (theta - theta_0)."""
    x, y, x_test = data()
    phi, phi_test = (np.asarray(hidden(points)) / 40**0.5 for points in (x, x_test))
    start = np.random.default_rng(3).normal(size=(40, 2))
    ridge, time = 0.2, 1.7
    system = -(phi.T @ phi + ridge * np.eye(40))
    growth = np.linalg.solve(system, scipy.linalg.expm(system * time) - np.eye(40))
    theta = start + growth @ phi.T @ (y - phi @ start)
    flow = ntk.predict.network_flow(phi @ phi.T, y, phi @ start, ridge=ridge)
    np.testing.assert_allclose(flow(time), phi @ theta, rtol=1e-9)
    found = flow(time, phi_test @ phi.T, phi_test @ start)
    np.testing.assert_allclose(found, phi_test @ theta, rtol=1e-9)


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_small_steps_of_gradient_descent_follow_the_flow(x64, loss):
    """A network linearised at its start, all of its outputs coupled by the full kernel."""
    sizes, x = (5, 8, 3), data()[0]
    apply, params = ntk_networks.plain_mlp(sizes=sizes)
    y, x_test = np.random.default_rng(5).normal(size=(7, 3)), data()[2]
    linear = ntk.linearize(apply, params)
    reduce = {"sum": jnp.sum, "mean": jnp.mean}[loss]
    rate, num_steps = {"sum": 5e-5, "mean": 1e-3}[loss], 8000

    @jax.jit
    def train(params):
        gradient = jax.grad(lambda p: 0.5 * reduce((linear(p, x) - y) ** 2))
        step = lambda _, p: jax.tree.map(lambda a, g: a - rate * g, p, gradient(p))
        trained = jax.lax.fori_loop(0, num_steps, step, params)
        k = ntk.empirical(apply, params, np.concatenate([x, x_test]), x, method="jacobian")
        return linear(trained, x), linear(trained, x_test), k

    on_train, on_test, k = train(params)
    start = {"f_train": apply(params, x), "learning_rate": rate, "loss": loss}
    flow = ntk.predict.network_flow(k[:7], y, **start)
    np.testing.assert_allclose(flow(num_steps), on_train, atol=1e-4)
    np.testing.assert_allclose(flow(num_steps, k[7:], apply(params, x_test)), on_test, atol=1e-4)
    assert jnp.abs(on_test - apply(params, x_test)).max() > 0.1  # it has moved a long way


def test_posterior_and_evidence_are_those_of_bayes(x64):
    x, y, x_test = data()
    noise = 0.1
    mean, covariance = ntk.predict.posterior(kernel, x, y, x_test, noise=noise)
    gram = kernel(x, x, None).nngp + noise * np.eye(7)
    cross = kernel(x_test, x, None).nngp
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(gram, y), rtol=1e-10)
    expected = kernel(x_test, x_test, None).nngp - cross @ np.linalg.solve(gram, cross.T)
    np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)
    flow = ntk.predict.gradient_flow(kernel, x, y, ridge=noise)
    found = ntk.predict.log_evidence(flow.eigen["nngp"], y)
    normal = scipy.stats.multivariate_normal(np.zeros(7), gram)
    np.testing.assert_allclose(found, normal.logpdf(y.T).sum(), rtol=1e-10)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_covariance_is_positive_semi_definite(x64, kind):
    x, y, _ = data(12)
    flow = ntk.predict.gradient_flow(kernel, x, y, ridge=1e-6)
    many = np.random.default_rng(2).normal(size=(30, 5))
    for covariance in flow(np.concatenate([many, x]), np.array([0.3, 30.0, np.inf]), kind)[1]:
        values = np.linalg.eigvalsh(covariance)
        assert values[0] > -1e-10 * np.linalg.eigvalsh(kernel(many, many, None).nngp)[-1]


def test_duplicated_points_warn_and_predict_as_if_weighted(x64):
    """A point given twice with two targets is that point once with their mean, at infinity."""
    x, y, x_test = data()
    twice, targets = np.concatenate([x, x[3:4]]), np.concatenate([y, y[3:4] + 1.0])
    with pytest.warns(RuntimeWarning, match="condition number.*rows 3 and 7 are equal"):
        flow = ntk.predict.gradient_flow(kernel, twice, targets, kinds=("ntk",))
    assert flow.eigen["ntk"].num_unresolved == 1
    assert flow.eigen["ntk"].condition_number > 1e12
    mean, covariance = flow(x_test)
    once = y.copy()
    once[3] += 0.5
    expected = ntk.predict.gradient_flow(kernel, x, once, kinds=("ntk",))(x_test)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(covariance, expected[1], rtol=1e-6, atol=1e-8)
    ridged = ntk.predict.gradient_flow(kernel, twice, targets, ridge=1e-6, kinds=("ntk",))
    np.testing.assert_allclose(ridged(x_test)[0], mean, atol=1e-4)  # and no warning


def test_float32_kernels_are_solved_in_float64():
    """Without float64 switched on: as exact as the kernel's entries allow."""
    x, y, x_test = data(dtype=np.float32)
    mean, covariance = ntk.predict.gradient_flow(kernel, x, y, ridge=1e-2)(x_test, 3.0)
    assert mean.dtype == covariance.dtype == jnp.float32
    k, cross = (np.float64(kernel(a, x, None).ntk) for a in (x, x_test))
    reg = k + 1e-2 * np.eye(7)
    moved = np.linalg.solve(reg, y - scipy.linalg.expm(-3.0 * reg) @ y)
    np.testing.assert_allclose(mean, cross @ moved, rtol=3e-7, atol=3e-7)
    gradient = jax.grad(lambda z: ntk.predict.gradient_flow(kernel, x, y)(z)[0].sum())
    assert np.isfinite(gradient(jnp.asarray(x_test))).all()


def test_flat_targets_give_flat_means(x64):
    x, y, x_test = data()
    flat = ntk.predict.gradient_flow(kernel, x, y[:, 0])(x_test, 2.0)
    both = ntk.predict.gradient_flow(kernel, x, y)(x_test, 2.0)
    assert flat[0].shape == (4,)
    np.testing.assert_allclose(flat[0], both[0][:, 0], rtol=1e-12)
    np.testing.assert_allclose(flat[1], both[1], rtol=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y_train": np.ones((6, 2))}, r"y_train has shape \(6, 2\): expected \[7\]"),
        ({"y_train": np.ones((7, 2), int)}, "y_train has dtype int64: expected floats"),
        ({"ridge": -1.0}, "ridge=-1.0: expected a number >= 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": np.inf}, "learning_rate=inf"),
        ({"ridge": np.nan}, "ridge=nan"),
        ({"kinds": ("gp",)}, "kinds='gp'"),
        ({"loss": "max"}, "loss='max'"),
        ({"x_train": np.full((7, 5), np.nan)}, "ntk holds entries that are not finite"),
    ],
)
def test_bad_input_is_named(x64, change, message):
    x, y, _ = data()
    with pytest.raises(ValueError, match=message):
        ntk.predict.gradient_flow(**({"kernel": kernel, "x_train": x, "y_train": y} | change))


@pytest.mark.parametrize("change", [{"ridge": -1.0}, {"learning_rate": 0.0}, {"kinds": ("gp",)}])
def test_bad_options_are_named_before_the_kernel_is_computed(change):
    def untouched(*_, **__):
        raise AssertionError("the kernel was computed")

    with pytest.raises(ValueError, match=next(iter(change))):
        ntk.predict.gradient_flow(untouched, np.ones((3, 2)), np.ones((3, 1)), **change)


def test_bad_questions_are_named(x64):
    x, y, x_test = data()
    flow = ntk.predict.gradient_flow(kernel, x, y)
    with pytest.raises(ValueError, match="time=-1.0"):
        flow(x_test, -1.0)
    with pytest.raises(ValueError, match="kind='gp'"):
        flow(x_test, 1.0, "gp")
    with pytest.raises(ValueError, match="x_train and x_test hold different examples"):
        flow(x_test[:, :3], 1.0)
    with pytest.raises(ValueError, match=r"k_train has shape \(7, 7, 3, 3\)"):
        ntk.predict.network_flow(np.ones((7, 7, 3, 3)), y)
    with pytest.raises(ValueError, match=r"y_train is int64\[7, 2\]: expected floats"):
        ntk.predict.network_flow(np.eye(7), np.ones((7, 2), int))
    with pytest.raises(ValueError, match="k_train has 6 rows and y_train 7: expected as many"):
        ntk.predict.network_flow(np.eye(6), y)
    with pytest.raises(ValueError, match=r"f_train has shape \(7,\): expected \(7, 2\)"):
        ntk.predict.network_flow(np.eye(7), y, np.ones(7))
    one = ntk.predict.network_flow(np.eye(7), y)
    with pytest.raises(ValueError, match=r"k_test_train has shape \(3, 6\): expected 7 columns"):
        one(1.0, np.ones((3, 6)))
    with pytest.raises(ValueError, match=r"f_test has shape \(4, 2\): expected \(3, 2\)"):
        one(1.0, np.ones((3, 7)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="noise=-1.0: expected a number >= 0"):
        ntk.predict.posterior(None, x, y, x_test, noise=-1.0)
    ones = types.SimpleNamespace(nngp=np.ones((7, 7)), ntk=None)
    with pytest.warns(RuntimeWarning, match="nngp of 7 rows"):
        singular = ntk.predict.gradient_flow(lambda *_, **__: ones, x, y, kinds=("nngp",))
    with pytest.raises(ValueError, match="parts have an eigenvalue of .*: expected noise > 0"):
        ntk.predict.log_evidence(singular.eigen["nngp"], y)
