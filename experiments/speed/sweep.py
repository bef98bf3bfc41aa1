"""What does one compiled sweep gain over the same runs in turn?

Claims: 32 learning rates of a 10^5-parameter model, vmapped, give the losses of 32 runs in turn to
1e-5 and are at least 3 times faster on 2 idle CPU cores. Cost: 1 minute on 2 idle CPU cores.
    python -m experiments speed.sweep

Both sides are `library.sweep`: the vmapped program, and its body compiled once and called 32 times
with another learning rate, so that neither side pays for 32 compilations or for dispatch by step.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.speed import _timing
from library import report, sweep, testing
from library.types import Aux

SOURCE = "the same runs in turn by one compiled program, same process"


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


def run(config: Config, out: report.RunDir) -> report.Result:
    """Times both sides in turn and compares their losses."""
    sizes = (16,) + (config.width,) * config.depth + (1,)
    x = np.random.default_rng(0).normal(size=(config.num_steps, config.batch_size, 16))
    batches = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(np.sin(x.sum(-1)), jnp.float32)}
    rates = jnp.geomspace(1e-5, 3e-3, config.num_runs)
    rngs = jax.random.split(jax.random.key(0), config.num_runs)
    parts = (lambda rng: testing.mlp_init(rng, sizes), _loss, lambda rate: optax.adam(rate))
    one = jax.jit(sweep.train_one(*parts))
    together = jax.jit(jax.vmap(sweep.train_one(*parts), in_axes=(None, 0, 0)))

    def in_turn() -> list[jax.Array]:
        runs = zip(rngs, rates)
        return [one(batches, rng, {"rate": rate})[1] for rng, rate in runs]

    def at_once() -> jax.Array:
        return together(batches, rngs, {"rate": rates})[1]

    times = _timing.alternate({"in_turn": in_turn, "at_once": at_once}, config.rounds)
    turn, once = np.stack(in_turn()), np.asarray(at_once())
    gap = float(np.max(np.abs(once / turn - 1)))
    gain = 1 / _timing.median_ratio(times, "at_once", "in_turn")
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(parts[0], rngs[0])))
    metrics = {
        "parameters": count,
        "gain": gain,
        "largest_relative_gap": gap,
        "at_once_seconds": float(np.median(times["at_once"])),
        "in_turn_seconds": float(np.median(times["in_turn"])),
    }
    claims = [
        report.Claim("largest relative gap of a loss", gap, 1e-5, "<=", 0.0, SOURCE),
        report.Claim("times faster than in turn", gain, 3.0, ">=", 0.0, SOURCE),
    ]
    return report.Result(metrics, claims)


def _loss(params, model_state, rng, batch) -> tuple[jax.Array, Aux]:
    error = testing.mlp_apply(params, batch["x"])[:, 0] - batch["y"]
    return (error**2).mean(), Aux(batch["y"].size)
