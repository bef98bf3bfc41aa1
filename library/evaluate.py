"""Weighted means of a loss and its metrics over a finite stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import numpy as np

from library.train_step import check_loss
from library.types import Batch, Key, LossFn, Metrics, Params, PyTree

Evaluator = Callable[[Params, PyTree, Key, Iterable[Batch]], dict[str, float]]


def make_evaluator(loss_fn: LossFn) -> Evaluator:
    """A function (params, model_state, rng, batches) -> means over all units of all batches.

    A padded last batch is exact when the loss honours its mask, because each batch counts by the
    weight that the loss reports. It compiles once as long as all batches have one shape.

    Args:
        loss_fn: see `library.types.LossFn`; batch i gets the key fold_in(rng, i). Its new model
            state is dropped.
    Returns:
        The evaluator. Its result holds the loss's metrics, `loss` and the summed `weight`,
        accumulated in float64; it raises ValueError if no batch has a unit, one has a weight
        that is no number >= 0, or where the loss counts its units in half precision.
    """

    @jax.jit
    def one(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> Metrics:
        loss, aux = loss_fn(params, model_state, rng, batch)
        check_loss(loss, aux)
        return {**aux.metrics, "loss": loss, "weight": aux.weight}

    def evaluate(
        params: Params, model_state: PyTree, rng: Key, batches: Iterable[Batch]
    ) -> dict[str, float]:
        rows: list[dict[str, np.ndarray]] = []
        for index, batch in enumerate(batches):
            rows.append(
                jax.device_get(one(params, model_state, jax.random.fold_in(rng, index), batch))
            )
        weights = np.array([row["weight"] for row in rows], np.float64)
        if not np.all(weights >= 0):
            index = int(np.argmin(weights >= 0))
            raise ValueError(f"batch {index} has weight {weights[index]}: expected a number >= 0")
        if weights.sum() <= 0:
            raise ValueError(f"nothing to evaluate: {len(rows)} batches without a single unit")
        some = weights > 0  # the mean over no units may be nan
        names = [name for name in rows[0] if name != "weight"]
        values = {name: np.array([row[name] for row in rows], np.float64) for name in names}
        means = {
            name: np.average(value[some], weights=weights[some]) for name, value in values.items()
        }
        return {
            **{name: float(mean) for name, mean in means.items()},
            "weight": float(weights.sum()),
        }

    return evaluate
