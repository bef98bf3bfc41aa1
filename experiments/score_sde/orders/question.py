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
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _exact
from experiments.score_sde.orders import problems as problems
from experiments.score_sde.orders.problems import MEAN, PROCESS, SOLVERS
from library import claims, plots, report
from library.types import Array
from research.diffusion import moments, processes, samplers, solver_tables

END = 0.1  # time at which stochastic solvers are compared
SMALLEST = 8  # steps of the coarsest grid
SHOWN = {
    "euler": "DDIM (Euler)",
    "dpm_pp_2m": "DPM++ 2M",
    "heun": "Heun",
    "dpm_pp_3m": "DPM++ 3M",
    "unipc_3": "UniPC-3",
    "rk4_log_snr": "RK4 in log SNR",
}

STOCHASTIC = {
    "euler_maruyama": samplers.euler_maruyama(),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "ancestral": samplers.ancestral(),
}
BAR = claims.theorem("no library known to us keeps its order so far down")
THEORY = claims.baseline("theory of the method")
FACTORS = claims.baseline("products of step factors computed without this library, 5 digits")


@dataclasses.dataclass(frozen=True)
class Config:
    """Which solvers run, and how far."""

    solvers: tuple[str, ...] = tuple(SOLVERS)  # names of the deterministic solvers measured
    max_steps: int = 8192  # steps of the finest grid from t_max to t_min
    max_steps_first_order: int = 131_072  # steps of the finest grid of methods of first order
    stochastic: tuple[str, ...] = tuple(STOCHASTIC)  # names of the stochastic solvers measured
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
    for field, known in (("solvers", SOLVERS), ("stochastic", STOCHASTIC)):
        names = getattr(config, field)
        if not names or set(names) - set(known):
            raise ValueError(f"{field}={names}: expected some of {', '.join(known)}")
    with jax.enable_x64(True):
        result = [_deterministic(config, out), _stochastic(config), _printed(config)]
    return claims.Result(
        metrics={name: value for metrics, _ in result for name, value in metrics.items()},
        claims=[claim for _, stated in result for claim in stated],
    )


def _deterministic(config: Config, out: report.RunDir) -> tuple[dict, list[claims.Claim]]:
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
    out.figure("orders", plots.curves(
        records, drawn, x="nfe", log_x=True, log_y=True, y_label="RMSE of the end state",
        title="Probability flow of a mixture, VP", x_label="evaluations of the score",
    ))  # fmt: skip
    return metrics, stated


def _stochastic(config: Config) -> tuple[dict, list[claims.Claim]]:
    """Orders of stochastic solvers from 1 to 0.1: weak by the moment recursion, strong on paths."""
    variances = jnp.diag(jnp.asarray(problems.COVARIANCE))
    sizes = [128 * 2**k for k in range(config.num_doublings + 1)]
    start, exact = _moments_at(PROCESS.t_max, variances), _moments_at(END, variances)
    metrics, stated = {}, []
    for name in config.stochastic:
        grids = [samplers.uniform_grid(size, t_end=END) for size in sizes]
        stacked = _exact.stacked_tables(STOCHASTIC[name], PROCESS, grids, sizes[-1])
        laws = _moments_after(PROCESS, stacked, jnp.asarray(MEAN), variances, start)
        gaps = np.array([moments.wasserstein(*law, *exact) for law in zip(*laws)])
        slopes = np.log2(gaps[:-1] / gaps[1:])
        metrics[f"weak_slope_{name}"] = float(slopes[-1])
        stated.append(
            claims.largest(f"{name}: weak slope - 1 at any doubling", slopes - 1, 0.15, THEORY)
        )
    slopes = _strong_slopes(config.num_paths, config.num_doublings)
    metrics["strong_slope_euler_maruyama"] = float(slopes[-1])
    name = "euler_maruyama: strong slope - 1 at any doubling"
    return metrics, [*stated, claims.largest(name, slopes - 1, 0.15, THEORY)]


@functools.partial(jax.jit, static_argnums=0)
def _moments_after(
    process: processes.Process,
    stacked: solver_tables.Table,
    mean: Array,
    variance: Array,
    start: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Mean and variance [G, D] after each of G tables, whose data are N(mean, variance)."""

    def after(table: solver_tables.Table) -> tuple[Array, Array]:
        score = moments.linear_score(process, table.time, mean, variance)
        return moments.push(table, *start, *score)

    return jax.vmap(after)(stacked)


def _moments_at(t: float, variances: Array) -> tuple[Array, Array]:
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return alpha * MEAN, alpha**2 * variances + sigma**2


def _strong_slopes(num_paths: int, num_doublings: int) -> np.ndarray:
    """Slopes of the pathwise distance between neighbouring step sizes on the same noise."""
    score, finest = problems.laws()[0], 32 * 2**num_doublings
    brownian = jax.random.normal(jax.random.key(0), (finest, num_paths, 2))
    x = jax.random.normal(jax.random.key(1), (num_paths, 2))

    @functools.partial(jax.jit, static_argnums=0)
    def end_states(size: int) -> Array:
        noise = brownian.reshape(size, -1, num_paths, 2).sum(1) / np.sqrt(finest // size)
        grid = samplers.uniform_grid(size, t_end=END)
        table = samplers.solver_table(samplers.euler_maruyama(), PROCESS, grid)
        return solver_tables.run(table, score, x, lambda row: noise[row])[0]

    states = [np.asarray(end_states(finest // 2**k)) for k in range(num_doublings + 1)]
    gaps = np.array([np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(states[1:], states[:-1])])
    return np.log2(gaps[1:] / gaps[:-1])


def _printed(config: Config) -> tuple[dict, list[claims.Claim]]:
    """Errors on N(0.3, 0.5^2) over the start law, by the moment recursion, beside known ones."""
    process, mean, variance = processes.edm(0.002, 80.0), jnp.array([0.3]), jnp.array([0.25])
    start = mean, variance + 80.0**2
    num_rows = 2 * problems.PRINTED_STEPS[-1]  # of Heun's method; one compilation for all

    metrics, stated = {}, []
    for name, printed in problems.PRINTED.items():
        if name.removesuffix("_0") not in config.solvers:
            continue
        to_zero = name.endswith("_0")
        solver = SOLVERS[name.removesuffix("_0")].solver
        grids = [samplers.karras_grid(n, to_zero=to_zero) for n in problems.PRINTED_STEPS]
        stacked = _exact.stacked_tables(solver, process, grids, num_rows)
        exact = np.sqrt(0.25 + (0.0 if to_zero else 0.002**2))
        _, variances = _moments_after(process, stacked, mean, variance, start)
        errors = np.abs(np.sqrt(np.asarray(variances)[:, 0]) - exact)
        metrics |= {f"rmse_{name}_{n}": float(e) for n, e in zip(problems.PRINTED_STEPS, errors)}
        off = errors / printed - 1
        stated.append(claims.largest(f"{name}: relative to 5 known errors", off, 1e-4, FACTORS))
        if name in problems.PRINTED_ORDERS:
            slope = float(np.log2(errors[-2] / errors[-1]))
            expected = problems.PRINTED_ORDERS[name]
            stated.append(claims.within(f"{name}: slope from 80 to 160 steps", slope, expected, 1e-3, source=FACTORS))  # fmt: skip
    return metrics, stated
