"""Do 95 % bootstrap intervals hold the true parameters 95 % of the time?

Claim: coverage between 93 % and 97 % for alpha, beta, E and the exponent a over 1,000 repetitions
on a synthetic surface with Gaussian noise in log loss.
Cost: 40 seconds on 2 CPU cores.
    python -m experiments scaling_laws.coverage

Each repetition draws new noise on the same 240 places (as many as Chinchilla's data), fits by least
squares of the log loss and resamples runs. The standard error of 200 repetitions is 1.5 %, so that
exact intervals leave the claimed band in one study of five; that of 1,000 is 0.7 %.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, planning
from research.scaling_laws.runs import Runs

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
NAMES = ("E", "alpha", "beta", "a")
NOMINAL = claims.theorem("the level of the intervals; 2 % is three standard errors of 1,000 draws")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the study."""

    num_repetitions: int = 1000  # data sets
    num_resamples: int = 400  # of each
    noise: float = 0.005  # standard deviation of the log loss
    seed: int = 0  # of noise and resamples


PRESETS = {
    "smoke": Config(num_repetitions=4, num_resamples=16),
    "default": Config(),
    "accelerator": Config(num_repetitions=10_000, num_resamples=1000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Counts how often the interval holds the truth."""
    size = np.repeat(np.geomspace(1e7, 1e10, 16), 15)
    tokens = size * np.tile(np.geomspace(2, 500, 15), 16)
    clean = laws.chinchilla.predict(TRUE, parameters=size, tokens=tokens)
    truth = TRUE | planning.exponents(TRUE)
    hits, ends = dict.fromkeys(NAMES, 0), []
    for index in range(config.num_repetitions):
        rng = np.random.default_rng([config.seed, index])
        loss = clean * np.exp(config.noise * rng.normal(size=len(clean)))
        runs = Runs(parameters=size, tokens=tokens, loss=loss)
        whole = fitting.fit(laws.chinchilla, runs, loss="squared", method="newton", starts=[TRUE])
        counts = fitting.resample_counts(rng, len(runs), config.num_resamples)
        boot = fitting.bootstrap_from(whole, counts, whole.theta[:, None])
        draws = boot.draws | planning.exponents(boot.draws)
        for name in NAMES:
            low, high = np.quantile(draws[name], [0.025, 0.975])
            hits[name] += bool(low <= truth[name] <= high)
            if name == "a":
                ends.append((low, high))
    metrics = {f"coverage_{name}": hits[name] / config.num_repetitions for name in NAMES}
    stated = [
        claims.within(
            f"coverage of {name}", metrics[f"coverage_{name}"], 0.95, 0.02, source=NOMINAL
        )
        for name in NAMES
    ]
    out.figure("coverage", _figure(np.array(ends)[:200], truth["a"]))
    return claims.Result(metrics, stated)


def _figure(ends: np.ndarray, truth: float) -> Figure:
    figure, place = figure_style.single("95 % intervals of a, by repetition", "repetition", "a")
    missed = (ends[:, 0] > truth) | (ends[:, 1] < truth)
    rows = np.arange(len(ends))
    for chosen, colour, label in ((~missed, figure_style.PALETTE[0], "holds the truth"),
                                  (missed, figure_style.PALETTE[1], "misses it")):  # fmt: skip
        place.vlines(rows[chosen], *ends[chosen].T, color=colour, linewidth=1, label=label)
    place.axhline(truth, color=figure_style.INK, linewidth=0.8)
    place.margins(y=0.2)  # room for the legend
    figure_style.legend(place)
    return figure
