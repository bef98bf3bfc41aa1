"""What our samplers cost above the network that they evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from library import timing
from library.types import Params
from research.diffusion import mlp, predictions, samplers, unet
from research.diffusion.processes import Process


def unet_ratio(
    process: Process,
    channels: Sequence[int],
    num_blocks: int,
    batch: int,
    num_steps: int,
    rounds: int,
) -> float:
    """Time of a sample over that of as many calls of the jitted network."""
    channels, shape = tuple(channels), (batch, 32, 32, 3)
    model = unet.UNet(
        out_channels=3,
        channels=channels,
        num_blocks=num_blocks,
        attention_sizes=(16,),
        head_dim=min(32, channels[-1]),
    )
    rng = np.random.default_rng(0)
    normal = lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape).astype(np.float32))
    t = jnp.asarray(np.linspace(0.1, 0.9, batch, dtype=np.float32))
    x = normal(np.empty(shape))
    # No time depends on the values, and `init` compiles for longer than all of them are drawn.
    params = jax.tree.map(normal, jax.eval_shape(model.init, jax.random.key(0), x, t))
    forward, grid = jax.jit(model.apply), samplers.karras_grid(num_steps, to_zero=True)
    draw, nfe = _sampler(process, model.apply, params, shape, samplers.dpm_solver_pp(), grid)

    def calls() -> jax.Array:
        for _ in range(nfe):
            value = forward(params, x, t)
            value.block_until_ready()
        return value

    times = timing.alternate({"sample": draw, "calls": calls}, rounds)
    return timing.median_ratio(times, "sample", "calls")


def toy_overhead(process: Process, width: int, batch: int, num_steps: int, rounds: int) -> float:
    """Median microseconds that a whole sampler adds to each evaluation of a perceptron."""
    model = mlp.MLP(width, depth=3)
    x, t = jnp.ones((batch, 2)), jnp.linspace(0.1, 0.9, batch)
    params = jax.jit(model.init)(jax.random.key(0), x, t)
    grid = samplers.log_snr_grid(num_steps)
    draw, nfe = _sampler(process, model.apply, params, x.shape, samplers.heun(), grid)

    @jax.jit
    def bare(params: Params, x: jax.Array) -> jax.Array:
        times = jnp.linspace(1.0, 0.0, nfe)
        body = lambda x, t: (model.apply(params, x, jnp.broadcast_to(t, x.shape[:1])), None)
        return jax.lax.scan(body, x, times)[0]

    times = timing.alternate({"sample": draw, "bare": lambda: bare(params, x)}, rounds)
    return float(np.median(times["sample"] - times["bare"]) / nfe * 1e6)


def _sampler(
    process: Process,
    apply: Callable,
    params: Params,
    shape: tuple[int, ...],
    solver: samplers.Solver,
    grid: samplers.Grid,
) -> tuple[Callable, int]:
    """A call that draws one batch of samples in one jit, and its number of evaluations."""

    @jax.jit
    def draw(params: Params, rng: jax.Array) -> jax.Array:
        predict = lambda x, t: apply(params, x, t)
        score = predictions.to_score(process, predict, "noise")
        return samplers.sample(score, process, rng, shape, solver=solver, grid=grid)[0]

    nfe = jax.eval_shape(lambda: samplers.solver_table(solver, process, grid)).num_rows
    return lambda: draw(params, jax.random.key(2)), nfe
