"""The four methods, in every setting: support vector machines with three kernels, and forests."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from sklearn import ensemble, svm

from experiments.ntk.uci import tabular
from research.ntk import layers

NAMES = {"ntk": "NTK", "nngp": "NNGP", "gaussian": "Gaussian", "forest": "random forest"}

# (training rows, rows to predict) -> predicted labels
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def settings(
    table: tabular.Table,
    *,
    penalties: Sequence[float],
    depths: Sequence[int],
    scales: Sequence[float],
    num_trees: int,
    shares: Sequence[float],
    seed: int,
) -> dict[str, list[Fit]]:
    """All settings of every method on one table, in the order of `NAMES`.

    Args:
        table: raw.
        penalties: C of the support vector machines, with every kernel.
        depths: hidden layers of the infinite networks.
        scales: of the Gaussian kernel exp(-scale * mean squared difference).
        num_trees: of a forest.
        shares: of the features, which a split looks at.
        seed: of forests.
    """
    x = tabular.standardised(table)
    kernels = [network_kernels(x, depth) for depth in depths]
    squares = np.sum(x**2, 1)
    mean_square = (squares[:, None] + squares - 2 * x @ x.T) / x.shape[1]
    grams = {kind: [pair[kind] for pair in kernels] for kind in ("ntk", "nngp")}
    grams["gaussian"] = [np.exp(-scale * mean_square) for scale in scales]
    found = {
        kind: [
            functools.partial(_support_vectors, gram, table.labels, penalty)
            for gram in kind_grams
            for penalty in penalties
        ]
        for kind, kind_grams in grams.items()
    }
    found["forest"] = [
        functools.partial(_forest, x, table.labels, num_trees, share, seed) for share in shares
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
    x: np.ndarray,
    labels: np.ndarray,
    num_trees: int,
    share: float,
    seed: int,
    train: np.ndarray,
    test: np.ndarray,
) -> np.ndarray:
    forest = ensemble.RandomForestClassifier(num_trees, max_features=share, random_state=seed)
    return forest.fit(x[train], labels[train]).predict(x[test])
