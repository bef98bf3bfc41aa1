"""Does a killed run end where an uninterrupted one does?  Cost: seconds.

python -m experiments mlp.regression
"""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np
import optax

from library import claims, report, testing, training
from library.types import Aux


@dataclasses.dataclass(frozen=True)
class Config:
    """A regression that takes its time."""

    num_steps: int = 60  # updates
    pause: float = 0.02  # seconds before each batch, so that a kill can fall anywhere
    bad_step: int = -1  # update whose batch is not finite
    batch_size: int = 8  # examples per update
    run: training.RunOptions = training.RunOptions(log_every=1, checkpoint_every=5)


PRESETS = {"smoke": Config(num_steps=4, pause=0.0), "default": Config()}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains and reports the sum of the parameters."""
    state = training.train(
        loss_fn,
        optax.adam(1e-2),
        lambda rng: testing.mlp_init(rng, (4, 16, 1)),
        lambda step: batch_at(step, config),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        ema_decay=0.9,
        rng_per_example=True,
        evaluate=training.Every(7, lambda state: {"eval/sum": _sum(state.ema)}),
    )
    averages = training.evaluations(out, "eval/sum")[:, 1]
    values = {"parameter_sum": _sum(state.params), "sum_of_averages": averages.sum()}
    return claims.Result(metrics=values, claims=[])


def _sum(params) -> float:
    return sum(float(leaf.sum()) for leaf in jax.tree.leaves(params))


def batch_at(step: int, config: Config) -> dict[str, np.ndarray]:
    """Batch of update `step`, a function of the step alone."""
    time.sleep(config.pause)
    rng = np.random.default_rng(step)
    x = rng.normal(size=(config.batch_size, 4)).astype(np.float32)
    return {"x": x * (np.nan if step == config.bad_step else 1.0), "y": x.sum(1)}


def loss_fn(params, model_state, rng, batch):
    """Squared error with noise on the target."""
    noise = jax.vmap(lambda key: jax.random.normal(key, ()))(rng)
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"] - 0.1 * noise
    return (error**2).mean(), Aux(error.size)
