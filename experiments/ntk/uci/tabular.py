"""Small classification tables: raw arrays to standardised features, folds."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

FILE = "tabular/uci_classification.npz"


@dataclasses.dataclass(frozen=True)
class Table:
    """One data set: features [N, D] float, missing cells nan; labels [N] from 0.

    `levels` [D] int: number of levels of a nominal column, 0 for a numeric one.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    levels: np.ndarray


def read_uci(max_rows: int) -> list[Table]:
    """The 24 sets under `ANSATZ_DATA`, those of more rows thinned at random.

    Raises:
        FileNotFoundError: if the file is not there.
    """
    folder = os.environ.get("ANSATZ_DATA", "")
    path = pathlib.Path(folder) / FILE
    if not folder or not path.is_file():
        raise FileNotFoundError(f"ANSATZ_DATA={folder!r} holds no {FILE}: name a folder that does")
    with np.load(path) as file:
        return [
            thinned(
                Table(name, *(file[f"{name}__{key}"] for key in ("X", "y", "nominal_levels"))),
                max_rows,
            )
            for name in map(str, file["names"])
        ]


def read_sklearn(max_rows: int) -> list[Table]:
    """Three sets that come with scikit-learn."""
    from sklearn import datasets

    makers = {"iris": datasets.load_iris, "wine": datasets.load_wine,
              "breast_cancer": datasets.load_breast_cancer}  # fmt: skip
    raw = {name: maker(return_X_y=True) for name, maker in makers.items()}
    return [
        thinned(Table(name, x, y, np.zeros(x.shape[1], int)), max_rows)
        for name, (x, y) in raw.items()
    ]


def thinned(table: Table, max_rows: int) -> Table:
    """The table with at most so many rows."""
    if len(table.labels) <= max_rows:
        return table
    rows = np.random.default_rng(0).permutation(len(table.labels))[:max_rows]
    return dataclasses.replace(table, features=table.features[rows], labels=table.labels[rows])


def standardised(table: Table) -> np.ndarray:
    """[N, D'] float64: nominal columns as one-hot, missing cells as means, unit variance.

    Columns that name their rows (as many levels as half of the rows) and constant ones are dropped.
    Statistics are those of the whole table; labels are not looked at.
    """
    columns = []
    for column, levels in zip(table.features.T, table.levels):
        missing = np.isnan(column)
        if levels >= len(column) / 2:
            continue
        if levels > 2:
            columns += [np.where(missing, np.nan, column == level) for level in range(levels)]
        else:
            columns.append(column)
    x = np.stack(columns, axis=1).astype(np.float64)
    x = np.where(np.isnan(x), np.nanmean(x, axis=0), x)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0))[:, spread > 0] / spread[spread > 0]


def folds(labels: np.ndarray, num: int, seed: int) -> np.ndarray:
    """[N] int: the fold of every row; every class is spread evenly over the folds."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), int)
    found[order] = np.arange(len(labels)) % num
    return found
