"""Our kernels beside the reference package's, and the structured method beside full Jacobians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.ntk import cases
from experiments.speed.ntk.cases import Case, Peer
from library import claims, timing

JACOBIANS = claims.baseline("own method of full Jacobians, same process")


def beside_peer(name: str, case: Case, peer: Peer | None, rounds: int, bar: float) -> claims.Result:
    """Seconds of ours and, where there is a peer, ratio and distance to its values."""
    ours, theirs = [], []
    for index in range(rounds + 1):
        # Both sides in turn; the first round compiles and is not counted.
        sides = ((ours, lambda: timing.seconds(case.run)),)
        if peer:
            sides += ((theirs, lambda: peer.seconds(name)),)
        for times, side in sides[:: 1 if index % 2 else -1]:
            times.append(side())
    metrics = {f"{name}_seconds": float(np.median(ours[1:]))}
    if not peer:
        return claims.Result(metrics)
    ratio = float(np.median(np.array(ours[1:]) / np.array(theirs[1:])))
    value, expected = np.asarray(case.run()), peer.value(name)
    error = float(np.max(np.abs(value - expected)) / np.max(np.abs(expected)))
    metrics[f"{name}_peer_seconds"] = float(np.median(theirs[1:]))
    metrics[f"{name}_ratio"], metrics[f"{name}_error"] = ratio, error
    source = claims.baseline(f"{peer.versions}, the same function on the same arrays in turn")
    stated = [
        claims.at_most(f"{name}: time / reference's", ratio, bar, source=source),
        claims.at_most(f"{name}: largest difference / largest entry", error, 1e-4, source=source),
    ]
    return claims.Result(metrics, stated)


def beside_jacobians(
    num_examples: int, width: int, depth: int, vocabulary: int, length: int, rounds: int
) -> claims.Result:
    """Structured against full Jacobians: time, compiled memory, and the values."""
    make, params, tokens = cases.transformer(num_examples, width, depth, vocabulary, length)
    kernels = {method: make(method) for method in ("structured", "jacobian")}
    memory = {m: timing.compiled_bytes(kernels[m], params, tokens) for m in kernels}
    runs = {m: (lambda kernel=kernels[m]: kernel(params, tokens)) for m in kernels}
    times = timing.alternate(runs, rounds)
    gain = timing.median_ratio(times, "jacobian", "structured")
    share = memory["structured"] / memory["jacobian"]
    full = np.asarray(runs["jacobian"]())
    error = float(np.max(np.abs(full - np.asarray(runs["structured"]()))) / np.max(np.abs(full)))
    name = f"transformer_{length}"
    metrics = {f"{name}_{m}_seconds": float(np.median(times[m])) for m in kernels}
    metrics |= {f"{name}_{m}_megabytes": memory[m] / 1e6 for m in kernels}
    metrics |= {f"{name}_gain": gain, f"{name}_memory_ratio": share, f"{name}_error": error}
    what = f"transformer, {length} tokens: "
    stated = [
        claims.at_least(what + "times faster than Jacobians", gain, 5.0, source=JACOBIANS),
        claims.at_most(what + "memory / Jacobians'", share, 0.2, source=JACOBIANS),
        claims.at_most(what + "largest difference / largest entry", error, 1e-4, source=JACOBIANS),
    ]
    return claims.Result(metrics, stated)


def matmul_rate(size: int, rounds: int) -> float:
    """Floating point operations per second of one square float32 product, the best of all."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    times = [timing.seconds(lambda: product(matrix)) for _ in range(rounds + 3)]
    return 2 * size**3 / min(times[1:])
