"""What should be trained next, by your own runs?

Claim: the plan's size times its tokens is its compute / 6, as C = 6 N D demands.
Cost: 10 seconds on 2 CPU cores.
    python -m experiments scaling_laws.plan --runs my_runs.csv --compute 1e21

Reads a CSV file with columns parameters, tokens and loss (or `params`, `N`, `D`, `val_loss` and
such names; tokens are flops / 6N where missing), fits Chinchilla's law, and prints what is optimal
for the budget with bootstrap intervals, how well the runs determine it, and how well the smaller
runs predict the larger. Without --runs it plans by runs of a made-up law.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.scaling_laws import _sweeps
from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, planning
from research.scaling_laws.runs import Runs

SIX = claims.theorem("C = 6 N D")


@dataclasses.dataclass(frozen=True)
class Config:
    """Your runs and your budget."""

    runs: str = ""  # CSV file with columns parameters, tokens, loss; empty: runs of a made-up law
    columns: tuple[str, ...] = ()  # NAME=COLUMN, where a column has no usual name: loss=c4/ce
    skip_failed: bool = False  # leave out runs without a loss, and list them
    compute: float = 1e21  # FLOP of the run to plan, C = 6 N D
    num_resamples: int = 1000  # of the bootstrap
    level: float = 0.95  # coverage of the intervals
    delta: float = 1e-3  # Huber's threshold, nats of log loss
    seed: int = 0  # of the resamples


PRESETS = {
    "smoke": Config(num_resamples=32),
    "default": Config(),
    "accelerator": Config(num_resamples=20_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Fits, plans, prints the table and draws the frontier."""
    with _sweeps.warnings_first():
        runs = _sweeps.read(config.runs, config.columns, config.skip_failed) or _demo()
        boot = fitting.bootstrap(
            laws.chinchilla,
            runs,
            config.num_resamples,
            jax.random.key(config.seed),
            delta=config.delta,
        )
        plan = planning.plan(boot, compute=config.compute, level=config.level)
        rolled = planning.roll_out(laws.chinchilla, runs, delta=config.delta)
    print(_table(boot, plan, rolled))
    out.figure("frontier", _figure(runs, boot, config.compute))
    product = plan.parameters * plan.tokens
    metrics = dict(boot.fit.parameters) | {
        name: getattr(plan, name)
        for name in ("parameters", "tokens", "flops", "loss", "extrapolation")
    }
    for name, (low, high) in plan.intervals.items():
        metrics |= {f"{name}_low": low, f"{name}_high": high}
    metrics |= {
        "roll_out_error": rolled.mean_absolute,
        "jacobian_rank": boot.fit.report.rank,
        "jacobian_condition": boot.fit.report.condition,
        "ratio_spread": boot.fit.report.ratio_spread,
    }
    share = product / (config.compute / 6)
    stated = [claims.within("N D, relative to C / 6", share, 1.0, 1e-9, source=SIX)]
    return claims.Result(metrics, stated)


def _demo() -> Runs:
    """Thirty runs of the made-up law with 0.3 % noise."""
    size = np.repeat(np.geomspace(1e7, 3e9, 6), 5)
    return _sweeps.made_up(size, size * np.tile(np.geomspace(4, 100, 5), 6), noise=3e-3)


def _table(boot: fitting.Bootstrap, plan: planning.Plan, rolled: planning.RollOut) -> str:
    errors, intervals, lines = boot.standard_errors, boot.interval(plan.level), []
    lines.append(f"{'':22}{'value':>12}{'low':>12}{'high':>12}   ({plan.level:.0%} intervals)")
    for name, value in boot.fit.parameters.items():
        low, high = intervals[name]
        lines.append(f"{name:22}{value:12.5g}{low:12.5g}{high:12.5g}   se {errors[name]:.3g}")
    for name, (low, high) in plan.intervals.items():
        lines.append(f"{name:22}{getattr(plan, name):12.5g}{low:12.5g}{high:12.5g}")
    fit = boot.fit.report
    lines.append(
        f"{fit.num_runs} runs, D / N over a factor of {fit.ratio_spread:.3g}, Jacobian of rank "
        f"{fit.rank} and condition {fit.condition:.3g}; the plan is {plan.extrapolation:.3g} times "
        "the largest run"
    )
    lines.append(
        f"fitted to the smaller runs, the {len(rolled.held_out)} larger are predicted to "
        f"{rolled.mean_absolute:.3%} on average"
    )
    return "\n".join(lines + ([fit.message] if fit.message else []))


def _figure(runs: Runs, boot: fitting.Bootstrap, compute: float) -> Figure:
    """The runs, the frontier with its band, the planned budget."""
    flops = np.geomspace(runs.flops.min(), max(compute, runs.flops.max()) * 3, 25)
    band = [
        planning.frontier(laws.chinchilla, boot.draws, "compute", c)["parameters"] for c in flops
    ]
    low, middle, high = np.nanquantile(np.array(band), [0.025, 0.5, 0.975], axis=1)
    figure, place = figure_style.single("Compute-optimal size", "compute, FLOP", "parameters")
    place.plot(
        runs.flops, runs.parameters, "o", color=figure_style.FAINT, markersize=4, label="runs"
    )
    place.fill_between(
        flops, low, high, color=figure_style.PALETTE[5], alpha=0.35, label="95 % band"
    )
    place.plot(flops, middle, color=figure_style.PALETTE[0], label="optimum")
    _sweeps.mark_plan(place, compute, boot.fit.report.largest_flops)
    place.set_xscale("log")
    place.set_yscale("log")
    figure_style.legend(place)
    return figure
