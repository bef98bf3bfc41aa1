"""Does every solver keep the order of convergence that theory gives it, down to rounding?

Claim: on a Gaussian and on a mixture, in float64, the slope of the error over every one of 4
doublings is within 0.15 of theory for all 21 deterministic solvers, below an error of 1e-6; so are
the strong and weak order 1 of Euler-Maruyama; 30 errors of Euler, Heun and DPM-Solver++ 2M equal
independently computed ones to 1e-4. Cost: 2 minutes on 2 CPU cores.
    python -m experiments score_sde.orders

The exact flow of a Gaussian is linear, that of a mixture on the line keeps quantiles, so the error
of an end state is known (VP, Song et al. 2021, arXiv:2011.13456). On the whole range from t_max to
t_min methods of first order would need a million steps to fall below 1e-6: they are measured on a
part of it, where their errors are smaller.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.score_sde.orders import known_errors, problems, stochastic
from experiments.score_sde.orders.problems import PROCESS, SOLVERS, THEORY
from library import claims, plots, report

SMALLEST = 8  # steps of the coarsest grid
SHOWN = {
    "euler": "DDIM (Euler)",
    "dpm_pp_2m": "DPM++ 2M",
    "heun": "Heun",
    "dpm_pp_3m": "DPM++ 3M",
    "unipc_3": "UniPC-3",
    "rk4_log_snr": "RK4 in log SNR",
}
BAR = claims.bar("so small that a slope from coarse steps, or from luck, is ruled out")


@dataclasses.dataclass(frozen=True)
class Config:
    """Which solvers run, and how far."""

    solvers: tuple[str, ...] = tuple(SOLVERS)  # names of the deterministic solvers measured
    max_steps: int = 8192  # steps of the finest grid from t_max to t_min
    max_steps_first_order: int = 131_072  # steps of the finest grid of methods of first order
    stochastic: tuple[str, ...] = tuple(stochastic.SOLVERS)  # names of the stochastic solvers
    num_doublings: int = 5  # doublings of the number of steps of stochastic solvers
    num_paths: int = 256  # Brownian paths on which the strong order is measured


PRESETS = {
    "smoke": Config(
        solvers=("heun",),
        max_steps=128,
        stochastic=("euler_maruyama",),
        num_doublings=2,
        num_paths=16,
    ),
    "default": Config(),
    "accelerator": Config(max_steps_first_order=1_048_576, num_paths=4096),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Measures all orders, draws the errors and states the claims."""
    for field, known in (("solvers", SOLVERS), ("stochastic", stochastic.SOLVERS)):
        names = getattr(config, field)
        if not names or set(names) - set(known):
            raise ValueError(f"{field}={names}: expected some of {', '.join(known)}")
    with jax.enable_x64(True):
        return (
            _deterministic(config, out)
            + stochastic.orders(config.stochastic, config.num_doublings, config.num_paths)
            + known_errors.compared(config.solvers)
        )


def _deterministic(config: Config, out: report.RunDir) -> claims.Result:
    """Errors on both laws, drawn for some solvers; the slope at every doubling is claimed."""
    whole = (PROCESS.t_max, PROCESS.t_min)
    all_sizes = [SMALLEST * 2**k for k in range(20) if SMALLEST * 2**k <= config.max_steps]
    fine = [config.max_steps_first_order // 2**k for k in range(4, -1, -1)]
    metrics, stated, records = {}, [], []
    for name in config.solvers:
        entry, first = SOLVERS[name], SOLVERS[name].order == 1
        sizes = [size for size in all_sizes if size <= entry.most]
        if name in SHOWN or not first:
            used = sizes if name in SHOWN else sizes[-5:]
            nfe, errors = problems.errors_on(entry, used, whole, 2 * config.max_steps)
            records += [{"nfe": n, SHOWN.get(name, ""): e} for n, e in zip(nfe, errors["mixture"])]
            errors = {law: row[-5:] for law, row in errors.items()}
        if first:
            _, errors = problems.errors_on(entry, fine, problems.SPAN, fine[-1])
        slopes = {law: np.log2(row[:-1] / row[1:]) for law, row in errors.items()}
        for law in errors:
            metrics[f"last_slope_{law}_{name}"] = float(slopes[law][-1])
            metrics[f"last_error_{law}_{name}"] = float(errors[law][-1])
        orders = {"gaussian": entry.on_gaussians or entry.order, "mixture": entry.order}
        off = np.concatenate([slopes[law] - orders[law] for law in slopes])
        last = [row[-1] for row in errors.values()]
        stated += [
            claims.largest(f"{name}: slope - order at any doubling", off, 0.15, THEORY),
            claims.largest(f"{name}: error that the slope is kept to", last, 1e-6, BAR),
        ]
    drawn = [label for name, label in SHOWN.items() if name in config.solvers]
    figure = plots.curves(
        records,
        drawn,
        x="nfe",
        log_x=True,
        log_y=True,
        title="Probability flow of a mixture, VP",
        x_label="evaluations of the score",
        y_label="RMSE of the end state",
    )
    out.figure("orders", figure)
    return claims.Result(metrics, stated)
