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
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from sklearn import ensemble, svm

from experiments.ntk import _by_width
from experiments.ntk.uci import tabular
from library import claims, figure_style, report
from research.ntk import layers

READERS = {"uci": tabular.read_uci, "sklearn": tabular.read_sklearn}
SOURCE = claims.paper("ranking of Arora et al. 2020, arXiv:1910.01663, Table 1 (90 sets), recalled")
NAMES = {"ntk": "NTK", "nngp": "NNGP", "gaussian": "Gaussian", "forest": "random forest"}


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
    "smoke": Config(source="sklearn", max_rows=40, num_folds=2, penalties=(1.0,), depths=(1,),
                    scales=(0.3,), num_trees=5, features=(0.5,)),
    "default": Config(),
    "accelerator": Config(max_rows=100_000, num_trees=500),
}  # fmt: skip

# (training rows, rows to predict) -> predicted labels
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Scores every method on every table and compares the ranks."""
    tables = READERS[config.source](config.max_rows)
    scores = []
    for table in tables:
        methods = settings(config, table)
        scores.append([_score(config, fits, table.labels) for fits in methods.values()])
    accuracies = np.array(scores)  # [tables, methods]
    ranks = dict(zip(NAMES, tabular.friedman_ranks(accuracies)))
    means = dict(zip(NAMES, accuracies.mean(axis=0)))
    metrics = {f"{name}_rank": rank for name, rank in ranks.items()}
    metrics |= {f"{name}_accuracy": mean for name, mean in means.items()}
    pairs = (("ntk", "forest"), ("forest", "gaussian"))
    stated = []
    for better, worse in pairs:
        columns = [list(NAMES).index(name) for name in (better, worse)]
        gap = accuracies[:, columns[0]] - accuracies[:, columns[1]]
        metrics[f"{better}_less_{worse}"] = gap.mean()
        metrics[f"{better}_less_{worse}_error"] = gap.std(ddof=1) / math.sqrt(len(gap))
        stated += [
            claims.below(f"mean rank of {NAMES[better]}, below that of {NAMES[worse]}", ranks[better], ranks[worse], source=SOURCE),
            claims.above(f"mean accuracy of {NAMES[better]}, above that of {NAMES[worse]}", means[better], means[worse], source=SOURCE),
        ]  # fmt: skip
    for table, row in zip(tables, accuracies):
        metrics |= {f"{table.name}_{name}": value for name, value in zip(NAMES, row)}
    _draw(out, [table.name for table in tables], accuracies, ranks)
    return claims.Result(metrics, stated)


def settings(config: Config, table: tabular.Table) -> dict[str, list[Fit]]:
    """All settings of every method on one table, in the order of `NAMES`."""
    x = tabular.standardised(table)
    kernels = [network_kernels(x, depth) for depth in config.depths]
    squares = np.sum(x**2, 1)
    mean_square = (squares[:, None] + squares - 2 * x @ x.T) / x.shape[1]
    grams = {kind: [pair[kind] for pair in kernels] for kind in ("ntk", "nngp")}
    grams["gaussian"] = [np.exp(-scale * mean_square) for scale in config.scales]
    found = {
        kind: [
            functools.partial(_support_vectors, gram, table.labels, penalty)
            for gram in kind_grams
            for penalty in config.penalties
        ]
        for kind, kind_grams in grams.items()
    }
    found["forest"] = [
        functools.partial(_forest, x, table.labels, config, share) for share in config.features
    ]
    return found


def network_kernels(x: np.ndarray, depth: int) -> dict[str, np.ndarray]:
    """NNGP kernel and NTK [N, N] of a dense ReLU network, on a mean diagonal of 1.

    Rows and columns are filled up with copies and zeros to few sizes, which share a compilation;
    the scale makes up for the zeros.
    """
    num, width = x.shape
    rows = np.arange(-(-num // 256) * 256) % num
    filled = np.zeros((len(rows), -(-width // 32) * 32), np.float32)
    filled[:, :width] = x[rows] * math.sqrt(filled.shape[1] / width)
    dense = layers.dense(1, weight_std=math.sqrt(2))
    net = layers.serial(*(dense, layers.relu()) * depth, dense)
    both = net.kernel(jnp.asarray(filled), get=("nngp", "ntk"))
    grams = {kind: np.asarray(getattr(both, kind))[:num, :num] for kind in ("nngp", "ntk")}
    return {kind: gram / np.mean(np.diag(gram)) for kind, gram in grams.items()}


def _support_vectors(
    gram: np.ndarray, labels: np.ndarray, penalty: float, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    machine = svm.SVC(C=penalty, kernel="precomputed", max_iter=100_000)
    machine.fit(gram[np.ix_(train, train)], labels[train])
    return machine.predict(gram[np.ix_(test, train)])


def _forest(
    x: np.ndarray, labels: np.ndarray, config: Config, share: float,
    train: np.ndarray, test: np.ndarray,
) -> np.ndarray:  # fmt: skip
    forest = ensemble.RandomForestClassifier(
        config.num_trees, max_features=share, random_state=config.seed
    )
    return forest.fit(x[train], labels[train]).predict(x[test])


def _score(config: Config, fits: list[Fit], labels: np.ndarray) -> float:
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


def _draw(
    out: report.RunDir, tables: list[str], accuracies: np.ndarray, ranks: dict[str, float]
) -> None:
    """Accuracy less the table's mean over methods, a row a table."""
    figure, (axes,) = figure_style.row(1)
    figure.set_size_inches(figure_style.WIDTH, 2.0 + 0.2 * len(tables))
    order = np.argsort(accuracies.mean(axis=1))
    centred = 100 * (accuracies - accuracies.mean(axis=1, keepdims=True))[order]
    for column, (colour, marker) in enumerate(zip(figure_style.PALETTE, _by_width.MARKERS)):
        if column >= len(NAMES):
            break
        key = list(NAMES)[column]
        label = f"{NAMES[key]}, mean rank {ranks[key]:.2f}"
        axes.plot(centred[:, column], np.arange(len(tables)), marker, color=colour, alpha=0.85,
                  markersize=5.5, mec="white", label=label)  # fmt: skip
    percent = 100 * accuracies.mean(axis=1)[order]
    axes.set_yticks(range(len(tables)), [f"{tables[i]} ({p:.0f})" for i, p in zip(order, percent)])
    axes.axvline(0, color=figure_style.INK, linewidth=0.8)
    title = "Test accuracy less the mean of the four methods"
    figure_style.style(axes, title, "percentage points (the mean beside the name, %)", "")
    figure.legend(
        loc="outside lower center", ncols=2, frameon=False, fontsize=figure_style.FONT_SIZE - 2
    )
    out.figure("uci", figure)
