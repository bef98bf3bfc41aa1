"""What do our samplers and likelihoods cost above the network, and beside other libraries?

Claims: sampling time <= 1.02 of its evaluations of a jitted U-Net of 1.11 M parameters, at batch 4
and 32; <= 40 microseconds an evaluation above the bare perceptron; as fast as diffusers on the same
U-Net on one core, in five jobs; adaptive likelihood >= 2 times faster than SciPy's RK45 outside.
Cost: 2 minutes on 2 idle CPU cores.
    python -m experiments speed.sampling

The comparison with diffusers runs where torch and diffusers are installed; neither is needed
elsewhere. Without them it is not run, and its claims are not made.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.sampling import diffusers, likelihood
from library import claims, report, timing
from library.types import Params
from research.diffusion import mlp, predictions, processes, samplers, unet

PROCESS = processes.vp()


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    rounds: int = 7  # alternations of each pair that are counted
    unet_channels: tuple[int, ...] = (32, 64, 64)  # of the U-Net on 32x32x3, by resolution
    unet_batches: tuple[int, ...] = (4, 32)  # examples in a batch of the U-Net
    unet_steps: int = 10  # evaluations of the U-Net in a sample
    toy_width: int = 128  # of the perceptron with three hidden layers on points in the plane
    toy_batch: int = 64  # points sampled at once
    toy_steps: int = 100  # steps of Heun, two evaluations each
    likelihood_steps: int = 1000  # updates of the perceptron whose likelihood is evaluated
    likelihood_batch: int = 256  # points evaluated at once
    peers: bool = True  # whether to compare with diffusers where it is installed
    peer_batch: int = 4  # examples in a batch of that comparison


PRESETS = {
    "smoke": Config(
        rounds=1,
        unet_channels=(8,),
        unet_batches=(2,),
        unet_steps=2,
        toy_width=16,
        toy_steps=4,
        likelihood_steps=10,
        likelihood_batch=8,
        peers=False,
    ),
    "default": Config(),
    "accelerator": Config(unet_batches=(32, 256), toy_batch=1024, peers=False),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times every pair and states the claims."""
    metrics, stated = {}, []
    for batch in config.unet_batches:
        ratio = _unet_ratio(config, batch)
        metrics[f"unet_sampling_ratio_batch_{batch}"] = ratio
        name = f"U-Net, batch {batch}: sampling time / (evaluations x jitted forward)"
        stated.append(claims.at_most(name, ratio, 1.02, source=_FORWARD))
    overhead = _toy_overhead(config)
    metrics["toy_overhead_microseconds"] = overhead
    name = "perceptron: microseconds an evaluation above the bare network"
    stated.append(claims.at_most(name, overhead, 40.0, source=_BARE))
    found = likelihood.compare(
        PROCESS, config.toy_width, config.likelihood_steps, config.likelihood_batch, config.rounds
    )
    metrics |= found
    name = "adaptive likelihood: SciPy's RK45 on the host / ours inside jit, time"
    stated.append(claims.at_least(name, found["likelihood_gain"], 2.0, source=_HOST))
    if config.peers and diffusers.available():
        for job, times in _against_diffusers(config).items():
            ratio = timing.median_ratio(times, "ours", "theirs")
            metrics |= {
                f"peer_{job}_ratio": ratio,
                f"peer_{job}_milliseconds_ours": float(1e3 * np.median(times["ours"])),
                f"peer_{job}_milliseconds_theirs": float(1e3 * np.median(times["theirs"])),
            }
            name = f"{job}: time / that of diffusers, one core"
            stated.append(claims.at_most(name, ratio, 1.0, source=_PEER))
    elif config.peers:
        print("comparison with diffusers: not run, torch or diffusers is not installed")
    return claims.Result(metrics=metrics, claims=stated)


_FORWARD = claims.baseline("the jitted network called as many times, same process")
_BARE = claims.baseline("the network alone in a scan of as many steps, one jit, same process")
_HOST = claims.baseline(
    "scipy.integrate.solve_ivp over one jitted function, equal tolerance, same process"
)
_PEER = claims.baseline("diffusers on the U-Net of the same shape, same process pinned to one core")


def _unet_ratio(config: Config, batch: int) -> float:
    """Time of a sample over that of as many calls of the jitted network."""
    channels, shape = config.unet_channels, (batch, 32, 32, 3)
    model = unet.UNet(
        out_channels=3, channels=channels, attention_sizes=(16,), head_dim=min(32, channels[-1])
    )
    t = jnp.linspace(0.1, 0.9, batch)
    x = jax.random.normal(jax.random.key(1), shape)
    params = jax.jit(model.init)(jax.random.key(0), x, t)
    forward, grid = jax.jit(model.apply), samplers.karras_grid(config.unet_steps, to_zero=True)
    draw, nfe = _sampler(model.apply, params, shape, samplers.dpm_solver_pp(), grid)

    def calls() -> jax.Array:
        for _ in range(nfe):
            value = forward(params, x, t)
            value.block_until_ready()
        return value

    times = timing.alternate({"sample": draw, "calls": calls}, config.rounds)
    return timing.median_ratio(times, "sample", "calls")


def _toy_overhead(config: Config) -> float:
    """Median microseconds that a whole sampler adds to each evaluation of a perceptron."""
    model = mlp.MLP(config.toy_width, depth=3)
    x, t = jnp.ones((config.toy_batch, 2)), jnp.linspace(0.1, 0.9, config.toy_batch)
    params = jax.jit(model.init)(jax.random.key(0), x, t)
    grid = samplers.log_snr_grid(config.toy_steps)
    draw, nfe = _sampler(model.apply, params, x.shape, samplers.heun(), grid)

    @jax.jit
    def bare(params: Params, x: jax.Array) -> jax.Array:
        times = jnp.linspace(1.0, 0.0, nfe)
        body = lambda x, t: (model.apply(params, x, jnp.broadcast_to(t, x.shape[:1])), None)  # noqa: E731
        return jax.lax.scan(body, x, times)[0]

    times = timing.alternate({"sample": draw, "bare": lambda: bare(params, x)}, 3 * config.rounds)
    return float(np.median(times["sample"] - times["bare"]) / nfe * 1e6)


def _sampler(
    apply: Callable,
    params: Params,
    shape: tuple[int, ...],
    solver: samplers.Solver,
    grid: samplers.Grid,
) -> tuple[Callable, int]:
    """A call that draws one batch of samples in one jit, and its number of evaluations."""

    @jax.jit
    def draw(params: Params, rng: jax.Array) -> jax.Array:
        predict = lambda x, t: apply(params, x, t)  # noqa: E731
        score = predictions.to_score(PROCESS, predict, "noise")
        return samplers.sample(score, PROCESS, rng, shape, solver=solver, grid=grid)[0]

    nfe = jax.eval_shape(lambda: samplers.solver_table(solver, PROCESS, grid)).num_rows
    return lambda: draw(params, jax.random.key(2)), nfe


def _against_diffusers(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of both sides by job, from a process of its own."""
    numbers = (config.rounds, config.peer_batch, *config.unet_channels)
    command = [sys.executable, "-m", "experiments.speed.sampling.diffusers", *map(str, numbers)]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"comparison with diffusers failed: {done.stderr[-2000:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {
        job: {side: np.array(values) for side, values in times.items()}
        for job, times in seconds.items()
    }
