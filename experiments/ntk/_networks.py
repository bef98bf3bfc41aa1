"""The three small networks of the study, and the 8 x 8 digits that they learn."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import numpy as np

from library.data.sets import digits
from library.types import Array

NUM_CLASSES = 10


class MLP(nn.Module):
    """Two hidden layers."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(NUM_CLASSES)(x)


class CNN(nn.Module):
    """Three 3 x 3 convolutions, the second with stride 2, and the mean over positions."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for stride in (1, 2, 1):
            x = nn.relu(nn.Conv(self.width, (3, 3), strides=stride)(x))
        return nn.Dense(NUM_CLASSES)(x.mean((1, 2)))


class Transformer(nn.Module):
    """Rows of pixels as tokens, learned positions, one pre-norm block, the mean over tokens."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.width)(x[..., 0])  # [B, 8, D]
        x = x + self.param("positions", nn.initializers.normal(0.2), (1, *x.shape[1:]))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(NUM_CLASSES)(nn.LayerNorm()(x).mean(1))


NETWORKS = {"MLP": MLP, "CNN": CNN, "transformer": Transformer}


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images [N, 8, 8, 1] in [-1, 1], labels [N] and centred one-hot targets [N, 10]."""

    x: np.ndarray
    label: np.ndarray

    @property
    def y(self) -> np.ndarray:
        """One-hot less its mean over classes."""
        return np.eye(NUM_CLASSES, dtype=np.float32)[self.label] - 1 / NUM_CLASSES


def read_digits(split: str, num: int, seed: int) -> Digits:
    """A random selection of a split."""
    arrays = digits.arrays(split)
    rows = np.random.default_rng(seed).permutation(len(arrays["label"]))[:num]
    images = arrays["image"][rows].astype(np.float32) * (2 / digits.MAX_VALUE) - 1
    return Digits(images, arrays["label"][rows])
