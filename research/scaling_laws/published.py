"""The published runs under `ANSATZ_DATA` as `runs.Runs`; a set that is missing is one line."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np

from library.data import sources
from research.scaling_laws.runs import Runs


def table(folder: str, file: str) -> dict[str, np.ndarray]:
    """Columns [N] of a CSV file of a set; numbers where all cells are, else text.

    Raises:
        FileNotFoundError: naming the set and what to do.
    """
    path = sources.require(folder, [f"scaling_laws/{folder}/{file}"])[0]
    content = path.read_bytes()
    text = (gzip.decompress(content) if file.endswith(".gz") else content).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        try:
            columns[name] = np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            columns[name] = np.array(cells)
    return columns


def chinchilla(num_dropped: int = 5) -> Runs:
    """Hoffmann et al.'s runs as read off a figure by Besiroglu et al., the worst ones left out.

    Their rule: keep a loss below the `num_dropped`-th largest.
    """
    data = table("epoch_chinchilla", "svg_extracted_data.csv")
    size, flops, loss = data["Model Size"], data["Training FLOP"], data["loss"]
    keep = loss < np.sort(loss)[-num_dropped] if num_dropped else np.ones(len(loss), bool)
    size, flops, loss = size[keep], flops[keep], loss[keep]
    return Runs(parameters=size, tokens=flops / (6 * size), flops=flops, loss=loss)


def isoflop(experiment: str) -> Runs:
    """Porian et al.'s RefinedWeb points under one convention and tuning."""
    data = table("porian_refinedweb", "isoflop_points.csv")
    rows = data["experiment"] == experiment
    return Runs(
        parameters=data["params"][rows],
        tokens=data["tokens"][rows],
        flops=data["flops"][rows],
        loss=data["loss"][rows],
    )


def repeated() -> Runs:
    """The 182 runs of Muennighoff et al.'s published fit."""
    data = table("datablations_repeat", "runs.csv")
    rows = data["in_published_fit"] == 1
    return Runs(
        parameters=data["params"][rows],
        tokens=data["tokens"][rows],
        loss=data["val_loss"][rows],
        extra={"unique_tokens": data["unique_tokens"][rows]},
        allow_duplicates=True,
    )


def overtraining(train_set: str) -> tuple[Runs, np.ndarray, np.ndarray]:
    """Gadre et al.'s runs on one training set, their token multipliers and which ones they fit."""
    data = table("gadre_overtraining", "runs.csv")
    rows = data["train_set"] == train_set
    size, multiplier = data["params"][rows], data["chinchilla_multiplier"][rows]
    smallest = np.unique(size)[:4]
    fitted = np.isin(size, smallest) & (multiplier == 1)
    fitted |= (size == smallest[0]) & (multiplier == 16)
    found = Runs(
        parameters=size,
        tokens=data["tokens"][rows],
        loss=data["loss_c4_val"][rows],
        extra={"error": data["top1_error_17_tasks"][rows]},
        allow_duplicates=True,
    )
    return found, multiplier, fitted
