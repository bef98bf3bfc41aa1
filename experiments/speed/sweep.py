"""What does one compiled sweep gain over the same runs in turn?

Claims: 32 learning rates of a 10^5-parameter model by `library.sweep.train_many` are at least 3
times faster on 2 idle CPU cores than (a) 32 runs in turn as one writes them without it, the jitted
update of `library.train_step` with the rate built into optax.adam, compilations included on both
sides; (c) one compiled scan called 32 times, compilation on neither side. Beside them: faster than
(b) the loop of (a) without its compilations. Losses are those of the runs in turn to 1e-5, in
float64 and in float32. Cost: 3 minutes on 2 idle CPU cores.
    python -m experiments speed.sweep
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

from library import claims, report, sweep, testing, timing
from library.train_step import init_state, make_train_step
from library.types import Aux

SOURCE = claims.baseline("the same runs in turn, same process")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the model and of the sweep."""

    num_runs: int = 32  # learning rates
    num_steps: int = 100  # updates of a run
    batch_size: int = 8  # examples of an update
    width: int = 128  # of a hidden layer
    depth: int = 7  # hidden layers: 10^5 parameters at width 128
    rounds: int = 5  # alternations that are counted


PRESETS = {
    "smoke": Config(num_runs=2, num_steps=3, width=8, depth=1, rounds=1),
    "default": Config(),
    "accelerator": Config(num_steps=1000, batch_size=64),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times train_many beside three ways to make the same runs in turn; compares losses."""
    parts = _parts(config)
    batches, rngs, hyper = data = _data(config, jnp.float32)
    cold, user_cold = _cold(config, "many"), _cold(config, "loop")
    many, one = sweep.compile_many(*parts, *data), jax.jit(sweep.train_one(*parts))
    updates = [_update(rate) for rate in np.asarray(hyper["rate"])]
    times = timing.alternate(
        {
            "many": lambda: many(*data),
            "loop": lambda: _by_loop(parts[0], updates, batches, rngs),
            "scan": lambda: _by_scan(one, *data),
        },
        config.rounds,
    )
    gaps = {"float32": _gap(many(*data)[1], _by_loop(parts[0], updates, batches, rngs))}
    with jax.enable_x64(True):  # the loop's rates are those of float32
        wide = _data(config, jnp.float64)
        exact = {"rate": jnp.asarray(np.asarray(hyper["rate"]), jnp.float64)}
        losses = sweep.train_many(*parts, wide[0], rngs, exact)[1]
        gaps["float64"] = _gap(losses, _by_loop(parts[0], updates, wide[0], rngs))
    gains = {
        "a": user_cold / cold,
        "b": 1 / timing.median_ratio(times, "many", "loop"),
        "c": 1 / timing.median_ratio(times, "many", "scan"),
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parts[0], rngs[0])))
    metrics = {
        "parameters": count,
        "many_seconds_with_compilation": cold,
        "loop_seconds_with_compilations": user_cold,
        **{f"{name}_seconds": float(np.median(each)) for name, each in times.items()},
        **{f"gain_{name}": gain for name, gain in gains.items()},
        **{f"gap_{name}": gap for name, gap in gaps.items()},
    }
    stated = [
        claims.at_least("(a) times faster than a user's loop, compilations on both sides", gains["a"], 3.0, source=SOURCE),
        claims.at_least("(b) times faster than that loop, compiled", gains["b"], 1.0, source=SOURCE),
        claims.at_least("(c) times faster than one compiled scan in turn", gains["c"], 3.0, source=SOURCE),
        *[claims.at_most(f"largest relative gap of a loss, {name}", gap, 1e-5, source=SOURCE)
          for name, gap in gaps.items()],
    ]  # fmt: skip
    return claims.Result(metrics, stated)


def _data(config: Config, dtype: jnp.dtype) -> tuple:
    """Batches, keys and rates of all runs."""
    x = np.random.default_rng(0).normal(size=(config.num_steps, config.batch_size, 16))
    batches = {"x": jnp.asarray(x, dtype), "y": jnp.asarray(np.sin(x.sum(-1)), dtype)}
    rngs = jax.random.split(jax.random.key(0), config.num_runs)
    return batches, rngs, {"rate": jnp.geomspace(1e-5, 3e-3, config.num_runs, dtype=dtype)}


def _cold(config: Config, side: str) -> float:
    """Seconds of all runs by one side in a fresh process without a compilation cache."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    code = (
        f"from experiments.speed import sweep as s; s.main({dataclasses.asdict(config)}, {side!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2], env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def main(fields: dict, side: str) -> None:
    """The work of one fresh process; prints its seconds."""
    config = Config(**fields)
    parts, (batches, rngs, hyper) = _parts(config), _data(config, jnp.float32)
    jax.block_until_ready(jnp.zeros(3) + 1)
    began = time.perf_counter()
    if side == "many":
        jax.block_until_ready(sweep.train_many(*parts, batches, rngs, hyper))
    else:
        updates = [_update(rate) for rate in np.asarray(hyper["rate"])]
        jax.block_until_ready(_by_loop(parts[0], updates, batches, rngs))
    print(time.perf_counter() - began)


def _parts(config: Config) -> tuple:
    """init, loss and optimizer of a run."""
    sizes = (16,) + (config.width,) * config.depth + (1,)
    return lambda rng: testing.mlp_init(rng, sizes), _loss, lambda rate: optax.adam(rate)


def _update(rate: float) -> tuple[optax.GradientTransformation, Callable]:
    """The optimizer of one run and its jitted update, the rate built in."""
    optimizer = optax.adam(float(rate))
    return optimizer, jax.jit(make_train_step(_loss, optimizer), donate_argnums=0)


def _by_loop(init: Callable, updates: list, batches: dict, rngs: jax.Array) -> list:
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


def _by_scan(one: Callable, batches: dict, rngs: jax.Array, hyper: dict) -> list:
    """[R] losses [T] of the runs in turn, one call a run."""
    return [one(batches, rng, {"rate": rate})[1] for rng, rate in zip(rngs, hyper["rate"])]


def _gap(losses: jax.Array, others: list) -> float:
    """The largest relative difference of a loss."""
    return float(np.max(np.abs(np.asarray(losses) / np.stack(others) - 1)))


def _loss(params, model_state, rng, batch) -> tuple[jax.Array, Aux]:
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
    return (error**2).mean(), Aux(batch["y"].size)
