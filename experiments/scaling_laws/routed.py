"""Do routed language models follow a bilinear law, and dense ones a power law?

Claims: dense slope -0.079 in N; the bilinear coefficients of three routers by least squares
(Clark et al. 2022). Cost: 3 seconds on 2 CPU cores.
    python -m experiments scaling_laws.routed

log10 L = a log10 N + b log10 E + c log10 N log10 E + d on the validation loss at the end of
training (arXiv:2202.01169, eq. (7)), one active expert, last step >= 240,000. The paper's own
coefficients use a saturating transform of E and a robust fit: signs and sizes compare, not digits.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, published
from research.scaling_laws.runs import Runs

LEAST_SQUARES = claims.baseline(
    "least squares on the data of Clark et al. 2022, arXiv:2202.01169, worked out independently"
)
TABLE = {  # a, b, c, d, runs
    "S-Base": (-0.082, -0.095, 0.0084, 1.093, 75),
    "RL-R": (-0.082, -0.107, 0.0099, 1.091, 54),
    "Hash": (-0.083, -0.099, 0.0091, 1.105, 69),
}
DIGITS = (5e-4, 5e-4, 5e-5, 5e-4)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs count as finished."""

    last_step: int = 240_000  # updates


PRESETS = {"smoke": Config(), "default": Config(), "accelerator": Config()}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The dense law and one bilinear law a router."""
    finished = _finished(config.last_step)
    dense = finished["Dense"]
    fit = fitting.fit(
        laws.kaplan_parameters,
        Runs(parameters=dense[0], loss=dense[2]),
        loss="squared",
    )
    slope = -fit.parameters["alpha_N"]
    metrics = {"dense_slope": slope, "dense_runs": len(dense[0])}
    stated = [claims.within("dense slope in N", slope, -0.079, 5e-4, source=LEAST_SQUARES)]
    for router, expected in TABLE.items():
        size, experts, loss = finished[router]
        n, e = np.log10(size), np.log10(experts)
        design = np.stack([n, e, n * e, np.ones_like(n)], 1)  # [N, 4]
        found = np.linalg.lstsq(design, np.log10(loss), rcond=None)[0]
        stated.append(claims.exactly(f"{router}: runs", len(n), expected[4], source=LEAST_SQUARES))
        for name, value, target, digit in zip("abcd", found, expected, DIGITS):
            metrics[f"{router}_{name}"] = float(value)
            stated.append(
                claims.within(f"{router}: {name}", value, target, digit, source=LEAST_SQUARES)
            )
    out.figure("routed", _figure(finished, fit))
    return claims.Result(metrics, stated)


def _finished(last_step: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{router: (parameters, experts, loss)} of each setting's last evaluation."""
    data = published.table("routed_language_models", "curves.csv.gz")
    last = {}
    for row, (setting, step) in enumerate(zip(data["hyper_id"], data["step"])):
        if setting not in last or step > data["step"][last[setting]]:
            last[setting] = row
    rows = np.array(sorted(last.values()))
    rows = rows[
        (data["step"][rows] >= last_step)
        & (data["k"][rows] == 1)
        & (data["flop_increase"][rows] == 1)
    ]
    names = ("dense_parameter_count", "num_experts", "loss_validation")
    return {
        router: tuple(data[name][rows[data["router_type"][rows] == router]] for name in names)
        for router in ("Dense", *TABLE)
    }


def _figure(finished: dict[str, tuple], fit: fitting.Fit) -> Figure:
    figure, place = figure_style.single(
        "Dense and routed models (S-Base)", "dense parameters N", "validation loss, nats per token"
    )
    size, experts, loss = finished["S-Base"]
    counts = sorted(set(experts))
    for count in counts:
        rows = experts == count
        shade = 0.25 + 0.6 * counts.index(count) / len(counts)
        place.plot(
            size[rows], loss[rows], "o", markersize=3.5, color=figure_style.PALETTE[0], alpha=shade
        )
    place.plot([], [], "o", color=figure_style.PALETTE[0], label="S-Base, darker with more experts")
    sizes = np.geomspace(size.min(), size.max(), 20)
    place.plot(
        finished["Dense"][0],
        finished["Dense"][2],
        "s",
        color=figure_style.PALETTE[1],
        label="dense",
    )
    place.plot(sizes, fit.predict(parameters=sizes), color=figure_style.PALETTE[1],
               label=f"N^-{fit.parameters['alpha_N']:.4f}")  # fmt: skip
    place.set_xscale("log")
    place.set_yscale("log")
    ticks = [2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2]
    place.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    place.minorticks_off()
    figure_style.legend(place)
    return figure
