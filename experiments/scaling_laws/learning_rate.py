"""How should learning rate and batch size grow with parameters and tokens?

Claim: the published draws have means lr = 1.797 N^-0.7129 D^0.3075 and batch = 0.581 D^0.5709
(Li et al. 2025), of logarithms for the coefficients.
Cost: 5 seconds on 2 CPU cores.
    python -m experiments scaling_laws.learning_rate

1,911 runs over 17 pairs of N and D (arXiv:2503.04715). The optimum of a pair is the lowest smoothed
loss of its grid; both laws are then straight lines in logarithms, by least squares. That fit
is shown beside the draws, not judged: the paper chose its optima otherwise.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, published
from research.scaling_laws.runs import Runs

SOURCE = claims.paper("Li et al. 2025, arXiv:2503.04715, published bootstrap draws")
MEANS = {"lr_c": (1.797, 5e-4), "lr_p": (-0.7129, 5e-5), "lr_q": (0.3075, 5e-5),
         "batch_c": (0.581, 5e-4), "batch_q": (0.5709, 5e-5)}  # fmt: skip
SEQUENCE = 2048  # tokens


@dataclasses.dataclass(frozen=True)
class Config:
    """How an optimum is read off a grid."""

    num_best: int = 1  # runs of the lowest loss whose geometric mean is the optimum


PRESETS = {"smoke": Config(), "default": Config(), "accelerator": Config()}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """The means of the published draws, and our own fit to the grid's optima."""
    draws = published.table("step_law_lr_batch", "fitted_bootstrap_parameters.csv")
    means = {
        "lr_c": np.exp(draws["lr_intercept"].mean()),
        "lr_p": draws["lr_coefN"].mean(),
        "lr_q": draws["lr_coefD"].mean(),
        "batch_c": np.exp(draws["bs_intercept"].mean()),
        "batch_q": draws["bs_coefD"].mean(),
    }
    optima = _optima(config.num_best)
    rate = fitting.fit(laws.learning_rate, optima, loss="squared")
    batch = fitting.fit(laws.batch_size, optima, loss="squared")
    metrics = {f"draws_{name}": float(value) for name, value in means.items()}
    metrics |= {f"grid_lr_{name}": value for name, value in rate.parameters.items()}
    metrics |= {f"grid_batch_{name}": value for name, value in batch.parameters.items()}
    stated = [
        claims.within(f"mean of the draws: {name}", means[name], value, digit, source=SOURCE)
        for name, (value, digit) in MEANS.items()
    ]
    out.figure("learning_rate", _figure(optima, rate))
    return claims.Result(metrics, stated)


def _optima(num_best: int) -> Runs:
    """One row a pair (N, D): the learning rate and batch, in tokens, of its lowest losses."""
    data = published.table("step_law_lr_batch", "dense_lr_bs_loss.csv")
    rows = []
    for size, tokens in sorted(set(zip(data["N"], data["D"]))):
        members = np.flatnonzero((data["N"] == size) & (data["D"] == tokens))
        best = members[np.argsort(data["smooth loss"][members])[:num_best]]
        rate = np.exp(np.log(data["lr"][best]).mean())
        batch = np.exp(np.log(data["bs"][best] * SEQUENCE).mean())
        rows.append((size, tokens, data["smooth loss"][best[0]], rate, batch))
    size, tokens, loss, rate, batch = np.array(rows).T
    extra = {"learning_rate": rate, "batch_size": batch}
    return Runs(parameters=size, tokens=tokens, loss=loss, extra=extra)


def _figure(optima: Runs, fit: fitting.Fit) -> Figure:
    figure, place = figure_style.single(
        "Optimal learning rate of 17 grids", "fitted c N^p D^q", "best of the grid"
    )
    fitted = fit.predict(parameters=optima.parameters, tokens=optima.tokens)
    place.plot(fitted, optima.extra["learning_rate"], "o", color=figure_style.PALETTE[0])
    ends = np.array([fitted.min(), fitted.max()])
    place.plot(ends, ends, color=figure_style.FAINT, linewidth=1)
    place.set_xscale("log")
    place.set_yscale("log")
    return figure
