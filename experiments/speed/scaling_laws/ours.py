"""Our side of `speed.scaling_laws`: the timed work of one fresh process.

    python -m experiments.speed.scaling_laws.ours STARTS RESAMPLES MANY_STARTS

prints seconds as JSON: cold (compilation included), warm, and of many starts if there are any.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from experiments.speed.scaling_laws import references
from research.scaling_laws import fitting, laws, published

ROOT = pathlib.Path(__file__).parents[3]


def seconds(grid_starts: int, num_resamples: int, many_starts: int) -> dict[str, float]:
    """Seconds of a fresh process without a compilation cache, and its lowest objective."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    numbers = map(str, (grid_starts, num_resamples, many_starts))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.scaling_laws.ours", *numbers],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(grid_starts: int, num_resamples: int, many_starts: int) -> None:
    """The timed work of one fresh process; prints JSON."""
    data = published.chinchilla()
    names = ("A", "B", "E", "alpha", "beta")
    starts = [
        dict(zip(names, (*np.exp(start[:3]), *start[3:])))
        for start in references.grid()[:grid_starts]
    ]
    counts = fitting.resample_counts(np.random.default_rng(42), len(data), num_resamples)

    def both() -> fitting.Fit:
        fit = fitting.fit(
            laws.chinchilla, data, method="newton", starts=starts, delta=references.DELTA
        )
        fitting.bootstrap_from(fit, counts, fit.theta[:, None])
        return fit

    times = [time.perf_counter()]
    fit = both()
    times.append(time.perf_counter())
    both()
    times.append(time.perf_counter())
    seconds = dict(zip(("cold", "warm"), np.diff(times).tolist()))
    if many_starts:
        grid = fitting.fit(laws.chinchilla, data, delta=references.DELTA)
        restarts = fitting.restarts(grid, many_starts)
        began = time.perf_counter()
        fitting.bootstrap_from(grid, counts, restarts)
        seconds["many"] = time.perf_counter() - began
    print(json.dumps(seconds | {"objective": fit.objective}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
