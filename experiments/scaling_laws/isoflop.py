"""How do the optimal parameters and tokens grow with compute, by your own IsoFLOP runs?

Claim: of runs of a made-up law with 0.1 % noise both exponents lie within 0.02 of its closed form,
beta / (alpha + beta) and alpha / (alpha + beta).
Cost: 5 seconds on 2 CPU cores.
    python -m experiments scaling_laws.isoflop --runs my_runs.csv --compute 1e21

Approach 2 of Hoffmann et al. 2022: reads a CSV file (`params`, `N`, `D`, `FLOPs` and such names
will do; tokens are flops / 6N where missing), takes the minimum of each budget's profile, and fits
N ~ C^a and D ~ C^b, with intervals over resampled budgets. Without --runs it reads a made-up law.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from experiments.scaling_laws import _sweeps
from library import claims, figure_style, report
from library.statistics import intervals
from research.scaling_laws import frontiers, laws, planning
from research.scaling_laws.runs import Runs

CLOSED_FORM = claims.theorem("N ~ C^(beta / (alpha + beta)) for L = E + A N^-alpha + B D^-beta")
OF = ("parameters", "tokens")


@dataclasses.dataclass(frozen=True)
class Config:
    """Your runs, and how they are read."""

    runs: str = ""  # CSV file of IsoFLOP runs with a header; empty: runs of a made-up law
    columns: tuple[str, ...] = ()  # NAME=COLUMN, where a column has no usual name: loss=c4/ce
    skip_failed: bool = False  # leave out runs without a loss, and list them
    compute: float = 1e21  # FLOP of the run to plan
    interpolation: str = "akima"  # of a profile: akima, or parabola as Hoffmann et al.
    same_budget: float = frontiers.SAME_BUDGET  # relative difference up to which budgets are one
    num_resamples: int = 2000  # of the budgets
    level: float = 0.95  # coverage of the intervals
    seed: int = 0  # of the resamples


PRESETS = {
    "smoke": Config(num_resamples=100),
    "default": Config(),
    "accelerator": Config(num_resamples=20_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Finds the minima, fits both power laws, prints the table and draws profiles and laws."""
    if not (config.compute > 0 and np.isfinite(config.compute)):
        raise ValueError(f"compute={config.compute}: expected a positive number of FLOP")
    intervals.tails(config.level)
    with _sweeps.warnings_first():
        runs = _sweeps.read(config.runs, config.columns, config.skip_failed) or _demo()
        minima = frontiers.isoflop_minima(runs, config.interpolation, config.same_budget)
    far = config.compute / runs.flops.max()
    if far > planning.FAR:
        print(f"warning: {config.compute:g} FLOP is {far:,.0f} times the largest run's compute")
    metrics: dict[str, float] = {"num_budgets": len(minima.flops), "extrapolation": far}
    bands = {}
    for name in OF:
        law = frontiers.power_law(minima.flops, getattr(minima, name))
        rng = np.random.default_rng(config.seed)
        drawn = frontiers.resampled(minima, rng, config.num_resamples, name)
        bands[name] = law, drawn
        for key, at, draws in (
            (f"{name}_exponent", law.exponent, [other.exponent for other in drawn]),
            (name, float(law(config.compute)), [other(config.compute) for other in drawn]),
        ):
            known = len(minima.flops) > 2  # two budgets tell nothing of an interval
            low, high = intervals.percentile(draws, config.level) if known else (np.nan, np.nan)
            metrics |= {key: at, f"{key}_low": low, f"{key}_high": high}
    print(_table(minima, metrics, config))
    out.figure("isoflop", _figure(runs, minima, bands, config))
    stated = []
    if not config.runs:
        alpha, beta = _sweeps.LAW["alpha"], _sweeps.LAW["beta"]
        for name, exponent in zip(OF, (beta, alpha)):
            measured, expected = metrics[f"{name}_exponent"], exponent / (alpha + beta)
            stated.append(
                claims.within(f"exponent of {name}", measured, expected, 0.02, source=CLOSED_FORM)
            )
    return claims.Result(metrics, stated)


