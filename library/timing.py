"""Times of alternating calls in one process: ratios hold where a machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each run in each round, [rounds] by name; the order turns round by round.

    The first round warms caches and compiles; it is not counted. Results are waited for.
    """
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 1):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            taken = seconds(runs[name])
            if index:
                times[name].append(taken)
    return {name: np.array(values) for name, values in times.items()}


def seconds(function: Callable[[], object]) -> float:
    """Wall seconds of one call and of waiting for its result."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def median_ratio(times: Mapping[str, np.ndarray], ours: str, theirs: str) -> float:
    """Median over rounds of ours / theirs."""
    return float(np.median(times[ours] / times[theirs]))


def compiled_bytes(function: Callable, *args: object) -> int:
    """Peak memory of a jitted function by XLA's own account: arguments, outputs, temporaries."""
    analysis = function.lower(*args).compile().memory_analysis()
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
