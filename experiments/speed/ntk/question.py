"""How fast are kernels of finite and infinite networks beside the field's reference package?

Claims: the structured method takes <= 0.8 of neural-tangents' time on an MLP 784-1024-1024-10
(128 x 128) and on a CNN of 4 x 64 channels with average pooling (32 x 32 x 3, 16 x 16); infinite
networks <= 0.8 (five dense layers, 1000 x 1000) and <= 0.1 (four convolutions and average pooling);
values agree to 1e-4. On a transformer the structured method is >= 5 times faster than full
Jacobians, at <= 0.2 of their compiled memory, at 8, 16, 32 and 64 tokens. Cost: 3 minutes on 2 idle
CPU cores.
    python -m experiments speed.ntk --peer OTHER_ENVIRONMENT/bin/python

neural-tangents does not import on current JAX: it runs in an interpreter of its own (such as Python
3.11 with jax 0.5.3 and the package's main branch), on the same arrays, in turn with ours, both
compiled. Without --peer it is not run, and what remains is ours alone.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.ntk import cases
from experiments.speed.ntk.cases import Case, Peer
from library import claims, report, timing

SAME = "the same function on the same arrays in turn"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    peer: str = ""  # Python interpreter that has neural_tangents; empty: compare with nothing
    rounds: int = 7  # alternations that are counted
    mlp_examples: int = 128  # rows and columns of the MLP's kernel
    mlp_width: int = 1024  # of its two hidden layers
    cnn_examples: int = 16  # rows and columns of the CNN's kernel
    channels: int = 64  # of its four convolutions
    image_size: int = 32  # rows and columns of its images, also for the infinite one
    transformer_examples: int = 32  # rows and columns of the transformer's kernel
    transformer_width: int = 128  # of its two layers
    vocabulary: int = 4096  # rows of its embedding
    lengths: tuple[int, ...] = (8, 16, 32, 64)  # tokens of an example, one comparison each
    fc_examples: int = 1000  # rows and columns of the infinite dense network's kernel
    infinite_cnn_examples: int = 2  # rows and columns of the infinite convolutional one's
    matmul_size: int = 2048  # of the square product that measures the machine's rate


PRESETS = {
    "smoke": Config(
        rounds=1,
        mlp_examples=3,
        mlp_width=8,
        cnn_examples=2,
        channels=4,
        image_size=4,
        transformer_examples=2,
        transformer_width=8,
        vocabulary=16,
        lengths=(3,),
        fc_examples=4,
        matmul_size=64,
    ),
    "default": Config(),
    "accelerator": Config(cnn_examples=64, transformer_examples=64, infinite_cnn_examples=16),
}
BARS = {"mlp": 0.8, "cnn": 0.8, "infinite_fc": 0.8, "infinite_cnn": 0.1}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Times every case on both sides and states the claims."""
    if config.peer and not shutil.which(config.peer):
        raise ValueError(f"--peer {config.peer}: no such interpreter")
    size = config.image_size
    pairs = {
        "mlp": cases.mlp(config.mlp_examples, config.mlp_width),
        "cnn": cases.cnn(config.cnn_examples, config.channels, size),
        "infinite_fc": cases.infinite_fc(config.fc_examples),
        "infinite_cnn": cases.infinite_cnn(config.infinite_cnn_examples, size),
    }
    rate = _matmul_rate(config.matmul_size, config.rounds)
    metrics, stated = {"matmul_gflops_per_second": rate / 1e9}, []
    with (
        tempfile.TemporaryDirectory() as folder,
        cases.peer(config.peer, pairs, pathlib.Path(folder)) as peer,
    ):
        print(f"peer: {peer.versions}" if peer else "peer: not run, no --peer given")
        for name, case in pairs.items():
            found, more = _compare(name, case, peer, config.rounds)
            if case.flops:
                floor = case.flops / rate
                found[f"{name}_share_of_floor"] = floor / found[f"{name}_seconds"]
            print(", ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
            metrics |= found
            stated += more
    for length in config.lengths:
        found, more = _transformer(config, length)
        print(", ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
        metrics |= found
        stated += more
    return claims.Result(metrics, stated)


def _compare(
    name: str, case: Case, peer: Peer | None, rounds: int
) -> tuple[dict[str, float], list[claims.Claim]]:
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
        return metrics, []
    ratio = float(np.median(np.array(ours[1:]) / np.array(theirs[1:])))
    value, expected = np.asarray(case.run()), peer.value(name)
    error = float(np.max(np.abs(value - expected)) / np.max(np.abs(expected)))
    metrics[f"{name}_peer_seconds"] = float(np.median(theirs[1:]))
    metrics[f"{name}_ratio"], metrics[f"{name}_error"] = ratio, error
    source = f"{peer.versions}, {SAME}"
    stated = [
        claims.at_most(f"{name}: time / reference's", ratio, BARS[name], source=source),
        claims.at_most(f"{name}: largest difference / largest entry", error, 1e-4, source=source),
    ]
    return metrics, stated


def _transformer(config: Config, length: int) -> tuple[dict[str, float], list[claims.Claim]]:
    """Structured against full Jacobians: time, compiled memory, and the values."""
    make, params, tokens = cases.transformer(
        config.transformer_examples, config.transformer_width, config.vocabulary, length
    )
    kernels = {method: make(method) for method in ("structured", "jacobian")}
    memory = {m: timing.compiled_bytes(kernels[m], params, tokens) for m in kernels}
    runs = {m: (lambda kernel=kernels[m]: kernel(params, tokens)) for m in kernels}
    times = timing.alternate(runs, min(config.rounds, 3))
    gain = timing.median_ratio(times, "jacobian", "structured")
    share = memory["structured"] / memory["jacobian"]
    full = np.asarray(runs["jacobian"]())
    error = float(np.max(np.abs(full - np.asarray(runs["structured"]()))) / np.max(np.abs(full)))
    name = f"transformer_{length}"
    metrics = {f"{name}_{m}_seconds": float(np.median(times[m])) for m in kernels}
    metrics |= {f"{name}_{m}_megabytes": memory[m] / 1e6 for m in kernels}
    metrics |= {f"{name}_gain": gain, f"{name}_memory_ratio": share, f"{name}_error": error}
    source, what = "own method of full Jacobians, same process", f"transformer, {length} tokens: "
    return metrics, [
        claims.at_least(what + "times faster than Jacobians", gain, 5.0, source=source),
        claims.at_most(what + "memory / Jacobians'", share, 0.2, source=source),
        claims.at_most(what + "largest difference / largest entry", error, 1e-4, source=source),
    ]


def _matmul_rate(size: int, rounds: int) -> float:
    """Floating point operations per second of one square float32 product, the best of all."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    times = [timing.seconds(lambda: product(matrix)) for _ in range(rounds + 3)]
    return 2 * size**3 / min(times[1:])