def _demo() -> Runs:
    """Six budgets of nine sizes about the optimum of the made-up law."""
    budgets = np.geomspace(1e18, 1e21, 6)
    best = [planning.frontier(laws.chinchilla, _sweeps.LAW, "compute", c) for c in budgets]
    size = np.concatenate([b["parameters"] * np.geomspace(0.2, 5, 9) for b in best])
    return _sweeps.made_up(size, np.repeat(budgets, 9) / (6 * size), noise=1e-3)


def _table(minima: frontiers.Minima, metrics: dict[str, float], config: Config) -> str:
    lines = [f"{'budget, FLOP':>14}{'parameters':>14}{'tokens':>14}{'loss':>10}{'D / N':>10}"]
    for c, n, d, loss in zip(minima.flops, minima.parameters, minima.tokens, minima.loss):
        lines.append(f"{c:14.4g}{n:14.4g}{d:14.4g}{loss:10.4f}{d / n:10.1f}")
    if minima.skipped:
        listed = ", ".join(f"{budget:.4g}" for budget in minima.skipped)
        lines.append(f"no optimum inside the profile of {len(minima.skipped)} budgets: {listed}")
    lines.append(f"{'':26}{'value':>12}{'low':>12}{'high':>12}   ({config.level:.0%} intervals)")
    for name in OF:
        for key, label in ((f"{name}_exponent", f"exponent of {name}"), (name, f"{name} planned")):
            low, high = metrics[f"{key}_low"], metrics[f"{key}_high"]
            lines.append(f"{label:26}{metrics[key]:12.5g}{low:12.5g}{high:12.5g}")
    lines.append(
        f"{len(minima.flops)} budgets; the plan for {config.compute:g} FLOP is "
        f"{metrics['extrapolation']:.3g} times the largest run"
    )
    if len(minima.flops) < 5:
        lines.append("intervals over fewer than five budgets are rough")
    return "\n".join(lines)


def _figure(runs: Runs, minima: frontiers.Minima, bands: dict, config: Config) -> Figure:
    """The profiles with their minima, and both power laws with their bands."""
    figure, (left, *right) = figure_style.row(3, width=12)
    figure_style.style(left, "IsoFLOP profiles", "parameters", "loss, nats per token")
    for rows in frontiers.budgets(runs.flops, config.same_budget):
        rows = rows[np.argsort(runs.parameters[rows])]
        size, loss = runs.parameters[rows], runs.loss[rows]
        left.plot(size, loss, "o-", color=figure_style.FAINT, markersize=3, linewidth=1)
    left.plot(minima.parameters, minima.loss, "o", color=figure_style.PALETTE[1], label="minimum")
    left.set_xscale("log")
    figure_style.legend(left)
    ends = min(runs.flops.min(), config.compute), max(runs.flops.max(), config.compute)
    flops = np.geomspace(*ends, 50)
    for axes, name in zip(right, OF):
        law, drawn = bands[name]
        tails = intervals.tails(config.level)
        low, high = np.quantile([d(flops) for d in drawn], tails, axis=0)
        figure_style.style(axes, f"{name} ~ C^{law.exponent:.3f}", "compute, FLOP", name)
        label = f"{config.level:.0%} band"
        axes.fill_between(flops, low, high, color=figure_style.PALETTE[5], alpha=0.35, label=label)
        axes.plot(flops, law(flops), color=figure_style.PALETTE[0])
        axes.plot(minima.flops, getattr(minima, name), "o", color=figure_style.PALETTE[1])
        _sweeps.mark_plan(axes, config.compute, runs.flops.max())
        axes.set_xscale("log")
        axes.set_yscale("log")
        figure_style.legend(axes)
    return figure
