"""Are random views of images made as fast as by torchvision?

Claims: views a second of SimCLR's recipe on all cores, of small images (32 pixels, no blur) and
large ones (224, blur), at least those of torchvision's v2 transforms in a process a core, on floats
and on bytes, in turn; small images in one program are as fast as one at a time, or faster.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments speed.augmentation --peer VENV/bin/python

The peer's interpreter needs torch and torchvision. Without --peer only our own views are timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import numpy as np

from experiments.speed.augmentation import ours
from library import claims, report, timing

PEER = claims.baseline("torchvision's v2 transforms, a process a core, in turn")
ALONE = claims.baseline("the same program, an image a call, same run")
SOURCES = {"alone": ALONE, "float32": PEER, "uint8": PEER}
BESIDE = {"alone": "one image a call", "float32": "torchvision's of floats",
          "uint8": "torchvision's of bytes"}  # fmt: skip

CORES_AS_DEVICES = True  # a batch is spread over the cores: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    peer: str = ""  # a Python with torch and torchvision; empty: none
    rounds: int = 9  # alternations that are counted
    small: int = 32  # pixels of a side, without blur
    small_batch: int = 512  # images
    small_share: int = 250  # views of each of the peer's processes
    large: int = 224  # pixels of a side, with blur
    large_batch: int = 64  # images
    large_share: int = 30  # views of each of the peer's processes
    alone: int = 64  # small images one at a time


PRESETS = {
    "smoke": Config("", 1, 8, 4, 2, 12, 2, 2, alone=2),
    "default": Config(),
    "accelerator": Config(small_batch=4096, large_batch=512),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times both sizes, one after the other."""
    cases = {
        "small": (config.small, config.small_batch, config.small_share, False),
        "large": (config.large, config.large_batch, config.large_share, True),
    }
    result = claims.Result()
    for name, (size, batch, share, blur) in cases.items():
        sides, made = {"ours": ours.maker(size, batch, blur)}, {"ours": 2 * batch}
        if name == "small":
            sides["alone"], made["alone"] = ours.one_at_a_time(size, config.alone), 2 * config.alone
        with workers(config.peer, size, blur, share) as theirs:
            sides |= theirs
            made |= {kind: share * len(cores()) for kind in theirs}
            seconds = timing.alternate(sides, config.rounds)
        result += compared(name, {side: made[side] / seconds[side] for side in sides})
    return result


def compared(name: str, rates: dict[str, np.ndarray]) -> claims.Result:
    """Views a second [rounds] by side: medians, and ratios of ours to the others."""
    metrics = {f"{name}_{side}": float(np.median(values)) for side, values in rates.items()}
    stated = [
        claims.at_least(
            f"{name}: views a second / {BESIDE[side]}",
            timing.median_ratio(rates, "ours", side), 1.0, SOURCES[side],
        )
        for side in rates if side != "ours"
    ]  # fmt: skip
    return claims.Result(metrics, stated)


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _end(one: subprocess.Popen) -> None:
    """Closes what a process reads, which may have ended, and waits for it."""
    with contextlib.suppress(BrokenPipeError):
        one.stdin.close()
    one.stdout.close()
    one.wait()


@contextlib.contextmanager
def workers(python: str, size: int, blur: bool, count: int) -> Iterator[dict[str, Callable]]:
    """Inside, by type of number, calls that have each of the peer's processes make `count` views.

    Raises:
        ValueError: if the peer cannot be run.
    """
    if not python:
        yield {}
        return
    script = pathlib.Path(__file__).with_name("peer.py")
    with contextlib.ExitStack() as stack:
        running = []
        for core in cores():
            words = [python, str(script), *map(str, (core, size, int(blur), count))]
            try:
                one = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True,
                )  # fmt: skip
            except OSError as error:
                raise ValueError(f"peer={python} cannot be run: {error.strerror}") from None
            running.append(one)
            stack.callback(_end, one)

        def made(kind: str) -> None:
            with contextlib.suppress(BrokenPipeError):
                for one in running:
                    print(kind, file=one.stdin, flush=True)
            for one in running:
                if not one.stdout.readline():
                    raise ValueError(f"peer={python} ended early")

        yield {kind: lambda kind=kind: made(kind) for kind in ("float32", "uint8")}
