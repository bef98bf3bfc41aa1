"""A classifier of rendered scenes that judges generated ones, attribute by attribute.

It is trained on scenes alone, held-out pairs among them, with noise so that it forgives what a
generator leaves behind; how often it is right on fresh scenes stands beside its verdicts. Objects
are told apart by their place: the first is the left or the upper one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.data import shapes
from library.types import Array, Aux
from research.vision import patches

_SIZES = {"shape": len(shapes.SHAPES), "colour": len(shapes.COLOURS), "size": len(shapes.SIZES)}
NAMES = (*_SIZES, "number", "relation")
_FIRST = 10**9  # judges learn from indices that no generator sees


class SceneNet(nn.Module):
    """Strided convolutions of 2 x 2 pixels, a layer of features, the logits of all attributes."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """[B, H, W, 3] in [-1, 1] -> "number" [B, 2], "axis" [B, 3], attributes [B, 2, values]."""
        x = patches.to_patch_grid(x, 2)
        for width, stride in ((self.width, 1), (2 * self.width, 2), (2 * self.width, 1)):
            x = nn.relu(nn.Conv(width, (3, 3), (stride, stride))(x))
        x = nn.relu(nn.Dense(8 * self.width)(x.reshape(x.shape[0], -1)))
        heads = {name: nn.Dense(2 * num, name=name)(x) for name, num in _SIZES.items()}
        return {
            "number": nn.Dense(2, name="number")(x),
            "axis": nn.Dense(3, name="axis")(x),
            **{name: logits.reshape(len(x), 2, -1) for name, logits in heads.items()},
        }


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier.

    Attributes:
        read: images [N, H, W, 3] in [-1, 1] -> "number", "axis" [N] and attributes [N, 2].
    """

    read: Callable[[np.ndarray], dict[str, np.ndarray]]

    def right(self, images: np.ndarray, asked: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which of the images show what was asked, [N] bool by attribute, and "all" of them.

        A relation is right if the objects lie along its line, the one that looks more like the
        first on its side.

        Args:
            images: [N, H, W, 3] in [-1, 1].
            asked: a batch of `shapes.batch`, of the N scenes.
        """
        seen, wanted = self.read(images), targets(asked)
        there = np.arange(2)[None] <= wanted["number"][:, None]  # [N, 2]
        agree = {name: (seen[name] == wanted[name]) | ~there for name in _SIZES}
        right = {name: np.all(each, axis=1) for name, each in agree.items()}
        right["number"] = seen["number"] == wanted["number"]
        straight = sum(each.sum(1) for each in agree.values())
        turned = sum(np.sum(seen[name][:, ::-1] == wanted[name], 1) for name in _SIZES)
        right["relation"] = (seen["axis"] == wanted["axis"]) & (
            (straight >= turned) | (wanted["number"] == 0)
        )
        return right | {"all": np.all(np.stack(list(right.values())), axis=0)}


def targets(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a judge should say of scenes: "number" 0 or 1 [N], "axis" 0, 1 or 2, attributes [N, 2].

    Second attributes of a scene of one object are 0 and count for nothing.
    """
    relation = batch["relation"]
    swapped = np.isin(relation, (1, 3))[:, None]  # right of, below: the second comes first
    attributes = {
        name: np.maximum(np.where(swapped, batch[name][:, ::-1], batch[name]), 0) for name in _SIZES
    }
    axis = np.where(relation < 0, 0, 1 + relation // 2)
    return {"number": (relation >= 0).astype(int), "axis": axis, **attributes}


def train(size: int, *, num_steps: int, batch_size: int = 64, width: int = 24, seed: int = 0):
    """A `Judge` of scenes of a size, after Adam with a cosine schedule.

    Args:
        size: pixels.
        num_steps: updates.
        batch_size: scenes an update.
        width: channels of the first layer.
        seed: of start and noise.
    """
    net = SceneNet(width)
    rng = jax.random.key(seed)

    def batch_at(step: int) -> dict[str, np.ndarray]:
        indices = _FIRST + batch_size * step + np.arange(batch_size)
        half = batch_size // 2
        parts = [
            shapes.batch(indices[:half], size),
            shapes.batch(indices[half:], size, held_out=True),
        ]
        scenes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {"image": scenes["image"], **targets(scenes)}

    def loss_fn(params, model_state, rng, batch):
        noise_rng, level_rng = jax.random.split(rng)
        images = to_range(batch["image"])
        level = 0.1 * jax.random.uniform(level_rng, (len(images), 1, 1, 1))
        logits = net.apply(params, images + level * jax.random.normal(noise_rng, images.shape))
        cross = lambda name: optax.softmax_cross_entropy_with_integer_labels(
            logits[name], batch[name]
        )
        there = jnp.arange(2)[None] <= batch["number"][:, None]
        losses = cross("number") + cross("axis")
        losses += sum(jnp.sum(cross(name) * there, 1) for name in _SIZES)
        return losses.mean(), Aux(weight=len(images))

    params = training.quick(
        loss_fn,
        optax.adam(optax.cosine_decay_schedule(2e-3, num_steps)),
        lambda key: net.init(key, jnp.zeros((1, size, size, 3))),
        batch_at,
        num_steps=num_steps,
        rng=rng,
    )
    most_likely = jax.jit(
        lambda images: jax.tree.map(lambda x: x.argmax(-1), net.apply(params, images))
    )

    def read(images: np.ndarray) -> dict[str, np.ndarray]:
        blocks = [images[start : start + 500] for start in range(0, len(images), 500)]
        seen = [jax.device_get(most_likely(jnp.asarray(block))) for block in blocks]
        return {name: np.concatenate([each[name] for each in seen]) for name in seen[0]}

    return Judge(read)


def accuracy(judge: Judge, size: int, num: int, held_out: bool = False) -> dict[str, float]:
    """How often a judge is right on `num` fresh rendered scenes, by attribute and in all."""
    scenes = shapes.batch(2 * _FIRST + np.arange(num), size, held_out=held_out)
    right = judge.right(np.asarray(to_range(scenes["image"])), scenes)
    return {name: float(each.mean()) for name, each in right.items()}


def to_range(images: Array) -> Array:
    """Bytes as floats in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
