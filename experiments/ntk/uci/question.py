"""Does a tangent kernel machine beat random forests and a Gaussian kernel on small tables?

Claims: the ranking over 90 small UCI sets of Arora et al. 2020 (arXiv:1910.01663): support vector
machines with the NTK have a better mean Friedman rank and mean accuracy than random forests, and
those than support vector machines with a Gaussian kernel. Here on 24 sets with another
preprocessing, so the ranking alone is claimed. Cost: 6 minutes on 2 CPU cores.
    python -m experiments ntk.uci

The same protocol for all: four stratified folds; on three quarters of the training part every
setting is fitted, on its last quarter the best is chosen (the first of equal ones), refitted on the
whole training part, and scored on the fold. Kernel machines choose among as many settings each:
penalties times depths or length scales.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from experiments.ntk.uci import methods, picture, tabular
from experiments.ntk.uci.methods import NAMES
from library import claims, report
from library.statistics import ranks as rank_statistics

READERS = {"uci": tabular.read_uci, "sklearn": tabular.read_sklearn}
RANKING = claims.paper("ranking of Arora et al. 2020, arXiv:1910.01663, Table 1 (90 sets)")


@dataclasses.dataclass(frozen=True)
class Config:
    """Tables and grids."""

    source: Literal["uci", "sklearn"] = "uci"  # the 24 sets, or three embedded ones
    max_rows: int = 1000  # of a table; larger ones are thinned at random
    num_folds: int = 4  # that accuracies are means over
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)  # C of the support vectors
    depths: tuple[int, ...] = (1, 2, 3, 5)  # hidden layers of the infinite networks
    scales: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)  # of exp(-scale * mean squared difference)
    num_trees: int = 100  # of a forest
    features: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0)  # share of features that a split looks at
    seed: int = 0  # of folds and forests


PRESETS = {
    "smoke": Config(
        source="sklearn",
        max_rows=40,
        num_folds=2,
        penalties=(1.0,),
        depths=(1,),
        scales=(0.3,),
        num_trees=5,
        features=(0.5,),
    ),
    "default": Config(),
    "accelerator": Config(max_rows=100_000, num_trees=500),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Scores every method on every table and compares the ranks."""
    tables = READERS[config.source](config.max_rows)
    accuracies = np.array([_accuracies(config, table) for table in tables])  # [tables, methods]
    ranks = dict(zip(NAMES, rank_statistics.friedman(accuracies)))
    means = dict(zip(NAMES, accuracies.mean(axis=0)))
    metrics = {f"{name}_rank": rank for name, rank in ranks.items()}
    metrics |= {f"{name}_accuracy": mean for name, mean in means.items()}
    for table, row in zip(tables, accuracies):
        metrics |= {f"{table.name}_{name}": value for name, value in zip(NAMES, row)}
    out.figure("uci", picture.accuracies([table.name for table in tables], accuracies, ranks))
    return claims.Result(metrics) + sum(
        (
            _compare(better, worse, accuracies, ranks, means)
            for better, worse in (("ntk", "forest"), ("forest", "gaussian"))
        ),
        claims.Result(),
    )


def _accuracies(config: Config, table: tabular.Table) -> list[float]:
    """Of every method on one table, in the order of `NAMES`."""
    settings = methods.settings(
        table,
        penalties=config.penalties,
        depths=config.depths,
        scales=config.scales,
        num_trees=config.num_trees,
        shares=config.features,
        seed=config.seed,
    )
    return [_score(config, fits, table.labels) for fits in settings.values()]


def _compare(
    better: str,
    worse: str,
    accuracies: np.ndarray,
    ranks: dict[str, float],
    means: dict[str, float],
) -> claims.Result:
    """One method above another, by mean rank and by mean accuracy over the tables."""
    columns = [list(NAMES).index(name) for name in (better, worse)]
    gap = accuracies[:, columns[0]] - accuracies[:, columns[1]]
    metrics = {
        f"{better}_less_{worse}": gap.mean(),
        f"{better}_less_{worse}_error": gap.std(ddof=1) / math.sqrt(len(gap)),
    }
    stated = [
        claims.below(
            f"mean rank of {NAMES[better]}, below that of {NAMES[worse]}",
            ranks[better],
            ranks[worse],
            source=RANKING,
        ),
        claims.above(
            f"mean accuracy of {NAMES[better]}, above that of {NAMES[worse]}",
            means[better],
            means[worse],
            source=RANKING,
        ),
    ]
    return claims.Result(metrics, stated)


def _score(config: Config, fits: list[methods.Fit], labels: np.ndarray) -> float:
    """Mean accuracy over folds, with the setting chosen inside each training part."""
    outer = tabular.folds(labels, config.num_folds, config.seed)
    accuracy = lambda fit, train, test: np.mean(fit(train, test) == labels[test])
    scores = []
    for fold in range(config.num_folds):
        train, test = np.flatnonzero(outer != fold), np.flatnonzero(outer == fold)
        inner = tabular.folds(labels[train], 4, config.seed + 1)
        chosen = [accuracy(fit, train[inner != 0], train[inner == 0]) for fit in fits]
        scores.append(accuracy(fits[int(np.argmax(chosen))], train, test))
    return float(np.mean(scores))
