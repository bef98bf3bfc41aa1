"""How many negatives does contrastive learning need, and who provides them: batch, queue, chunks?

Claims: with batches of 256, encoded in four chunks, the gradient is that of the whole batch, within
rounding; with a queue of 4,096 keys MoCo's probe on CIFAR-10 is above that of its random encoder.
How accuracy moves with the number of negatives is shown, and not claimed.
Cost: 5 minutes on 2 CPU cores (reckoned).
    python -m experiments self_supervised.batch_and_queue

All see equally many images. SimCLR with batches of 64 and 256 (126 and 510 negatives); MoCo with
batches of 64 and queues of 256 and 4,096. All with group norm, which chunks and queues need.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.self_supervised import _images, _pretrain
from library import claims, report, training
from library.types import PyTree
from research.self_supervised import training as pretraining
from research.self_supervised import views

WHOLE = claims.theorem("the same function of the batch, Gao et al. 2021, arXiv:2101.06983")
RANDOM = claims.baseline("the same encoder before training, same run")
SHAPE = (32, 32, 3)

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The network, the negatives, and the training."""

    batch_sizes: tuple[int, ...] = (64, 256)  # of SimCLR
    queue_sizes: tuple[int, ...] = (256, 4096)  # keys, of MoCo with the smallest batch
    num_chunks: int = 4  # in which the largest batch is encoded, for its gradient
    width: int = 32  # channels of the encoder's first stage
    num_blocks: tuple[int, ...] = (1, 1)  # residual blocks of each stage
    grid: int = 8  # squares of a side, of several pixels, that the encoder sees an image as
    num_images: int = 50_000  # seen by each; of 50,000 the first ones
    learning_rate: float = 2e-3  # peak of AdamW's
    num_probe: int = 10_000  # images with labels, for the probes
    num_test: int = 2000  # that judge
    run: training.RunOptions = training.RunOptions(log_every=100)


PRESETS = {
    "smoke": Config(
        batch_sizes=(8,), queue_sizes=(16,), num_chunks=2, width=4, num_blocks=(1,), grid=8,
        num_images=16, num_probe=60, num_test=20, run=training.RunOptions(log_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        batch_sizes=(64, 256, 1024, 4096), queue_sizes=(256, 4096, 65_536), width=64,
        num_blocks=(2, 2, 2, 2), grid=32, num_images=5_000_000, num_probe=50_000, num_test=10_000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains with every number of negatives, and compares two gradients of the largest batch."""
    small, large, most = min(config.batch_sizes), max(config.batch_sizes), max(config.queue_sizes)
    _check(config, small, large)
    data = _images.cifar10(min(50_000, config.num_images), config.num_probe, config.num_test)
    cases = [(f"batch {size}", "simclr", size, size) for size in config.batch_sizes]
    cases += [(f"queue {size}", "moco", small, size) for size in config.queue_sizes]
    made, found = {}, {}
    for name, method, size, queue_size in cases:
        made[name] = _made(config, method, _steps(config, size), queue_size)
        part = report.RunDir(out.path / name.replace(" ", ""))
        found[name] = _probed(config, made[name], size, data, part)
    before = _images.start(made[f"batch {large}"], config.run.seed)
    random = 100 * _images.worth(before, data).linear
    out.figure("negatives", _images.probes_drawn({name: [share] for name, share in found.items()},
                                                 {"random": random / 100}))  # fmt: skip
    off = chunks_off(made[f"batch {large}"], data.images[:large], config.num_chunks)
    stated = [
        claims.at_most("gradient in chunks off the whole batch's, relative", off, 1e-4, WHOLE),
        claims.above("longest queue: probe, %", found[f"queue {most}"], random, RANDOM),
    ]
    return claims.Result({"random": random, **found}, stated)


def chunks_off(made: pretraining.Pretraining, images: np.ndarray, num_chunks: int) -> float:
    """Distance of the gradients of a batch, whole and in chunks, over the length of the whole."""
    rng = jax.random.key(0)
    params, state = jax.jit(lambda rng: (made.init_params(rng), made.init_state(rng)))(rng)
    keys = jax.random.split(rng, len(images))

    def gradient(made: pretraining.Pretraining) -> PyTree:
        loss_fn = made.loss_fn
        of = lambda params: loss_fn(params, state, keys, {"images": images})[0]
        return jax.jit(jax.grad(of))(params)

    whole = gradient(made)
    parts = gradient(dataclasses.replace(made, num_chunks=num_chunks))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return float(np.linalg.norm(flat(parts) - flat(whole)) / np.linalg.norm(flat(whole)))


def _check(config: Config, small: int, large: int) -> None:
    if any(size % small for size in config.queue_sizes):
        raise ValueError(f"queue_sizes={config.queue_sizes}: expected multiples of {small}")
    if large % config.num_chunks:
        raise ValueError(f"num_chunks={config.num_chunks}: expected a divisor of {large}")


def _made(config: Config, method: str, num_steps: int, queue_size: int) -> pretraining.Pretraining:
    """A method without batch statistics."""
    sizes = _pretrain.Sizes(
        SHAPE, config.width, config.num_blocks, 8 * config.width, 2 * config.width, queue_size,
        patch=SHAPE[0] // config.grid, temperature=0.2, batch_free=True,
    )  # fmt: skip
    return _images.pretraining(method, sizes, views.small_images(SHAPE[0], (0.2, 1.0)), num_steps)


def _probed(
    config: Config,
    made: pretraining.Pretraining,
    size: int,
    data: _images.Data,
    out: report.RunDir,
) -> float:
    """Accuracy of a linear probe, %, after training with batches of a size."""
    trained = _images.train(
        made, data.images, out, num_steps=_steps(config, size), batch_size=size,
        learning_rate=config.learning_rate, run=config.run,
    )  # fmt: skip
    return 100 * _images.worth(trained, data).linear


def _steps(config: Config, size: int) -> int:
    return max(config.num_images // size, 1)
