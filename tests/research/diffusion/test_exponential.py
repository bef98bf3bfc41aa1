"""DPM-Solver, DPM-Solver++ and UniPC: printed errors, measured orders, the published SDE form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import processes, samplers, solver_tables
from tests.research.diffusion import solver_cases
from tests.research.diffusion.solver_cases import wiggly

PRINTED = {
    "2m": (False, [7.3028e-2, 2.2055e-2, 4.9342e-3, 1.1633e-3, 2.8269e-4]),
    "2m_0": (True, [7.9398e-2, 2.4629e-2, 5.2023e-3, 1.1898e-3, 2.8230e-4]),
}
LAST_ORDERS = {"2m": 2.041}


@pytest.mark.parametrize("name", PRINTED)
def test_errors_are_the_printed_ones(x64, name):
    to_zero, printed = PRINTED[name]
    solver = samplers.dpm_solver_pp()
    solver_cases.assert_printed_errors(solver, printed, to_zero, LAST_ORDERS.get(name))


# solver, its order, the first number of steps, the number of doublings measured
ORDERS = {
    "dpm_2": (samplers.dpm_solver(2), 2, 128, 5),
    "dpm_3": (samplers.dpm_solver(3), 3, 64, 5),
    "dpm_pp_2s": (samplers.dpm_solver(2, "data"), 2, 128, 5),
    "dpm_pp_3s": (samplers.dpm_solver(3, "data"), 3, 128, 4),
    "dpm_pp_2m": (samplers.dpm_solver_pp(2), 2, 512, 4),
    "dpm_pp_3m": (samplers.dpm_solver_pp(3), 3, 128, 4),
    "unipc_1": (samplers.unipc(1), 2, 256, 5),
    "unipc_2": (samplers.unipc(2), 3, 128, 4),
    "unipc_3": (samplers.unipc(3), 4, 128, 4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_measured_order(x64, name):
    solver_cases.assert_order(*ORDERS[name])


def test_sde_multistep_is_the_published_form(x64):
    """SDE-DPM-Solver++(2M): data values, e^{-2h}, and the midpoint difference."""
    process = processes.vp()
    x, z = np.random.default_rng(0).normal(size=(2, 5, 2))
    times = np.array([0.9, 0.6, 0.4])

    @jax.jit
    def solve(x):
        table = samplers.dpm_solver_pp(2, eta=1.0).table(process, jnp.asarray(times))
        end, _ = solver_tables.run(table, wiggly, x, lambda row: jnp.asarray(z))
        return end, process.alpha(times), process.sigma(times)

    end, alpha, sigma = jax.tree.map(np.asarray, solve(x))
    lam = np.log(alpha / sigma)
    by_hand, values = x, []
    for i in range(2):
        slope = wiggly(by_hand, np.full(5, times[i]), np)
        values.append((by_hand + sigma[i] ** 2 * slope) / alpha[i])
        h = lam[i + 1] - lam[i]
        rise = alpha[i + 1] * (1 - np.exp(-2 * h))
        change = 0 if i == 0 else (values[1] - values[0]) * h / (lam[1] - lam[0])
        by_hand = (
            sigma[i + 1] / sigma[i] * np.exp(-h) * by_hand
            + rise * (values[i] + 0.5 * change)
            + sigma[i + 1] * np.sqrt(1 - np.exp(-2 * h)) * z
        )
    np.testing.assert_allclose(end, by_hand, rtol=1e-10)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: samplers.dpm_solver(4), "order=4"),
        (lambda: samplers.dpm_solver(2.0), "order=2.0"),
        (lambda: samplers.dpm_solver_pp(2, eta=-0.5), "eta=-0.5"),
        (lambda: samplers.dpm_solver_pp(2, eta=float("nan")), "eta=nan"),
        (lambda: samplers.dpm_solver_pp(1), "order=1"),
        (lambda: samplers.unipc(4), "order=4"),
        (lambda: samplers.dpm_solver(2, "v"), "prediction='v'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
