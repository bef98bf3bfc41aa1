"""When does a Langevin corrector beat twice as many predictor steps?

Claim: with a score that is 5 % wrong, on a variance-exploding process, 1000 steps with a corrector
gain on 2000 steps of every predictor at least by the published factor; with one ten times less
wrong, on a variance-preserving process, the two are nearly equal; correctors alone are worst on
both: the shape of table 1 of Song et al. 2021, arXiv:2011.13456, without a network or a sample.
Cost: 1 minute on 2 CPU cores.
    python -m experiments score_sde.predictor_corrector

The data are a Gaussian random field of 32x32 pixels with the spectrum |k|^-2, so every sampler's
law is Gaussian, its moments follow by recursion, and the squared Frechet distance, of which FID is
the feature-space form, is exact. The score is multiplied by 1 + delta b(sigma/alpha) with a bump b
where training finds it hardest (the log-normal of Karras et al. 2022, arXiv:2206.00364, table 1);
delta and the bar were chosen after a first run, see the README. The same samplers are run too, on
the same score.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from library import claims, figure_style, report
from library.figure_style import PALETTE
from library.types import Array
from research.diffusion import moments, processes, samplers
from research.diffusion.processes import Process
from research.diffusion.sampling.solvers import Solver

PREDICTORS = {
    "ancestral": samplers.ancestral(),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "flow": samplers.reverse_diffusion(flow=True),
}
PUBLISHED = {  # FID on CIFAR-10 of VE: P2000, PC1000
    "ancestral": (4.88, 3.62),
    "reverse_diffusion": (4.74, 3.60),
    "flow": (10.54, 3.51),
}
TABLE = "arXiv:2011.13456, table 1"
BUMP_CENTRE, BUMP_WIDTH = -1.2 + np.log(2), 1.2  # of ln(sigma/alpha) in units of the data's std


@dataclasses.dataclass(frozen=True)
class Setting:
    """A process with the data range and the last time that the paper uses with it.

    Attributes:
        process: the process.
        data_std: of a pixel; the range is [0, 1] for VE, [-1, 1] for VP.
        t_end: last noisy time.
        delta: relative error of the score at the bump, for the table.
    """

    process: Process
    data_std: float
    t_end: float
    delta: float


@dataclasses.dataclass(frozen=True)
class Config:
    """Errors of the score, steps, and samples."""

    delta_ve: float = -0.05  # relative error of the score on the variance-exploding process
    delta_vp: float = -0.005  # the same on the variance-preserving process
    snr: float = 0.16  # of the corrector, as published
    predictors: tuple[str, ...] = tuple(PREDICTORS)  # names of the predictors compared
    num_steps: int = 1000  # predictor steps of P1000 and PC1000; P2000 and C2000 take twice as many
    field_size: int = 32  # pixels along a side
    num_deltas: int = 9  # errors of the score, from 0.001 to 0.1, in the figure
    num_samples: int = 4000  # samples of each sampler that is run; 0 runs none


PRESETS = {
    "smoke": Config(
        predictors=("reverse_diffusion",), num_steps=4, field_size=4, num_deltas=2, num_samples=0
    ),
    "default": Config(),
    "accelerator": Config(num_samples=100_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The table, the claims on its ordering, the same by sampling, and the picture."""
    if not config.predictors or set(config.predictors) - set(PREDICTORS):
        raise ValueError(
            f"predictors={config.predictors}: expected some of {', '.join(PREDICTORS)}"
        )
    with jax.enable_x64(True):
        settings = {
            "ve": Setting(processes.ve(0.01, 50.0), 0.25, 1e-5, config.delta_ve),
            "vp": Setting(processes.vp(), 0.5, 1e-3, config.delta_vp),
        }
        deltas = -np.geomspace(1e-3, 0.1, config.num_deltas)
        curves = {
            name: _distances(config, setting, np.append(deltas, setting.delta))
            for name, setting in settings.items()
        }
        table = {
            (name, column): float(values[-1])
            for name, columns in curves.items()
            for column, values in columns.items()
        }
        deviation = _sampled(config, settings["ve"]) if config.num_samples else None
    metrics = {f"frechet_{name}_{column}": value for (name, column), value in table.items()}
    stated = _claims(config, table)
    if deviation is not None:
        metrics["sampling_largest_deviation"] = deviation
        stated.append(claims.largest("moments of samples: standard errors off the recursion", [deviation], 5.5, claims.baseline("moment recursion; false alarm below 1e-4")))  # fmt: skip
    out.figure("predictor_corrector", _picture(deltas, curves, config))
    return claims.Result(metrics=metrics, claims=stated)


def _samplers(config: Config) -> dict[str, tuple[Solver, int]]:
    """Solver and number of steps of each column of the table."""
    corrector = samplers.langevin(config.snr, measured=False)
    columns = {"C2000": (corrector, 2 * config.num_steps)}
    for name in config.predictors:
        predictor = PREDICTORS[name]
        both = samplers.predictor_corrector(predictor, corrector)
        columns[f"P1000_{name}"] = predictor, config.num_steps
        columns[f"P2000_{name}"] = predictor, 2 * config.num_steps
        columns[f"PC1000_{name}"] = both, config.num_steps
    return columns


def _grid(setting: Setting, num_steps: int) -> samplers.Grid:
    """The published grid: equal steps in t, and a last step that removes the noise."""
    return samplers.uniform_grid(num_steps + 1, to_zero=True, t_end=setting.t_end)


def _spectrum(config: Config, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the field's modes that differ, [D], and how often each occurs."""
    frequency = np.fft.fftfreq(config.field_size, 1 / config.field_size)
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None]), 1.0)
    values, counts = np.unique(np.round(radius**2, 6), return_counts=True)
    return setting.data_std**2 * counts.sum() / np.sum(counts / values) / values, counts


