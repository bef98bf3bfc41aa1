"""A tiny noisy regression and its run with a folder, which tests of whole runs share."""

import jax
import numpy as np
import optax

from library import report, testing, training
from library.types import Aux


def init(rng):
    return testing.mlp_init(rng, (3, 4, 1))


def loss_fn(params, model_state, rng, batch):
    """Regression with noise, by one key or one an example, and a count of the batches."""
    keys = rng if rng.ndim else jax.random.split(rng, len(batch["y"]))
    noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"] + noise
    state = {"count": model_state["count"] + 1} if model_state else None
    return (error**2).mean(), Aux(len(error), {"bias": error.mean()}, state)


def batch_at(step):
    x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "y": x.sum(1)}


def train(folder, num_steps=10, evaluate=None, batches=batch_at, given=None, **options):
    """`training.train` with the arguments `given` beside the run's options."""
    options = {"log_every": 4, "checkpoint_every": 5} | options
    return training.train(
        loss_fn,
        optax.adam(1e-2),
        init,
        batches,
        num_steps=num_steps,
        run=training.RunOptions(**options),
        out=report.RunDir(folder),
        evaluate=evaluate,
        **(given or {}),
    )
