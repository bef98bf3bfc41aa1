"""Is an encoder that has only seen CIFAR-10, without labels, of use for handwritten digits?

Claims: on MNIST and on the 8x8 digits, with 100 labels a class, the linear probe of its frozen
features beats that of the same encoder before training. Pixels stand beside them.
Cost: 4 minutes on 2 CPU cores (reckoned).
    python -m experiments self_supervised.transfer

SimCLR as in `cifar10`, for less long and with one seed. Digits are brought to 32 x 32 pixels by
repeating pixels (8x8) or by a margin of two (MNIST), and shown in three equal colours.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.self_supervised import _images, _labels, _pretrain
from library import claims, report, training
from library.data.sets import digits, mnist
from research.self_supervised import probes, views

RANDOM = claims.baseline("the same encoder before training, same run")
SHAPE = (32, 32, 3)

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The network, its training, and the labels."""

    sets: tuple[str, ...] = ("cifar10", "mnist", "digits")  # that are probed
    width: int = 32  # channels of the encoder's first stage
    num_blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks of each stage
    grid: int = 16  # squares of a side, of several pixels, that the encoder sees an image as
    num_steps: int = 800  # updates
    batch_size: int = 64  # images of each
    learning_rate: float = 2e-3  # peak of AdamW's
    num_images: int = 50_000  # that it is trained on
    per_class: int = 100  # labels for the probes
    num_test: int = 2000  # that judge, or all that there are
    run: training.RunOptions = training.RunOptions(log_every=100)


PRESETS = {
    "smoke": Config(
        sets=("digits",), width=4, num_blocks=(1,), grid=8, num_steps=2, batch_size=8,
        num_images=40, per_class=2, num_test=20, run=training.RunOptions(log_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        width=64, num_blocks=(2, 2, 2, 2), grid=32, num_steps=15_000, batch_size=512,
        num_test=10_000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains on CIFAR-10, and probes all sets beside the random encoder and the pixels."""
    unknown = [name for name in config.sets if name not in READERS]
    if unknown:
        raise ValueError(f"sets={config.sets}: expected some of {', '.join(READERS)}")
    sizes = _pretrain.Sizes(
        SHAPE, config.width, config.num_blocks, 256, 64,
        patch=SHAPE[0] // config.grid, temperature=0.2,
    )  # fmt: skip
    augment = views.small_images(SHAPE[0], (0.2, 1.0))
    made = _images.pretraining("simclr", sizes, augment, config.num_steps)
    trained = _images.train(
        made, _images.cifar10(config.num_images, 1, 1).images, out, num_steps=config.num_steps,
        batch_size=config.batch_size, learning_rate=config.learning_rate, run=config.run,
    )  # fmt: skip
    encoders = {"random encoder": _images.start(made, config.run.seed), "SimCLR": trained}
    found = {name: _shares(encoders, read(name, config)) for name in config.sets}
    out.figure("transfer", _images.compared(found, "Linear probes, 100 labels a class"))
    metrics = {f"{which}: {name}": share for which, shares in found.items()
               for name, share in shares.items()}  # fmt: skip
    stated = [
        claims.above(f"{which}: probe, %", shares["SimCLR"], shares["random encoder"], RANDOM)
        for which, shares in found.items()
        if which != "cifar10"
    ]
    return claims.Result(metrics, stated)


def read(name: str, config: Config) -> _images.Data:
    """A set as images of 32 x 32 x 3 bytes: labels for the probes, as many of each class."""
    (x, y), (test_x, test_y) = (READERS[name](split) for split in ("train", "test"))
    rows = _labels.few(y, config.per_class, config.run.seed)
    return _images.Data(
        x, (x[rows], y[rows]), (test_x[: config.num_test], test_y[: config.num_test])
    )


def _cifar(split: str) -> tuple[np.ndarray, np.ndarray]:
    data = _images.cifar10(10_000, 10_000, 10_000)
    return data.train if split == "train" else data.test


def _mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    data = mnist.arrays(split)
    framed = np.pad(data["image"], ((0, 0), (2, 2), (2, 2), (0, 0)))  # [N, 32, 32, 1]
    return np.repeat(framed, 3, axis=-1), data["label"]


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    data = digits.arrays(split)
    levels = np.round(data["image"] * (255 / digits.MAX_VALUE)).astype(np.uint8)
    large = levels.repeat(4, axis=1).repeat(4, axis=2)  # [N, 32, 32, 1]
    return np.repeat(large, 3, axis=-1), data["label"]


READERS = {"cifar10": _cifar, "mnist": _mnist, "digits": _digits}


def _shares(encoders: dict[str, _images.Trained], data: _images.Data) -> dict[str, float]:
    """Accuracies of linear probes, %, of pixels and of every encoder's features."""
    flat = [np.asarray(_images.floats(x)).reshape(len(x), -1) for x, _ in (data.train, data.test)]
    pixels = probes.linear(flat[0], data.train[1], flat[1], data.test[1], l2=0.1)
    found = {"pixels": 100 * pixels.accuracy}
    return found | {name: 100 * _images.worth(each, data).linear for name, each in encoders.items()}