def _factor(setting: Setting, t: Array, delta: Array) -> Array:
    """1 + delta b: the wrong factor of the score at times t [R], [R, 1]."""
    level = -0.5 * setting.process.log_snr(t) - np.log(setting.data_std)
    bump = jnp.exp(-0.5 * ((level - BUMP_CENTRE) / BUMP_WIDTH) ** 2)
    return (1 + delta * bump)[:, None]


def _distances(config: Config, setting: Setting, deltas: np.ndarray) -> dict[str, np.ndarray]:
    """Squared Frechet distance to the data over the data's total variance, for each delta."""
    variances, counts = _spectrum(config, setting)
    mean = np.zeros_like(variances)

    def distance(solver: Solver, num_steps: int, delta: Array) -> Array:
        def perturb(t: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
            factor = _factor(setting, t, delta)
            return factor * slope, factor * offset

        grid = _grid(setting, num_steps)
        _, sampled = moments.sampled(
            solver, setting.process, grid, mean, variances, perturb=perturb
        )
        gaps = (jnp.sqrt(sampled) - np.sqrt(variances)) ** 2
        return jnp.sum(counts * gaps) / np.sum(counts * variances)

    return {
        name: np.asarray(jax.jit(jax.vmap(
            lambda delta, solver=solver, num=num: distance(solver, num, delta)
        ))(deltas))
        for name, (solver, num) in _samplers(config).items()
    }  # fmt: skip


def _claims(config: Config, table: dict[tuple[str, str], float]) -> list[claims.Claim]:
    """The published table's shape; its FIDs themselves are no distances of these fields."""
    stated = []
    for name in config.predictors:
        plain, both = (
            {p: table[p, f"{kind}_{name}"] for p in ("ve", "vp")} for kind in ("P2000", "PC1000")
        )
        stated += [
            claims.at_most(f"VE, {name}: PC1000 over P2000", both["ve"] / plain["ve"], PUBLISHED[name][1] / PUBLISHED[name][0], source=claims.paper(f"{TABLE}: the ratio of FIDs")),
            claims.below(f"VP, {name}: |PC1000 - P2000| over the same on VE", abs(both["vp"] - plain["vp"]) / abs(both["ve"] - plain["ve"]), 0.1, source=claims.paper(f"{TABLE}: 0.01 to 0.02 there")),
        ]  # fmt: skip
    for process in ("ve", "vp"):
        others = [v for (p, column), v in table.items() if p == process and column != "C2000"]
        stated.append(claims.above(f"{process.upper()}: C2000 over the worst other", table[process, "C2000"] / max(others), 1.0, source=claims.paper(f"{TABLE}: its ordering")))  # fmt: skip
    return stated


def _sampled(config: Config, setting: Setting) -> float:
    """Largest deviation of sampled mean and variance from the recursion, in standard errors."""
    every = max(1, len(_spectrum(config, setting)[0]) // 8)
    variances = _spectrum(config, setting)[0][::every]  # as many directions as are worth the time
    mean = np.zeros_like(variances)
    num, shape, process = config.num_samples, (config.num_samples, len(mean)), setting.process

    def wrong(t: Array, slope: Array, offset: Array) -> tuple[Array, Array]:
        factor = _factor(setting, t, setting.delta)
        return factor * slope, factor * offset

    def score(x: Array, t: Array) -> Array:
        slope, offset = moments.linear_score(
            process, t[:1], jnp.asarray(mean), jnp.asarray(variances)
        )
        slope, offset = wrong(t[:1], slope, offset)
        return slope * x + offset

    deviations = []
    columns = _samplers(config)
    for column in ("C2000", *(f"{kind}_{config.predictors[0]}" for kind in ("P2000", "PC1000"))):
        solver, num_steps = columns[column]
        grid = _grid(setting, num_steps)
        draws, (expected, spread) = jax.jit(lambda rng, solver=solver, grid=grid: (
            samplers.sample(score, process, rng, shape, solver=solver, grid=grid)[0],
            moments.sampled(solver, process, grid, mean, variances, perturb=wrong),
        ))(jax.random.key(0))  # fmt: skip
        deviations += [np.abs((draws.mean(0) - expected) / np.sqrt(spread / num)).max()]
        deviations += [np.abs((draws.var(0) / spread - 1) / np.sqrt(2 / num)).max()]
    return float(max(deviations))


def _picture(deltas: np.ndarray, curves: dict, config: Config):
    """Distance against the score's error, one panel a process."""
    figure, places = figure_style.row(2, width=8.8, height=3.6)
    titles = {"ve": "Variance exploding", "vp": "Variance preserving"}
    marked = {"ve": config.delta_ve, "vp": config.delta_vp}
    for axes, (name, columns) in zip(places, curves.items()):
        figure_style.style(
            axes, titles[name], "relative error of the score", "squared distance to data"
        )
        for colour, predictor in zip(PALETTE, config.predictors):
            label = predictor.replace("_", " ")
            plain, both = (columns[f"{kind}_{predictor}"][:-1] for kind in ("P2000", "PC1000"))
            axes.loglog(-deltas, plain, color=colour, lw=1.6, ls="--", label=f"{label}, P2000")
            axes.loglog(-deltas, both, color=colour, lw=1.8, label=f"{label}, PC1000")
        axes.loglog(-deltas, columns["C2000"][:-1], color=PALETTE[4], lw=1.8, ls=":", label="C2000")
        axes.axvline(-marked[name], color="#b6bec8", lw=1.0, zorder=0)
        axes.set_ylim(5e-7, 0.05)
    figure_style.legend(places[1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
