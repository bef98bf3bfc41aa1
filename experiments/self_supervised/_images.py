"""Encoders of images that come as bytes: views, one training, and what the features are worth."""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import decomposition

from experiments.self_supervised import _pretrain
from library import figure_style, report, sharding, training
from library.data.sets import cifar10 as cifar10_data
from library.types import Array, ModelState, Params
from research.self_supervised import diagnostics, probes, views
from research.self_supervised.training import Pretraining

_STRENGTHS = (1e-1, 1.0)  # of penalties on pixels, in [-2, 2]


@dataclasses.dataclass(frozen=True)
class Data:
    """Bytes [N, H, W, C] to train on, and (images, labels) for the probes."""

    images: np.ndarray
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trained:
    """An encoder after its training, or before it.

    Attributes:
        pretraining: its method and networks.
        params, stats: of the encoder.
        seconds: that the training took, its compilation included.
    """

    pretraining: Pretraining
    params: Params
    stats: ModelState
    seconds: float = 0.0


def cifar10(num_images: int, num_probe: int, num_test: int) -> Data:
    """The first images of both splits; the probes' training images are the first of all.

    Raises:
        ValueError: for more than there are.
    """
    train = cifar10_data.arrays("train", max(num_images, num_probe))
    test = cifar10_data.arrays("test", num_test)
    return Data(
        train["image"][:num_images],
        (train["image"][:num_probe], train["label"][:num_probe]),
        (test["image"], test["label"]),
    )


def floats(images: Array) -> Array:
    """Bytes as float32 in [-2, 2]."""
    return jnp.asarray(images, jnp.float32) * (4 / 255) - 2


def pretraining(
    method: str,
    sizes: _pretrain.Sizes,
    augment: views.Views,
    num_steps: int,
    dtype: str = "float32",
) -> Pretraining:
    """A method on two views of bytes, in a dtype.

    Args:
        method, sizes, num_steps: see `_pretrain.pretraining`.
        augment: views of images in [0, 1].
        dtype: of the views, and so of the encoder's computation.
    """  # fmt: skip

    def of_bytes(rngs: jax.Array, images: Array) -> Array:
        seen = augment(rngs, jnp.asarray(images, jnp.float32) / 255)
        return (4 * seen - 2).astype(dtype)

    return _pretrain.pretraining(method, sizes, of_bytes, num_steps)


def start(made: Pretraining, seed: int) -> Trained:
    """The random encoder that `train` starts from."""
    rng = jax.random.split(jax.random.key(seed))[0]
    params, stats = jax.jit(lambda rng: made.networks.init(rng, made.image_shape))(rng)
    return Trained(made, params["encoder"], stats["encoder"])


def train(
    made: Pretraining,
    images: np.ndarray,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
    dtype: str = "float32",
) -> Trained:
    """Trains by AdamW with a warm-up and half a cosine, decay 1e-4.

    Args:
        made: the method.
        images: bytes [N, H, W, C].
        out: folder of this run.
        num_steps, batch_size, learning_rate: of the training; the rate is its peak.
        run: the shared options.
        dtype: of the computation.
    """
    optimizer = training.warmup_cosine(
        learning_rate, num_steps, num_steps // 10,
        optimizer=functools.partial(optax.adamw, weight_decay=1e-4),
    )  # fmt: skip
    begun = time.perf_counter()
    state = training.train(
        made.loss_fn, optimizer, made.init_params,
        training.batches({"images": images}, batch_size, run.seed), num_steps=num_steps, run=run,
        out=out, model_state=jax.jit(made.init_state)(jax.random.key(run.seed)),
        rng_per_example=True, compute_dtype=None if dtype == "float32" else jnp.dtype(dtype),
    )  # fmt: skip
    params, stats = sharding.on_one_device(
        (state.params["encoder"], state.model_state["batch_stats"]["encoder"])
    )
    return Trained(made, params, stats, time.perf_counter() - begun)


def worth(trained: Trained, data: Data, k: int = 200) -> _pretrain.Worth:
    """The probes of an encoder's features, k neighbours."""
    part = trained.pretraining.networks.encoder
    return _pretrain.worth(
        part, trained.params, trained.stats, data.train, data.test, k=k, to_floats=floats
    )


def features(trained: Trained, images: np.ndarray) -> np.ndarray:
    """[N, D] of bytes [N, H, W, C]."""
    part = trained.pretraining.networks.encoder
    apply = lambda x: part.apply(trained.params, trained.stats, floats(x), False, None)[0]
    return probes.features(apply, images)


def verdict(trained: Trained, images: np.ndarray, seed: int = 0) -> diagnostics.Report:
    """What became of the features of two views of some images."""
    made = trained.pretraining
    apply = jax.jit(
        lambda x: made.networks.encoder.apply(trained.params, trained.stats, x, False, None)[0]
    )
    both = made.views(jax.random.split(jax.random.key(seed), len(images)), images)
    return diagnostics.report(*(np.asarray(apply(view)) for view in both))


def baselines(data: Data, num_components: int) -> dict[str, float]:
    """Accuracies of linear probes: of the pixels, at the best of two penalties on the test
    images, which favours them, and of their principal components."""
    (x, y), (test_x, test_y) = (
        (np.asarray(floats(images)).reshape(len(images), -1), labels)
        for images, labels in (data.train, data.test)
    )
    pca = decomposition.PCA(min(num_components, *x.shape), random_state=0).fit(x)
    inside = probes.linear(pca.transform(x), y, pca.transform(test_x), test_y)
    each = [probes.linear(x, y, test_x, test_y, l2).accuracy for l2 in _STRENGTHS]
    return {"pixels": max(each), "pca": inside.accuracy}


def probes_drawn(rows: dict[str, list[float]], lines: dict[str, float]):
    """Accuracies in % of the runs of each row, and shares as lines across all."""
    figure, axes = figure_style.single("Linear probes of frozen features", "test accuracy, %")
    for place, shares in enumerate(rows.values()):
        axes.plot(shares, np.full(len(shares), place), "o", color=figure_style.PALETTE[place % 6])
    for name, share in lines.items():
        axes.axvline(100 * share, color=figure_style.FAINT, linewidth=1)
        axes.text(100 * share, len(rows) - 0.6, name, color=figure_style.FAINT, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.5, len(rows) - 0.2)
    return figure


def compared(found: dict[str, dict[str, float]], title: str):
    """Accuracies in %: groups of bars, one of each group for each name within."""
    figure, axes = figure_style.single(title, "", "test accuracy, %")
    names = list(next(iter(found.values())))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        places = np.arange(len(found)) + width * (index - (len(names) - 1) / 2)
        heights = [shares[name] for shares in found.values()]
        axes.bar(places, heights, 0.9 * width, label=name, color=figure_style.PALETTE[index % 6])
    axes.set_xticks(range(len(found)), found)
    figure_style.legend(axes)
    return figure
