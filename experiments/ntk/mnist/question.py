"""How well do exact kernels classify MNIST from few images, beside the same network trained?

Claims: at every training size regression with the infinite network's NTK and with its NNGP kernel
classifies the 10,000 test images better than the nearest neighbour and than ridge regression on
pixels, on the same images. Cost: 6 minutes on 2 CPU cores.
    python -m experiments ntk.mnist

Three hidden layers of ReLU; the network has the same layers at finite width, starts in the same
NTK parameterisation and is trained on the same squared error by momentum. One-hot targets less
their mean; the ridge is a fixed fraction of the kernel's mean diagonal; nothing is tuned on test
images. The nearest neighbour and linear regression are the plain baselines.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import numpy as np

from experiments.ntk.mnist import methods, picture
from library import claims, report, training
from library.data.sets import digits, mnist

READERS = {"mnist": mnist, "digits": digits}
NAMES = {"ntk": "infinite, NTK", "nngp": "infinite, NNGP", "network": "finite, trained"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, kernel and network."""

    dataset: Literal["mnist", "digits"] = "mnist"  # MNIST, or 8 x 8 digits for a quick look
    sizes: tuple[int, ...] = (100, 300, 1000, 3000)  # training images
    num_test: int = 10_000  # test images
    num_hidden: int = 3  # layers of ReLU
    ridge: float = 1e-3  # added to the kernel's diagonal, in units of its mean
    width: int = 512  # hidden units of the finite network
    num_steps: int = 2000  # of training the finite network
    batch_size: int = 100  # images in a step
    num_networks: int = 2  # finite networks, whose accuracies are averaged
    run: training.RunOptions = training.RunOptions()  # of these it takes the seed


PRESETS = {
    "smoke": Config(
        dataset="digits",
        sizes=(20,),
        num_test=20,
        num_hidden=1,
        width=8,
        num_steps=4,
        batch_size=5,
        num_networks=1,
    ),
    "default": Config(),
    "accelerator": Config(sizes=(100, 300, 1000, 3000, 10_000), width=2048, num_steps=10_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Accuracy of every method at every size, the picture, and the claims."""
    training.takes_only(config.run, "seed")
    x, label = _read(config, "train", max(config.sizes))
    x_test, label_test = _read(config, "test", config.num_test)
    result, records = claims.Result(), []
    for size in config.sizes:
        found = _accuracies(config, x[:size], label[:size], x_test, label_test)
        records.append({"images": size} | {name: 100 * value for name, value in found.items()})
        result += _compare(size, found)
    names = NAMES | {name: name for name in methods.BASELINES}
    out.figure("mnist", picture.errors(records, names))
    return result


def _compare(size: int, found: dict[str, float]) -> claims.Result:
    """Both kernels beside both baselines."""
    metrics = {f"{name}_{size}": value for name, value in found.items()}
    stated = [
        claims.above(
            f"{kernel}, {size} images: accuracy",
            found[kernel],
            found[baseline],
            source=claims.baseline(f"{baseline} on the same images"),
        )
        for kernel in ("ntk", "nngp")
        for baseline in methods.BASELINES
    ]
    return claims.Result(metrics, stated)


def _accuracies(
    config: Config, x: np.ndarray, label: np.ndarray, x_test: np.ndarray, label_test: np.ndarray
) -> dict[str, float]:
    """Share of the test images that each method classifies rightly."""
    data = x, label, x_test
    predicted = {name: method(*data) for name, method in methods.BASELINES.items()}
    predicted |= methods.kernels(*data, num_hidden=config.num_hidden, ridge=config.ridge)
    found = {name: float(np.mean(p == label_test)) for name, p in predicted.items()}
    trained = [
        methods.finite_network(
            *data,
            rng=rng,
            num_hidden=config.num_hidden,
            width=config.width,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
        )
        for rng in jax.random.split(jax.random.key(config.run.seed), config.num_networks)
    ]
    found["network"] = float(np.mean([np.mean(p == label_test) for p in trained]))
    return found


def _read(config: Config, split: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, D] of norm sqrt(D), labels [N], N <= num, chosen at random."""
    arrays = READERS[config.dataset].arrays(split)
    rows = np.random.default_rng(config.run.seed).permutation(len(arrays["label"]))[:num]
    x = arrays["image"][rows].reshape(len(rows), -1).astype(np.float32)
    x *= np.float32(x.shape[1] ** 0.5) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, arrays["label"][rows]
