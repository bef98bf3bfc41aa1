"""Averages of power profiles against their definition, and rebuilt ones against tracked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from library import power_ema
from library.power_ema import Profile

STDS = (0.05, 0.10)
NUM_STEPS = 512


@pytest.fixture(scope="module")
def run():
    """Averages [T, ...] of a noisy path of parameters, and the path [T, ...]."""
    with jax.enable_x64(True):
        optimizer = optax.chain(optax.sgd(1.0), power_ema.power_ema((*STDS, 0.07)))
        params = {"w": jnp.zeros(3)}
        noise = np.random.default_rng(0).standard_normal((NUM_STEPS, 3))

        def body(carry, gradient):
            params, state = carry
            updates, state = optimizer.update({"w": gradient}, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params["w"], [a["w"] for a in state[1].averages])

        _, (path, averages) = jax.jit(
            lambda noise: jax.lax.scan(body, (params, optimizer.init(params)), noise)
        )(jnp.asarray(noise + 0.1))
    return np.asarray(path), [np.asarray(average) for average in averages]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_average_is_that_of_the_profile_over_the_path(run, index):
    path, averages = run
    gamma = power_ema.gamma_of_std((*STDS, 0.07)[index])
    for step in (1, 2, 100, NUM_STEPS):
        edges = (np.arange(step + 1) / step) ** (gamma + 1)  # the profile's mass in each step
        expected = np.diff(edges) @ path[:step]
        np.testing.assert_allclose(averages[index][step - 1], expected, rtol=1e-10)


def test_updates_pass_unchanged_and_the_state_is_donatable():
    params = {"w": jnp.ones(2)}
    transform = power_ema.power_ema()
    state = transform.init(params)
    assert state.averages[0]["w"] is not params["w"]
    updates, state = transform.update({"w": jnp.full(2, 0.5)}, state, params)
    np.testing.assert_array_equal(updates["w"], 0.5)
    np.testing.assert_array_equal(state.averages[1]["w"], 1.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_of_half_parameters_are_kept_and_rebuilt_in_float32(dtype):
    """In bfloat16 an average at step 4,000 would take no more notice of the parameters."""
    transform = power_ema.power_ema((0.1,))
    params = {"w": jnp.full(2, 1, dtype)}
    state = transform.init(params).replace(count=jnp.int32(3999))
    assert state.averages[0]["w"].dtype == jnp.float32
    _, state = transform.update({"w": jnp.full(2, 0.5, dtype)}, state, params)
    share = 1 - (1 - 1 / 4000) ** (power_ema.gamma_of_std(0.1) + 1)
    np.testing.assert_allclose(state.averages[0]["w"], 1 + 0.5 * share, rtol=1e-7)
    saved = [Profile(0.1, 10), Profile(0.1, 20), Profile(0.2, 20)]
    rebuilt = power_ema.reconstruct([params] * 3, saved, Profile(0.15, 20))
    assert rebuilt["w"].dtype == jnp.float32
    np.testing.assert_allclose(rebuilt["w"], 1, rtol=1e-6)  # the weights sum to one


def test_widths_are_standard_deviations():
    for std in (0.01, 0.05, 0.1, 0.25, 0.288):
        law = stats.powerlaw(power_ema.gamma_of_std(std) + 1)  # its density is the profile
        np.testing.assert_allclose(law.std(), std, rtol=1e-9)
    assert abs(power_ema.gamma_of_std(0.05) - 16.97) < 0.01  # the paper's two examples
    assert abs(power_ema.gamma_of_std(0.10) - 6.94) < 0.01


def saved_and_snapshots(averages):
    steps = range(32, NUM_STEPS + 1, 32)
    saved = [Profile(std, step) for std in STDS for step in steps]
    return saved, [averages[i][step - 1] for i in range(2) for step in steps]


def test_a_saved_profile_comes_back(run, x64):
    saved, snapshots = saved_and_snapshots(run[1])
    for index in (0, 15, 20, 31):
        rebuilt = power_ema.reconstruct(iter(snapshots), saved, saved[index])
        np.testing.assert_allclose(rebuilt, snapshots[index], rtol=1e-6)


def test_another_width_is_rebuilt_close_to_the_tracked_one(run, x64):
    path, averages = run
    saved, snapshots = saved_and_snapshots(averages)
    target = averages[2][NUM_STEPS - 1]
    rebuilt = power_ema.reconstruct(snapshots, saved, Profile(0.07, NUM_STEPS))
    nearest = min(np.abs(snapshot - target).max() for snapshot in snapshots)
    assert np.abs(rebuilt - target).max() < nearest / 100
    weights = power_ema.reconstruction_weights(saved, Profile(0.07, NUM_STEPS))
    assert abs(weights.sum() - 1) < 1e-12


def test_inner_products_are_integrals():
    a, b = Profile(0.1, 20), Profile(0.2, 30)
    nodes, weights = np.polynomial.legendre.leggauss(100)
    tau = 10 * (nodes + 1)
    value = lambda p: (p.gamma + 1) * tau**p.gamma / p.step ** (p.gamma + 1)
    expected = 10 * weights @ (value(a) * value(b))
    np.testing.assert_allclose(power_ema._inner(a, b), expected, rtol=1e-10)
    np.testing.assert_allclose(power_ema._inner(b, a), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_ema.power_ema((0.3,)), "std=0.3"),
        (lambda: Profile(0.0, 3), "std=0.0"),
        (lambda: Profile(0.1, 0), "step=0: expected a positive whole number of updates"),
        (lambda: Profile(0.1, 2.5), "step=2.5"),
        (lambda: power_ema.reconstruction_weights([], Profile(0.1, 3)), "0 saved"),
        (
            lambda: power_ema.reconstruction_weights([Profile(0.1, 3)], Profile(0.1, 4)),
            "up to the last",
        ),
        (lambda: power_ema.reconstruct([1.0], [Profile(0.1, 3)] * 2, Profile(0.1, 3)), "longer"),
        (
            lambda: power_ema.power_ema().update({}, power_ema.power_ema().init({})),
            "pass params",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
