"""Are training steps of a VAE and of a DCGAN as fast as the same models in eager PyTorch?

Claims: time of one update of the IWAE paper's network, and of one round of DCGAN (critic, then
generator), at most that of the same model, batch and optimizer in eager PyTorch on the same cores
in the same process; a round as one call is no slower than its two halves as two.
Cost: 1 minute on 2 CPU cores.
    python -m experiments speed.generative

Without PyTorch only our own times are measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import numpy as np

from experiments.speed.generative import ours
from library import claims, report, timing

PEER = claims.baseline("the same model and update in PyTorch, eager, same process and cores")
HALVES = claims.baseline("the same round as two compiled calls, same run")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    rounds: int = 15  # alternations that are counted
    vae_steps: int = 50  # updates of the VAE in one timing
    vae_batch: int = 100  # images of 28x28 per update
    gan_steps: int = 3  # rounds of DCGAN in one timing
    gan_batch: int = 64  # images per round
    resolution: int = 32  # of DCGAN's images
    width: int = 32  # of DCGAN; doubled at each halving


PRESETS = {
    "smoke": Config(1, 2, 4, 1, 4, resolution=8, width=2),
    "default": Config(),
    "accelerator": Config(gan_batch=128, resolution=64, width=64),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times both sides of each pair in turn."""
    sides = {
        "vae": {"ours": ours.vae(config.vae_batch, config.vae_steps)},
        "dcgan": ours.dcgan(config.gan_batch, config.gan_steps, config.resolution, config.width),
    }
    if importlib.util.find_spec("torch") is not None:
        from experiments.speed.generative import peer

        threads = len(os.sched_getaffinity(0))
        sides["vae"]["torch"] = peer.vae(config.vae_batch, config.vae_steps, threads)
        sides["dcgan"]["torch"] = peer.dcgan(
            config.gan_batch, config.gan_steps, config.resolution, config.width, threads
        )
    counts = {"vae": config.vae_steps, "dcgan": config.gan_steps}
    times = {name: timing.alternate(runs, config.rounds) for name, runs in sides.items()}
    return compared(times, counts)


def compared(times: dict[str, dict[str, np.ndarray]], counts: dict[str, int]) -> claims.Result:
    """Milliseconds of an update of each side, and ratios of ours to the others."""
    metrics, stated = {}, []
    for name, seconds in times.items():
        for side, values in seconds.items():
            metrics[f"{name}_{side}_milliseconds"] = float(np.median(values) / counts[name] * 1e3)
        if "torch" in seconds:
            metrics[f"{name}_ratio"] = timing.median_ratio(seconds, "ours", "torch")
            stated.append(
                claims.at_most(f"{name}: update / PyTorch", metrics[f"{name}_ratio"], 1.0, PEER)
            )
    halves = timing.median_ratio(times["dcgan"], "ours", "halves")
    stated.append(claims.at_most("dcgan: a round in one call / in two", halves, 1.02, HALVES))
    return claims.Result({**metrics, "dcgan_halves_ratio": halves}, stated)
