"""What does sampling cost beside the bare network, and beside diffusers?

Claims: a guided generation takes at most 2 % longer than as many evaluations of the network on the
batch of both prompts; images a second at least those of diffusers in eager PyTorch on the same
folder and cores, in turn. Cost: 2 minutes on 2 CPU cores.
    python -m experiments speed.text_to_image --peer VENV/bin/python

The peer's interpreter needs torch, diffusers and transformers. Without --peer only our own times
are measured. A U-Net of 1.1 million parameters in Stable Diffusion's shape, random.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import time

import jax
import numpy as np

from experiments.speed.text_to_image import ours
from library import claims, report, timing
from research.text_to_image import pipeline, weights

BARE = claims.baseline("as many evaluations of the network alone, in one compiled loop, same run")
PEER = claims.baseline("diffusers in eager PyTorch, the same folder and cores, in turn")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    peer: str = ""  # a Python with torch, diffusers and transformers; empty: none
    rounds: int = 9  # alternations that are counted
    batch: int = 4  # images of a generation
    steps: int = 20  # of DDIM
    width: int = 32  # channels of the U-Net at its finest resolution
    size: int = 16  # height and width of the latents
    published: bool = False  # Stable Diffusion 1.5's shape instead, in bfloat16


PRESETS = {
    "smoke": Config(rounds=1, batch=1, steps=2, width=4, size=4),
    "default": Config(),
    "accelerator": Config(batch=8, steps=50, published=True),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times a generation, its latents alone, the bare network, and the peer, in turn."""
    made, params = ours.build(config.width, config.size, config.published)
    sides = ours.loops(made, params, config.batch, config.steps)
    prompts = ["a red circle"] * config.batch

    def draw() -> float:
        images, _ = pipeline.generate(
            made, params, prompts, jax.random.key(0), config.steps, 4.0, solver=None
        )
        return float(images[0, 0, 0, 0])

    sides["ours"] = draw
    seconds = timing.alternate(sides, config.rounds)
    overhead = timing.median_ratio(seconds, "latents", "bare")
    metrics = {f"{name}_seconds": float(np.median(each)) for name, each in seconds.items()}
    metrics["images_per_second"] = config.batch / metrics["ours_seconds"]
    stated = [claims.at_most("guided sampling / bare network", overhead, 1.02, BARE)]
    if config.peer:
        weights.save(out.path / "model", made, params)
        theirs, own = beside(config, out.path / "model", draw)
        ratio = float(np.median(theirs / own))
        metrics |= {"peer_seconds": float(np.median(theirs)), "ours_beside": float(np.median(own))}
        stated.append(claims.at_least("images a second / diffusers", ratio, 1.0, PEER))
    return claims.Result(metrics, stated)


def beside(config: Config, folder: pathlib.Path, draw) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the peer's generations and of ours, in turn.

    Raises:
        ValueError: if the peer cannot be run.
    """
    script = pathlib.Path(__file__).with_name("peer.py")
    numbers = (config.batch, config.steps, len(os.sched_getaffinity(0)))
    words = [config.peer, str(script), str(folder), *map(str, numbers)]
    try:
        peer = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"peer={config.peer} cannot be run: {error.strerror}") from None
    found = []
    with peer:
        for _ in range(config.rounds):
            print("draw", file=peer.stdin, flush=True)
            answer = peer.stdout.readline()
            if not answer:
                raise ValueError(f"peer={config.peer} ended early")
            start = time.perf_counter()
            draw()
            found.append((float(answer), time.perf_counter() - start))
        peer.stdin.close()
    return tuple(np.array(found).T)
