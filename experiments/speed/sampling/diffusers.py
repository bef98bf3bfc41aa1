"""Our U-Net and samplers beside those of diffusers, alternating in one process on one core.

    python -m experiments.speed.sampling.diffusers ROUNDS BATCH CHANNELS...

prints seconds as JSON, {job: {"ours": [...], "theirs": [...]}}. It runs in a process of its own
because both frameworks must see a single core before they start. Both networks have 1,113,955
parameters at channels 32 64 64; the values differ, which no time depends on. Both sides use their
defaults: channels last and one compiled call here, channels first and eager calls there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[3]
JOBS = ("forward", "ddim_20", "dpm_pp_2m_10", "heun_18", "train_step")
PACKAGES = ("torch", "diffusers")


def available() -> bool:
    """Whether the packages of the other side are installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def pin_to_one_core() -> None:
    """One core for this process and one thread for each framework; before either is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", JAX_PLATFORMS="cpu")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def seconds(rounds: int, batch: int, channels: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Seconds of both sides by job, [rounds], from a process of its own.

    Raises:
        RuntimeError: with the end of its messages, if that process fails.
    """
    numbers = map(str, (rounds, batch, *channels))
    command = [sys.executable, "-m", "experiments.speed.sampling.diffusers", *numbers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"comparison with diffusers failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Times all jobs and prints the seconds."""
    rounds, batch, *channels = map(int, arguments)
    pin_to_one_core()
    from library import timing

    ours, theirs = our_jobs(tuple(channels), batch), their_jobs(tuple(channels), batch)
    found = {}
    for job in JOBS:
        times = timing.alternate({"ours": ours[job], "theirs": theirs[job]}, rounds)
        found[job] = {side: values.tolist() for side, values in times.items()}
    print(json.dumps(found))


def our_jobs(channels: tuple[int, ...], batch: int) -> dict[str, Callable]:
    """The jobs as single jitted calls."""
    import jax
    import jax.numpy as jnp
    import optax

    from library.train_step import init_state, make_train_step
    from research.diffusion import losses, predictions, processes, samplers, unet

    model = unet.UNet(
        out_channels=3, channels=channels, attention_sizes=(16,), head_dim=min(32, channels[-1])
    )
    process = processes.vp()
    x = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))
    t = jnp.linspace(0.1, 0.9, batch)
    params = jax.jit(model.init)(jax.random.key(0), x, t)

    def sampling(solver: samplers.Solver, grid: samplers.Grid) -> Callable:
        @jax.jit
        def draw(params, rng):
            predict = lambda x, t: model.apply(params, x, t)
            score = predictions.to_score(process, predict, "noise")
            return samplers.sample(score, process, rng, x.shape, solver=solver, grid=grid)[0]

        return lambda: draw(params, jax.random.key(2))

    optimizer = optax.adamw(1e-4)
    loss_fn = losses.denoising_score_matching(process, model.apply)
    step = jax.jit(make_train_step(loss_fn, optimizer, ema_decay=0.999), donate_argnums=0)
    states = [init_state(params, optimizer, jax.random.key(3), ema=True)]
    states = [jax.tree.map(jnp.copy, states[0])]

    def train() -> jax.Array:
        states[0], metrics = step(states[0], {"image": x})
        return metrics["loss"], states[0].params

    forward = jax.jit(model.apply)
    karras = samplers.karras_grid
    return {
        "forward": lambda: forward(params, x, t),
        "ddim_20": sampling(samplers.ddim(), karras(20, to_zero=True)),
        "dpm_pp_2m_10": sampling(samplers.dpm_solver_pp(), karras(10, to_zero=True)),
        "heun_18": sampling(samplers.heun(), karras(18, to_zero=True)),
        "train_step": train,
    }


def their_jobs(channels: tuple[int, ...], batch: int) -> dict[str, Callable]:
    """The same with diffusers' network and schedulers, and torch's fused moving average."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    attends = [index == 1 for index in range(len(channels))]  # at 16 x 16
    model = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=min(32, channels[-1]),
        norm_num_groups=8,
    )
    x = torch.randn(batch, 3, 32, 32)
    t = torch.linspace(100, 900, batch).long()

    def forward() -> None:
        with torch.no_grad():
            model(x, t)

    def sampling(scheduler: object, num_steps: int) -> Callable:
        def run() -> None:
            scheduler.set_timesteps(num_steps)
            state = torch.randn(x.shape) * scheduler.init_noise_sigma
            with torch.no_grad():
                for time in scheduler.timesteps:
                    scaled = scheduler.scale_model_input(state, time)
                    noise = model(scaled, time).sample
                    state = scheduler.step(noise, time, state).prev_sample

        return run

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    parameters = list(model.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    alphas = diffusers.DDPMScheduler()

    def train() -> None:
        noise, time = torch.randn(x.shape), torch.randint(0, 1000, (batch,))
        loss = ((model(alphas.add_noise(x, noise, time), time).sample - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 0.001)

    return {
        "forward": forward,
        "ddim_20": sampling(diffusers.DDIMScheduler(), 20),
        "dpm_pp_2m_10": sampling(diffusers.DPMSolverMultistepScheduler(), 10),
        "heun_18": sampling(diffusers.HeunDiscreteScheduler(), 18),
        "train_step": train,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
