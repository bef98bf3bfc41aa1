"""Which models train faster where every core of a CPU is a device of its own?

Claims: the image studies, which make their cores devices, gain by it: an update of the U-Net of
`score_sde.digits` at least 1.05, of 28x28 images at least 1.2, drawing digits at least 1.3 times.
Perceptrons and transformers, which share their products among the cores of one device anyway and
keep to one, would gain at most 1.15 times.
Cost: 4 minutes on 2 CPU cores.
    python -m experiments speed.cores
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.speed.cores import cases
from library import claims, report, sharding, timing

ONE = claims.baseline("the same on one of the devices, same process")
LEAST = {"digits": 1.05, "images": 1.2, "draws": 1.3}
MOST = {"vit": 1.15, "decoder": 1.15, "perceptron": 1.15}
CORES_AS_DEVICES = True  # what is measured: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    timed: tuple[str, ...] = cases.NAMES  # of digits images vit decoder perceptron draws
    rounds: int = 9  # alternations that are counted
    num_steps: int = 4  # updates in one timing
    batch_size: int = 128  # of the digits and the perceptron; others take half or a tenth
    channels: tuple[int, ...] = (32, 32)  # of the U-Net of digits; the other doubles the second
    width: int = 512  # of the perceptron; transformers take a quarter
    num_draws: int = 500  # digits that are drawn
    draw_steps: int = 20  # evaluations of the network for each


PRESETS = {
    "smoke": Config(
        ("decoder", "perceptron"), rounds=1, num_steps=1, batch_size=4, channels=(8,), width=32
    ),
    "default": Config(),
    "accelerator": Config(batch_size=512),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times every case on one device and on all of them."""
    unknown = [name for name in config.timed if name not in cases.NAMES]
    if unknown:
        raise ValueError(f"--timed {unknown[0]}: expected some of {' '.join(cases.NAMES)}")
    found = claims.Result({"num_devices": jax.device_count()})
    for name, case in cases.training(config.batch_size, config.channels, config.width).items():
        if name not in config.timed:
            continue
        updates = {
            axes: cases.updates(case, sharding.make_mesh({"data": axes}), config.num_steps)
            for axes in (1, jax.device_count())
        }
        found += _compare(name, updates, config.rounds, config.num_steps)
    if "draws" in config.timed:
        draws = cases.draws(config.channels, config.num_draws, config.draw_steps)
        found += _compare("draws", draws, config.rounds, 1)
    return found


def _compare(name: str, runs: dict, rounds: int, count: int) -> claims.Result:
    """Milliseconds on one device, and how many times faster all of them are."""
    one, several = min(runs), max(runs)
    if one == several:
        return claims.Result()
    times = timing.alternate({str(axes): run for axes, run in runs.items()}, rounds)
    gain = timing.median_ratio(times, str(one), str(several))
    metrics = {
        f"{name}_ms": 1e3 * float(np.median(times[str(one)])) / count,
        f"{name}_gain": gain,
    }
    what = f"{name}: gain of a device for each core"
    if name in LEAST:
        return claims.Result(metrics, [claims.at_least(what, gain, LEAST[name], source=ONE)])
    return claims.Result(metrics, [claims.at_most(what, gain, MOST[name], source=ONE)])
