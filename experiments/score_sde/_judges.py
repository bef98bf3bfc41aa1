"""Classifiers that judge samples: one that is independent of our code, one whose features serve.

A judge never sees a sample, and its accuracy on held-out data is reported beside its verdicts.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import svm

from library import claims, training
from library.data import pipeline
from library.types import Array, Aux, Batch

Judge = Callable[[np.ndarray], np.ndarray]  # images [N, H, W, C] -> labels [N]


def support_vectors(train: Batch) -> Judge:
    """scikit-learn's support vector machine with Gaussian kernel on the pixels, at C = 10."""
    machine = svm.SVC(C=10.0).fit(_flat(train["image"]), train["label"])
    return lambda images: machine.predict(_flat(images))


def accuracy(judge: Judge, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images [N, ...] that the judge gives the label [N] asked for."""
    return float(np.mean(judge(images) == labels))


def verdicts(
    judge: Judge,
    held_out: Batch,
    guided: np.ndarray,
    asked: np.ndarray,
    bars: tuple[float | None, float | None],
) -> claims.Result:
    """How often the judge is right on held-out data, and names the asked class of samples.

    Args:
        judge: the classifier.
        held_out: data that it was not fitted on.
        guided: [N, H, W, C] samples.
        asked: [N] their labels.
        bars: least accuracies on both that are claimed; None for no claim.
    """
    found = {
        "judge_accuracy": accuracy(judge, held_out["image"], held_out["label"]),
        "guided_accuracy": accuracy(judge, guided, asked),
    }
    stated = [
        claims.at_least(name, value, bar, source=claims.bar(reason))
        for (name, reason), value, bar in zip(_BARS.items(), found.values(), bars)
        if bar is not None
    ]
    return claims.Result(found, stated)


class ConvNet(nn.Module):
    """Two convolutions with pooling, a layer of features, and logits."""

    widths: tuple[int, int]
    num_features: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] in [-1, 1] -> logits [B, 10] and features [B, F]."""
        for width in self.widths:
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        features = nn.relu(nn.Dense(self.num_features)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(features), features


def train_conv_net(
    train: Batch,
    *,
    num_steps: int,
    batch_size: int = 128,
    widths: tuple[int, int] = (16, 32),
    num_features: int = 64,
    seed: int = 0,
) -> tuple[Judge, Judge]:
    """A trained `ConvNet` as two functions of images [N, H, W, C]: labels [N], features [N, F]."""
    net = ConvNet(widths, num_features)
    start = jax.jit(net.init)(jax.random.key(seed), train["image"][:1])

    def loss_fn(params, model_state, rng, batch):
        logits, _ = net.apply(params, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), Aux(batch["label"].size)

    params = training.quick(
        loss_fn,
        optax.adam(optax.cosine_decay_schedule(2e-3, num_steps)),
        lambda _: start,
        pipeline.array_batch_at(train, batch_size, seed=seed),
        num_steps=num_steps,
        rng=jax.random.key(seed),
    )
    both = jax.jit(lambda images: net.apply(params, images))

    def in_blocks(images: np.ndarray, which: int) -> np.ndarray:
        blocks = [images[start : start + 500] for start in range(0, len(images), 500)]
        return np.concatenate([np.asarray(both(jnp.asarray(block))[which]) for block in blocks])

    return lambda images: in_blocks(images, 0).argmax(1), lambda images: in_blocks(images, 1)


_BARS = {  # the reason for each, both set before the first run
    "judge's accuracy on held-out data": "a judge that errs more often is no witness",
    "asked class named in guided samples": "about as often as a judge of 98 % is right on data",
}


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
