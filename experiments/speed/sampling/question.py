"""What do our samplers and likelihoods cost above the network, and beside other libraries?

Claims: sampling time <= 1.02 of its evaluations of a jitted U-Net of 1.11 M parameters, at batch 4
and 32; <= 40 microseconds an evaluation above the bare perceptron; as fast as diffusers on the same
U-Net on one core, in five jobs; adaptive likelihood >= 2 times faster than SciPy's RK45 outside.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments speed.sampling

The comparison with diffusers runs where torch and diffusers are installed; neither is needed
elsewhere. Without them it is not run, and its claims are not made.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.speed.sampling import diffusers, likelihood, overheads
from library import claims, report, timing
from research.diffusion import processes

PROCESS = processes.vp()
FORWARD = claims.baseline("the jitted network called as many times, same process")
BARE = claims.baseline("the network alone in a scan of as many steps, one jit, same process")
HOST = claims.baseline(
    "scipy.integrate.solve_ivp over one jitted function, equal tolerance, same process"
)
PEER = claims.baseline("diffusers on the U-Net of the same shape, same process pinned to one core")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    rounds: int = 7  # alternations of each pair that are counted
    unet_channels: tuple[int, ...] = (32, 64, 64)  # of the U-Net on 32x32x3, by resolution
    unet_blocks: int = 1  # residual blocks a resolution on the U-Net's way down
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
        unet_blocks=0,
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
    result = sum((_unet(config, batch) for batch in config.unet_batches), claims.Result())
    result += _perceptron(config) + _likelihood(config)
    if config.peers and diffusers.available():
        return result + _against_diffusers(config)
    if config.peers:
        print("comparison with diffusers: not run, torch or diffusers is not installed")
    return result


def _unet(config: Config, batch: int) -> claims.Result:
    ratio = overheads.unet_ratio(
        PROCESS,
        config.unet_channels,
        config.unet_blocks,
        batch,
        config.unet_steps,
        config.rounds,
    )
    what = f"U-Net, batch {batch}: sampling time / (evaluations x jitted forward)"
    stated = [claims.at_most(what, ratio, 1.02, source=FORWARD)]
    return claims.Result({f"unet_sampling_ratio_batch_{batch}": ratio}, stated)


def _perceptron(config: Config) -> claims.Result:
    microseconds = overheads.toy_overhead(
        PROCESS, config.toy_width, config.toy_batch, config.toy_steps, 3 * config.rounds
    )
    what = "perceptron: microseconds an evaluation above the bare network"
    stated = [claims.at_most(what, microseconds, 40.0, source=BARE)]
    return claims.Result({"toy_overhead_microseconds": microseconds}, stated)


def _likelihood(config: Config) -> claims.Result:
    found = likelihood.compare(
        PROCESS, config.toy_width, config.likelihood_steps, config.likelihood_batch, config.rounds
    )
    what = "adaptive likelihood: SciPy's RK45 on the host / ours inside jit, time"
    return claims.Result(found, [claims.at_least(what, found["likelihood_gain"], 2.0, source=HOST)])


def _against_diffusers(config: Config) -> claims.Result:
    """Every job on both sides, in a process of its own."""
    metrics, stated = {}, []
    seconds = diffusers.seconds(config.rounds, config.peer_batch, config.unet_channels)
    for job, lists in seconds.items():
        times = {side: np.array(values) for side, values in lists.items()}
        ratio = timing.median_ratio(times, "ours", "theirs")
        metrics |= {
            f"peer_{job}_ratio": ratio,
            f"peer_{job}_milliseconds_ours": float(1e3 * np.median(times["ours"])),
            f"peer_{job}_milliseconds_theirs": float(1e3 * np.median(times["theirs"])),
        }
        what = f"{job}: time / that of diffusers, one core"
        stated.append(claims.at_most(what, ratio, 1.0, source=PEER))
    return claims.Result(metrics, stated)
