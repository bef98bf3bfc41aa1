"""The runs of `speed.sweep`, all at once and in turn.

    python -m experiments.speed.sweep.runs many|loop RUNS STEPS BATCH WIDTH DEPTH

makes all of them one way in a fresh process and prints the seconds, compilations included.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import sweep, testing
from library.train_step import init_state, make_train_step
from library.types import Array, Aux, Batch, Key, Params, PyTree

ROOT = pathlib.Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model and of the sweep.

    Attributes:
        num_runs: learning rates.
        num_steps: updates of a run.
        batch_size: examples of an update.
        width, depth: of the hidden layers.
    """

    num_runs: int
    num_steps: int
    batch_size: int
    width: int
    depth: int


def data(sizes: Sizes, dtype: jnp.dtype) -> tuple:
    """Batches, keys and rates of all runs."""
    x = np.random.default_rng(0).normal(size=(sizes.num_steps, sizes.batch_size, 16))
    batches = {"x": jnp.asarray(x, dtype), "y": jnp.asarray(np.sin(x.sum(-1)), dtype)}
    rngs = jax.random.split(jax.random.key(0), sizes.num_runs)
    return batches, rngs, {"rate": jnp.geomspace(1e-5, 3e-3, sizes.num_runs, dtype=dtype)}


def cold_seconds(sizes: Sizes, side: str) -> float:
    """Seconds of all runs by one side in a fresh process without a compilation cache."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    numbers = map(str, dataclasses.astuple(sizes))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.sweep.runs", side, *numbers],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def main(side: str, *numbers: int) -> None:
    """The work of one fresh process; prints its seconds."""
    sizes = Sizes(*numbers)
    own, (batches, rngs, hyper) = parts(sizes), data(sizes, jnp.float32)
    jax.block_until_ready(jnp.zeros(3) + 1)
    began = time.perf_counter()
    if side == "many":
        jax.block_until_ready(sweep.train_many(*own, batches, rngs, hyper))
    else:
        updates = [update(rate) for rate in np.asarray(hyper["rate"])]
        jax.block_until_ready(by_loop(own[0], updates, batches, rngs))
    print(time.perf_counter() - began)


def parts(sizes: Sizes) -> tuple:
    """init, loss and optimizer of a run."""
    widths = (16,) + (sizes.width,) * sizes.depth + (1,)
    return lambda rng: testing.mlp_init(rng, widths), _loss, lambda rate: optax.adam(rate)


def update(rate: float) -> tuple[optax.GradientTransformation, Callable]:
    """The optimizer of one run and its jitted update, the rate built in."""
    optimizer = optax.adam(float(rate))
    return optimizer, jax.jit(make_train_step(_loss, optimizer), donate_argnums=0)


def by_loop(init: Callable, updates: list, batches: dict, rngs: Array) -> list:
    """[R][T] losses of the runs in turn, one call an update, the batches as they lie in memory."""
    batches, losses = jax.device_get(batches), []
    start = jax.jit(init)
    for rng, (optimizer, update) in zip(rngs, updates):
        params = start(jax.random.fold_in(rng, 0))
        state = init_state(params, optimizer, jax.random.fold_in(rng, 1))
        losses.append([])
        for t in range(len(batches["y"])):
            state, metrics = update(state, {name: leaf[t] for name, leaf in batches.items()})
            losses[-1].append(metrics["loss"])
    return losses


def by_scan(one: Callable, batches: dict, rngs: Array, hyper: dict) -> list:
    """[R] losses [T] of the runs in turn, one call a run."""
    return [one(batches, rng, {"rate": rate})[1] for rng, rate in zip(rngs, hyper["rate"])]


def gap(losses: Array, others: list) -> float:
    """The largest relative difference of a loss."""
    return float(np.max(np.abs(np.asarray(losses) / np.stack(others) - 1)))


def _loss(params: Params, model_state: PyTree, rng: Key, batch: Batch) -> tuple[Array, Aux]:
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
    return (error**2).mean(), Aux(batch["y"].size)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
