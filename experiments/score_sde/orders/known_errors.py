"""Errors of three solvers on a Gaussian that were computed without this library."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from experiments.score_sde.orders.problems import SOLVERS, moments_after
from library import claims
from research.diffusion import processes, samplers

FACTORS = claims.baseline("products of step factors computed without this library, 5 digits")
# RMSE to the flow of N(0.3, 0.5^2) between the levels 80 and 0.002 at 10, 20, 40, 80, 160 steps of
# rho = 7, from products of step factors, and the order seen at the last doubling. "_0": n points
# and a last step to zero noise.
STEPS = (10, 20, 40, 80, 160)
ERRORS = {
    "euler": (1.2361e-1, 6.6220e-2, 3.4289e-2, 1.7450e-2, 8.8023e-3),
    "heun": (8.7310e-2, 1.9598e-2, 4.6429e-3, 1.1299e-3, 2.7874e-4),
    "dpm_pp_2m": (7.3028e-2, 2.2055e-2, 4.9342e-3, 1.1633e-3, 2.8269e-4),
    "euler_0": (1.3478e-1, 6.9454e-2, 3.5140e-2, 1.7670e-2, 8.8610e-3),
    "heun_0": (1.0981e-1, 2.1834e-2, 4.8867e-3, 1.1551e-3, 2.7827e-4),
    "dpm_pp_2m_0": (7.9398e-2, 2.4629e-2, 5.2023e-3, 1.1898e-3, 2.8230e-4),
}
ORDERS = {"euler": 0.987, "heun": 2.019, "dpm_pp_2m": 2.041}


def compared(names: Sequence[str]) -> claims.Result:
    """Errors on N(0.3, 0.5^2) over the start law, by the moment recursion, beside known ones.

    Args:
        names: of solvers; those whose errors are not known are passed over.
    """
    process, mean, variance = processes.edm(0.002, 80.0), jnp.array([0.3]), jnp.array([0.25])
    start = mean, variance + 80.0**2
    num_rows = 2 * STEPS[-1]  # of Heun's method; one compilation for all

    metrics, stated = {}, []
    for name, known in ERRORS.items():
        if name.removesuffix("_0") not in names:
            continue
        to_zero = name.endswith("_0")
        solver = SOLVERS[name.removesuffix("_0")].solver
        grids = [samplers.karras_grid(n, to_zero=to_zero) for n in STEPS]
        stacked = _exact.stacked_tables(solver, process, grids, num_rows)
        exact = np.sqrt(0.25 + (0.0 if to_zero else 0.002**2))
        _, variances = moments_after(process, stacked, mean, variance, start)
        errors = np.abs(np.sqrt(np.asarray(variances)[:, 0]) - exact)
        metrics |= {f"rmse_{name}_{n}": float(e) for n, e in zip(STEPS, errors)}
        off = errors / known - 1
        stated.append(claims.largest(f"{name}: relative to 5 known errors", off, 1e-4, FACTORS))
        if name in ORDERS:
            slope = float(np.log2(errors[-2] / errors[-1]))
            title = f"{name}: slope from 80 to 160 steps"
            stated.append(claims.within(title, slope, ORDERS[name], 1e-3, FACTORS))
    return claims.Result(metrics, stated)
