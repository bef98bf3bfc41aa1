"""A classifier that judges samples, and whose features Frechet distances are taken in.

It never sees a sample. Its accuracy on held-out images stands beside its verdicts; distances in its
features, "feature-FID", compare with each other and with no published FID.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.types import Array, Aux, Batch


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier.

    Attributes:
        labels: images [N, H, W, C] in [-1, 1] -> labels [N].
        features: images -> [N, F], the layer before the logits.
        name: of the network and its training.
    """

    labels: Callable[[np.ndarray], np.ndarray]
    features: Callable[[np.ndarray], np.ndarray]
    name: str


class ConvNet(nn.Module):
    """Two convolutions with pooling, a layer of features, and logits."""

    widths: tuple[int, int]
    num_features: int
    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] in [-1, 1] -> logits [B, num_classes] and features [B, F]."""
        for width in self.widths:
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        features = nn.relu(nn.Dense(self.num_features)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(features), features


def train(
    data: Batch,
    *,
    num_steps: int,
    batch_size: int = 128,
    widths: tuple[int, int] = (16, 32),
    num_features: int = 64,
    seed: int = 0,
) -> Judge:
    """A `ConvNet` after Adam with a cosine schedule.

    Args:
        data: {"images": [N, H, W, C] in [-1, 1], "labels": [N]}.
        num_steps: updates.
        batch_size: images an update.
        widths, num_features: of the network.
        seed: of start and order.
    """
    num_classes = int(data["labels"].max()) + 1
    net = ConvNet(widths, num_features, num_classes)
    start = jax.jit(net.init)(jax.random.key(seed), jnp.asarray(data["images"][:1]))

    def loss_fn(params, model_state, rng, batch):
        logits, _ = net.apply(params, batch["images"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return losses.mean(), Aux(batch["labels"].size)

    params = training.quick(
        loss_fn,
        optax.adam(optax.cosine_decay_schedule(2e-3, num_steps)),
        lambda _: start,
        training.batches(data, min(batch_size, len(data["labels"])), seed),
        num_steps=num_steps,
        rng=jax.random.key(seed),
    )
    both = jax.jit(lambda images: net.apply(params, images))

    def in_blocks(images: np.ndarray, which: int) -> np.ndarray:
        blocks = [images[start : start + 500] for start in range(0, len(images), 500)]
        return np.concatenate([np.asarray(both(jnp.asarray(block))[which]) for block in blocks])

    name = f"{num_features} features of a convolutional classifier after {num_steps:,} updates"
    return Judge(
        lambda images: in_blocks(images, 0).argmax(1), lambda images: in_blocks(images, 1), name
    )
