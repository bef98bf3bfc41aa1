"""What does the shared training step cost beside the same update written by hand?

Claims: step time <= 1.03 and compiled memory <= 1.05 of one hand-written jitted update (MLP 8x32
and a U-Net); the loop with all hooks <= 1.05 of a bare loop; ten steps per call >= 1.2 times faster
than one on the MLP; `import library.train_step` <= 1.15 of importing its packages.
Cost: 3 minutes on 2 CPU cores.
    python -m experiments speed.train_step
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np

from experiments.speed.train_step import cases, pairs
from experiments.speed.train_step.cases import Case
from library import claims, report

BY_HAND = claims.baseline("the same update in one jitted function by hand, same process")
BARE = claims.baseline("a bare loop over the same compiled step, same process")
ONE_STEP = claims.baseline("one step per call by the same loop, same process")
PACKAGES = claims.baseline("import of jax, optax and flax.linen in a fresh process")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    mlp_rounds: int = 25  # alternations of each pair on the MLP that are counted
    mlp_layers: int = 8  # of the MLP, 32 wide
    mlp_steps: int = 200  # updates of the MLP in one timing
    unet_rounds: int = 9  # alternations of each pair on the U-Net that are counted
    unet_steps: int = 10  # updates of the U-Net in one timing
    unet_batch: int = 4  # examples in a batch of the U-Net
    unet_channels: tuple[int, ...] = (32, 64, 64)  # of the U-Net, by resolution
    unet_blocks: int = 1  # residual blocks a resolution on the U-Net's way down
    imports: int = 5  # fresh processes per import time


PRESETS = {
    "smoke": Config(
        mlp_rounds=1,
        mlp_layers=1,
        mlp_steps=10,
        unet_rounds=1,
        unet_steps=1,
        unet_batch=2,
        unet_channels=(8,),
        unet_blocks=0,
        imports=1,
    ),
    "default": Config(),
    "accelerator": Config(mlp_steps=1000, unet_steps=20, unet_batch=128),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times every pair and states the claims."""
    mlp = cases.mlp(config.mlp_layers, config.mlp_steps, config.mlp_rounds)
    unet = cases.small_unet(
        config.unet_channels,
        config.unet_blocks,
        config.unet_batch,
        config.unet_steps,
        config.unet_rounds,
    )
    return _case("mlp", mlp, many=True) + _case("unet", unet) + _imports(config.imports)


def _case(name: str, case: Case, many: bool = False) -> claims.Result:
    """Step and loop of a case beside their counterparts; many: and ten steps a call."""
    step, state, optimizer = pairs.compiled(case)
    step_ratio, memory_ratio = pairs.against_hand(case, step, state, optimizer)
    metrics = {f"{name}_step_ratio": step_ratio, f"{name}_memory_ratio": memory_ratio}
    metrics |= pairs.loops(name, case, step, state, many=many)
    loop_ratio = metrics[f"{name}_loop_ratio"]
    stated = [
        claims.at_most(f"{name}: step time / by hand", step_ratio, 1.03, source=BY_HAND),
        claims.at_most(f"{name}: compiled memory / by hand", memory_ratio, 1.05, source=BY_HAND),
        claims.at_most(f"{name}: loop with hooks / bare loop", loop_ratio, 1.05, source=BARE),
    ]
    if many:
        what, gain = f"{name}: gain of ten steps per call", f"{name}_ten_steps_per_call_gain"
        stated.append(claims.at_least(what, metrics[gain], 1.2, source=ONE_STEP))
    return claims.Result(metrics, stated)


def _imports(repeats: int) -> claims.Result:
    """Median import time of `library.train_step` over that of the packages it stands on."""
    times = {
        name: [_import_seconds(name) for _ in range(repeats)]
        for name in ("import library.train_step", "import jax, optax, flax.linen")
    }
    ours, theirs = (np.array(values) for values in times.values())
    ratio = float(np.median(ours / theirs))
    what = "import / import of its packages"
    return claims.Result(
        {"import_ratio": ratio}, [claims.at_most(what, ratio, 1.15, source=PACKAGES)]
    )


def _import_seconds(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    root = pathlib.Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    return float(run.stdout)
