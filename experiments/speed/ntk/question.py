"""How fast are kernels of finite and infinite networks beside the field's reference package?

Claims: the structured method takes <= 0.8 of neural-tangents' time on an MLP 784-1024-1024-10
(128 x 128) and on a CNN of 4 x 64 channels with average pooling (32 x 32 x 3, 16 x 16); infinite
networks <= 0.8 (five dense layers, 1000 x 1000) and <= 0.1 (four convolutions and average pooling);
values agree to 1e-4. On a transformer the structured method is >= 5 times faster than full
Jacobians, at <= 0.2 of their compiled memory, at 8, 16, 32 and 64 tokens.
Cost: 3 minutes on 2 CPU cores.
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

from experiments.speed.ntk import cases, comparisons
from library import claims, report


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repetitions."""

    peer: str = ""  # Python interpreter that has neural_tangents; empty: compare with nothing
    rounds: int = 7  # alternations that are counted
    mlp_examples: int = 128  # rows and columns of the MLP's kernel
    mlp_width: int = 1024  # of its two hidden layers
    cnn_examples: int = 16  # rows and columns of the CNN's kernel
    channels: int = 64  # of its convolutions
    num_convolutions: int = 4  # of the CNN, also of the infinite one
    image_size: int = 32  # rows and columns of its images, also for the infinite one
    transformer_examples: int = 32  # rows and columns of the transformer's kernel
    transformer_width: int = 128  # of its layers
    transformer_depth: int = 2  # layers
    vocabulary: int = 4096  # rows of its embedding
    lengths: tuple[int, ...] = (8, 16, 32, 64)  # tokens of an example, one comparison each
    fc_examples: int = 1000  # rows and columns of the infinite dense network's kernel
    fc_depth: int = 5  # of its hidden layers
    infinite_cnn_examples: int = 2  # rows and columns of the infinite convolutional one's
    matmul_size: int = 2048  # of the square product that measures the machine's rate


PRESETS = {
    "smoke": Config(
        rounds=1,
        mlp_examples=3,
        mlp_width=8,
        cnn_examples=2,
        channels=4,
        num_convolutions=1,
        image_size=4,
        transformer_examples=2,
        transformer_width=8,
        transformer_depth=1,
        vocabulary=16,
        lengths=(3,),
        fc_examples=4,
        fc_depth=1,
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
    image = (config.image_size, config.num_convolutions)
    pairs = {
        "mlp": cases.mlp(config.mlp_examples, config.mlp_width),
        "cnn": cases.cnn(config.cnn_examples, config.channels, *image),
        "infinite_fc": cases.infinite_fc(config.fc_examples, config.fc_depth),
        "infinite_cnn": cases.infinite_cnn(config.infinite_cnn_examples, *image),
    }
    rate = comparisons.matmul_rate(config.matmul_size, config.rounds)
    result = claims.Result({"matmul_gflops_per_second": rate / 1e9})
    with (
        tempfile.TemporaryDirectory() as folder,
        cases.peer(config.peer, pairs, pathlib.Path(folder)) as peer,
    ):
        print(f"peer: {peer.versions}" if peer else "peer: not run, no --peer given")
        for name, case in pairs.items():
            found = comparisons.beside_peer(name, case, peer, config.rounds, BARS[name])
            if case.flops:
                share = case.flops / rate / found.metrics[f"{name}_seconds"]
                found += claims.Result({f"{name}_share_of_floor": share})
            result += _shown(found)
    for length in config.lengths:
        found = comparisons.beside_jacobians(
            config.transformer_examples,
            config.transformer_width,
            config.transformer_depth,
            config.vocabulary,
            length,
            rounds=min(config.rounds, 3),
        )
        result += _shown(found)
    return result


def _shown(found: claims.Result) -> claims.Result:
    """The same, its numbers printed: a comparison takes minutes."""
    print(", ".join(f"{key} {value:.4g}" for key, value in found.metrics.items()), flush=True)
    return found
