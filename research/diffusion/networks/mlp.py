"""A perceptron for points in few dimensions: the network of the two-dimensional studies."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array, Key
from research.diffusion.networks import embeddings, layers


class MLP(nn.Module):
    """Points, time features and a class embedding through `depth` layers of equal width.

    Attributes:
        width, depth: size and number of the hidden layers.
        features: [B] times -> [B, E] features; None is `Fourier(32, scale=1)`.
        num_classes: number of labels, None for no labels. Label `num_classes` is the null class.
    """

    width: int = 128
    depth: int = 3
    features: Callable[[Array], Array] | None = None
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self, x: Array, t: Array, labels: Array | None = None, rng: Key | None = None
    ) -> Array:
        """The prediction for noisy points.

        Args:
            x: [B, D] float.
            t: [B] float, times.
            labels: [B] int in [0, num_classes]; None means the null class throughout.
            rng: taken for a common signature; the network has no dropout.
        Returns:
            [B, D].
        Raises:
            ValueError: for labels without `num_classes` or outside it, or points that are not
                vectors.
        """
        if x.ndim != 2:
            raise ValueError(f"x has shape {x.shape}: expected [B, D]")
        if labels is not None and self.num_classes is None:
            raise ValueError("labels are given to a network with num_classes=None")
        features = (self.features or embeddings.Fourier(32, scale=1.0))(t).astype(x.dtype)
        h = nn.Dense(self.width)(jnp.concatenate([x, features], -1))  # [B, F]
        if self.num_classes is not None:
            labels = layers.checked_labels(labels, self.num_classes, t)
            h = h + nn.Embed(self.num_classes + 1, self.width)(labels).astype(h.dtype)
        for _ in range(self.depth - 1):
            h = nn.Dense(self.width)(nn.silu(h))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(nn.silu(h))
