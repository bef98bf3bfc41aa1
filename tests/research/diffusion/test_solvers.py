"""Runge-Kutta solvers of the flow: printed errors, measured orders, identities between methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import processes, samplers, solver_tables
from tests.research.diffusion import solver_cases
from tests.research.diffusion.solver_cases import wiggly

PRINTED = {
    "euler": (samplers.euler(), False, [1.2361e-1, 6.6220e-2, 3.4289e-2, 1.7450e-2, 8.8023e-3]),
    "heun": (samplers.heun(), False, [8.7310e-2, 1.9598e-2, 4.6429e-3, 1.1299e-3, 2.7874e-4]),
    "euler_0": (samplers.euler(), True, [1.3478e-1, 6.9454e-2, 3.5140e-2, 1.7670e-2, 8.8610e-3]),
    "heun_0": (samplers.heun(), True, [1.0981e-1, 2.1834e-2, 4.8867e-3, 1.1551e-3, 2.7827e-4]),
}
LAST_ORDERS = {"euler": 0.987, "heun": 2.019}


@pytest.mark.parametrize("name", PRINTED)
def test_errors_are_the_printed_ones(x64, name):
    solver, to_zero, printed = PRINTED[name]
    solver_cases.assert_printed_errors(solver, printed, to_zero, LAST_ORDERS.get(name))


# solver, its order, the first number of steps, the number of doublings measured
ORDERS = {
    "euler": (samplers.euler(), 1, 64, 5),
    "euler_time": (samplers.euler("time"), 1, 128, 5),
    "euler_log_snr": (samplers.euler("log_snr"), 1, 128, 5),
    "heun": (samplers.heun(), 2, 512, 4),
    "heun_time": (samplers.heun("time"), 2, 128, 5),
    "heun_log_snr": (samplers.heun("log_snr"), 2, 128, 5),
    "midpoint": (samplers.midpoint("log_snr"), 2, 128, 5),
    "rk4": (samplers.rk4(), 4, 64, 4),
    "rk4_time": (samplers.rk4("time"), 4, 64, 4),
    "rk4_log_snr": (samplers.rk4("log_snr"), 4, 128, 4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_measured_order(x64, name):
    solver_cases.assert_order(*ORDERS[name])


@pytest.mark.parametrize("make", [processes.vp, processes.sub_vp, processes.flow, processes.edm])
def test_ddim_is_euler_in_rescaled_variables(x64, make):
    """DDIM, Euler in (x/alpha, sigma/alpha), DPM-Solver-1 and DDIM written by hand are one map."""
    process = make()
    x = np.random.default_rng(0).normal(size=(5, 2))
    # away from the ends, where the score of a network that is none would be enormous
    span = process.t_max - process.t_min
    times = process.t_min + span * np.array([0.9, 0.7, 0.55, 0.3, 0.2, 0.05])
    grid = samplers.times_grid(times)
    solvers = [
        samplers.ddim(),
        samplers.euler("sigma"),
        samplers.dpm_solver(1),
        samplers.dpm_solver(1, "data"),
        samplers.ddim(jnp.asarray(0.0)),
    ]

    @jax.jit
    def ends(x, rng):
        solved = [
            samplers.integrate(wiggly, process, x, solver=solver, grid=grid, rng=rng)
            for solver in solvers
        ]
        return solved, process.alpha(times), process.sigma(times)

    found, alpha, sigma = jax.tree.map(np.asarray, ends(x, jax.random.key(0)))
    by_hand = x
    for i in range(5):
        noise = -sigma[i] * wiggly(by_hand, np.full(5, times[i]), np)
        data = (by_hand - sigma[i] * noise) / alpha[i]
        by_hand = alpha[i + 1] * data + sigma[i + 1] * noise
    for end in found:
        np.testing.assert_allclose(end, by_hand, rtol=1e-10)


def test_churned_heun_is_edm_algorithm_2(x64):
    process = processes.edm()
    x, z = np.random.default_rng(0).normal(size=(2, 5, 2))
    levels = np.array([10.0, 4.0, 1.0, 0.2])
    noises = np.stack([z, 2 * z, -z])
    churn, low, high, inflation = 0.9, 0.5, 9.0, 1.1
    by_hand = 10 * x
    for i in range(3):
        level = levels[i]
        gamma = min(churn / 3, np.sqrt(2) - 1) if low <= level <= high else 0.0
        raised = level * (1 + gamma)
        by_hand = by_hand + np.sqrt(raised**2 - level**2) * inflation * noises[i]
        slope = -raised * wiggly(by_hand, np.full(5, raised), np)
        ahead = by_hand + (levels[i + 1] - raised) * slope
        second = -levels[i + 1] * wiggly(ahead, np.full(5, levels[i + 1]), np)
        by_hand = by_hand + (levels[i + 1] - raised) * 0.5 * (slope + second)
    solver = samplers.heun(churn=churn, churn_min=low, churn_max=high, churn_noise=inflation)

    @jax.jit
    def end(x):
        table = solver.table(process, jnp.asarray(levels))
        return solver_tables.run(table, wiggly, x, lambda row: jnp.asarray(noises)[row // 2])[0]

    np.testing.assert_allclose(end(10 * x), by_hand, rtol=1e-10)


def test_an_unknown_variable_is_refused():
    for make in (samplers.euler, samplers.heun, samplers.midpoint, samplers.rk4):
        with pytest.raises(ValueError, match="variable='snr'"):
            make("snr")


@pytest.mark.parametrize("name", ["churn", "churn_min", "churn_max", "churn_noise"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_negative_churn_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected a number >= 0"):
        samplers.heun(**{name: value})
