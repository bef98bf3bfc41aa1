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
import jax.numpy as jnp
import numpy as np
import optax

from library import claims, figure_style, report
from library.data.sets import digits, mnist
from library.types import Array, Key
from research import ntk
from research.ntk import layers

NUM_CLASSES = 10
READERS = {"mnist": mnist, "digits": digits}


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
    seed: int = 0  # of the choice of images, of networks and batches


PRESETS = {
    "smoke": Config(
        dataset="digits", sizes=(20, 40), num_test=50, num_hidden=1, width=8, num_steps=4,
        batch_size=5, num_networks=1,
    ),
    "default": Config(),
    "accelerator": Config(sizes=(100, 300, 1000, 3000, 10_000), width=2048, num_steps=10_000),
}  # fmt: skip


def network(config: Config, width: int = 1) -> layers.Layer:
    """The dense network whose kernel regresses, and which is trained at a finite width."""
    wide = layers.dense(width, weight_std=2**0.5, bias_std=0.1)
    last = layers.dense(NUM_CLASSES, weight_std=1.0, bias_std=0.1)
    return layers.serial(*(wide, layers.relu()) * config.num_hidden, last)


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Accuracy of every method at every size, the picture, and the claims."""
    x, label = _read(config, "train", max(config.sizes))
    x_test, label_test = _read(config, "test", config.num_test)
    records, metrics, stated = [], {}, []
    for size in config.sizes:
        data = x[:size], label[:size], x_test
        predicted = {name: method(*data) for name, method in BASELINES.items()}
        predicted |= _kernels(config, *data)
        found = {name: float(np.mean(p == label_test)) for name, p in predicted.items()}
        rngs = jax.random.split(jax.random.key(config.seed), config.num_networks)
        trained = [np.mean(_train(config, rng, *data) == label_test) for rng in rngs]
        found["network"] = float(np.mean(trained))
        records.append({"images": size} | {name: 100 * value for name, value in found.items()})
        metrics |= {f"{name}_{size}": value for name, value in found.items()}
        stated += [
            claims.above(f"{kernel}, {size} images: accuracy", found[kernel], found[baseline], source=claims.baseline(f"{baseline} on the same images"))
            for kernel in ("ntk", "nngp") for baseline in BASELINES
        ]  # fmt: skip
    _draw(out, records)
    return claims.Result(metrics, stated)


def _read(config: Config, split: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, D] of norm sqrt(D), labels [N], N <= num, chosen at random."""
    arrays = READERS[config.dataset].arrays(split)
    rows = np.random.default_rng(config.seed).permutation(len(arrays["label"]))[:num]
    x = arrays["image"][rows].reshape(len(rows), -1).astype(np.float32)
    x *= np.float32(x.shape[1] ** 0.5) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, arrays["label"][rows]


def targets(label: np.ndarray) -> np.ndarray:
    """One-hot less its mean over classes, [N, 10]."""
    return np.eye(NUM_CLASSES, dtype=np.float32)[label] - np.float32(1 / NUM_CLASSES)


def nearest_neighbour(x: np.ndarray, label: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Label of the closest training image; all norms are equal, so that of the largest product."""
    return label[np.argmax(x_test @ x.T, axis=1)]


def linear(x: np.ndarray, label: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Ridge regression on pixels, the ridge by the closed-form leave-one-out error."""
    gram = x.astype(np.float64) @ x.T
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ targets(label)
    errors, solutions = [], []
    for ridge in np.mean(np.diag(gram)) * 10.0 ** np.arange(-3, 3):
        inverse = vectors / (values + ridge)
        solution = inverse @ rotated
        # Leave-one-out residual: solution / diag of the inverse; Rasmussen and Williams, (5.12).
        errors.append(np.mean((solution / np.sum(inverse * vectors, 1, keepdims=True)) ** 2))
        solutions.append(solution)
    return np.argmax((x_test @ x.T) @ solutions[int(np.argmin(errors))], axis=1)


BASELINES = {"nearest neighbour": nearest_neighbour, "linear": linear}


def _kernels(
    config: Config, x: np.ndarray, label: np.ndarray, x_test: np.ndarray
) -> dict[str, np.ndarray]:
    """Classes that gradient flow of an infinitely wide network ends in, by kernel."""
    net = network(config)
    found = {}
    for kind in ("ntk", "nngp"):
        diagonal = net.kernel(jnp.asarray(x[:1]), get=kind)
        flow = ntk.predict.gradient_flow(
            net.kernel, x, targets(label), ridge=config.ridge * float(diagonal[0, 0]), kinds=(kind,)
        )
        parts = [flow.mean(part, kind=kind) for part in np.split(x_test, _chunks(len(x_test)))]
        found[kind] = np.argmax(np.concatenate(parts), axis=1)
    return found


def _chunks(num: int, size: int = 1000) -> int:
    """In how many equal parts test images are predicted, so that no large kernel is held."""
    return num // size if num % size == 0 else 1


def _train(
    config: Config, rng: Key, x: np.ndarray, label: np.ndarray, x_test: np.ndarray
) -> np.ndarray:
    """Classes by one finite network after training."""
    net, y = network(config, config.width), targets(label)
    init_rng, batch_rng = jax.random.split(rng)
    params = jax.jit(net.init, static_argnums=1)(init_rng, x.shape[1:])
    batch = min(config.batch_size, len(x))
    # Half of the largest stable step on a batch without momentum, by the infinite kernel.
    kernel = network(config).kernel(jnp.asarray(x[:batch]), get="ntk")
    largest = ntk.dynamics.largest_learning_rate(
        jnp.linalg.eigvalsh(kernel)[-1], loss="mean", num_targets=batch * NUM_CLASSES
    )
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.5 * largest, config.num_steps), 0.9)

    start, images, wanted = params, jnp.asarray(x), jnp.asarray(y)

    def learned(params: Array, x: Array) -> Array:
        # Less the function at the start, whose values have a variance of one (the targets' 0.09):
        # kernel regression is the mean over starts, in which it cancels.
        return net.apply(params, x) - net.apply(start, x)

    def loss(params: Array, rows: Array) -> Array:
        return 0.5 * jnp.mean((learned(params, images[rows]) - wanted[rows]) ** 2)

    @jax.jit
    def descend(params: Array) -> Array:
        def step(carry: tuple, rng: Key) -> tuple:
            params, state = carry
            rows = jax.random.randint(rng, (batch,), 0, len(x))
            updates, state = optimizer.update(jax.grad(loss)(params, rows), state)
            return (optax.apply_updates(params, updates), state), None

        rngs = jax.random.split(batch_rng, config.num_steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), rngs)[0][0]

    return np.argmax(jax.jit(learned)(descend(params), jnp.asarray(x_test)), axis=1)


def _draw(out: report.RunDir, records: list[dict]) -> None:
    figure, (axes,) = figure_style.row(1)
    sizes = [record["images"] for record in records]
    names = {"ntk": "infinite, NTK", "nngp": "infinite, NNGP", "network": "finite, trained"}
    names |= {name: name for name in BASELINES}
    for colour, (key, name) in zip(figure_style.PALETTE, names.items()):
        errors = [100 - record[key] for record in records]
        axes.plot(sizes, errors, "o-", color=colour, linewidth=1.6, markersize=5, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50) if min(axes.get_ylim()) < tick]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 2)
    figure_style.style(axes, "Test error by number of training images", "images", "%")
    out.figure("mnist", figure)
