"""What does one compiled sweep gain over the same runs in turn?

Claims: 32 learning rates of a 10^5-parameter model by `library.sweep.train_many` are at least 3
times faster on 2 idle CPU cores than (a) 32 runs in turn as one writes them without it, the jitted
update of `library.train_step` with the rate built into optax.adam, compilations included on both
sides; (c) one compiled scan called 32 times, compilation on neither side. Beside them: faster than
(b) the loop of (a) without its compilations. Losses are those of the runs in turn to 1e-5, in
float64 and in float32. Cost: 3 minutes on 2 CPU cores.
    python -m experiments speed.sweep
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.sweep import runs
from library import claims, report, sweep, timing

IN_TURN = claims.baseline("the same runs in turn, same process")


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
    sizes = runs.Sizes(
        config.num_runs, config.num_steps, config.batch_size, config.width, config.depth
    )
    parts = runs.parts(sizes)
    batches, rngs, hyper = data = runs.data(sizes, jnp.float32)
    cold, user_cold = runs.cold_seconds(sizes, "many"), runs.cold_seconds(sizes, "loop")
    many, one = sweep.compile_many(*parts, *data), jax.jit(sweep.train_one(*parts))
    updates = [runs.update(rate) for rate in np.asarray(hyper["rate"])]
    times = timing.alternate(
        {
            "many": lambda: many(*data),
            "loop": lambda: runs.by_loop(parts[0], updates, batches, rngs),
            "scan": lambda: runs.by_scan(one, *data),
        },
        config.rounds,
    )
    gaps = {"float32": runs.gap(many(*data)[1], runs.by_loop(parts[0], updates, batches, rngs))}
    with jax.enable_x64(True):  # the loop's rates are those of float32
        wide = runs.data(sizes, jnp.float64)
        exact = {"rate": jnp.asarray(np.asarray(hyper["rate"]), jnp.float64)}
        losses = sweep.train_many(*parts, wide[0], rngs, exact)[1]
        gaps["float64"] = runs.gap(losses, runs.by_loop(parts[0], updates, wide[0], rngs))
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
    user = "(a) times faster than a user's loop, compilations on both sides"
    scan = "(c) times faster than one compiled scan in turn"
    stated = [
        claims.at_least(user, gains["a"], 3.0, source=IN_TURN),
        claims.at_least(
            "(b) times faster than that loop, compiled", gains["b"], 1.0, source=IN_TURN
        ),
        claims.at_least(scan, gains["c"], 3.0, source=IN_TURN),
    ]
    for name, gap in gaps.items():
        what = f"largest relative gap of a loss, {name}"
        stated.append(claims.at_most(what, gap, 1e-5, source=IN_TURN))
    return claims.Result(metrics, stated)
