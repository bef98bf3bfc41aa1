"""One stochastic layer of vectors between strided convolutions and doubled images."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array
from research.vae.networks import heads
from research.vae.networks.perceptrons import label_vectors
from research.vision import convolutions

_he = nn.initializers.he_normal()


class Convolutional(nn.Module):
    """`encode` and `decode` of images, for `single.terms`.

    Attributes:
        image_shape: (H, W, C); 2^(number of channels) divides H and W.
        latent_dim: L, numbers of z.
        channels: of each halved resolution, finest first.
        width: of the dense layers on either side of the latent.
        head: what the decoder ends in.
        num_classes: labels that encoder and decoder see; None for none.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 32
    channels: tuple[int, ...] = (32, 64)
    width: int = 256
    head: heads.Head = heads.BERNOULLI
    num_classes: int | None = None

    def setup(self):
        factor = 2 ** len(self.channels)
        height, width, colours = self.image_shape
        if height % factor or width % factor or not self.channels:
            raise ValueError(
                f"image_shape={self.image_shape}: expected sides that are multiples of {factor}, "
                "which the strides divide"
            )
        self.small = (height // factor, width // factor, self.channels[-1])
        self.down = [
            nn.Conv(channels, (4, 4), (2, 2), ((1, 1), (1, 1)), kernel_init=_he)
            for channels in self.channels
        ]
        self.dense_down = nn.Dense(self.width, kernel_init=_he)
        self.mean, self.log_var = nn.Dense(self.latent_dim), nn.Dense(self.latent_dim)
        self.dense_up = nn.Dense(self.width, kernel_init=_he)
        self.spread = nn.Dense(math.prod(self.small), kernel_init=_he)
        finer = (*self.channels[::-1][1:], self.channels[0])
        self.up = [convolutions.ConvOfDoubled(channels) for channels in finer]
        self.output = nn.Conv(colours * self.head.count, (3, 3))

    def encode(self, x: Array, labels: Array | None = None) -> tuple[Array, Array]:
        """Mean and log variance [B, L] of images [B, *image_shape].

        Raises:
            ValueError: for images of another shape, or labels that do not fit.
        """
        if x.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"x {list(x.shape)}: expected [B, {str(self.image_shape)[1:-1]}]")
        h = self.head.see(x)
        for conv in self.down:
            h = nn.silu(conv(h))
        h = nn.silu(self.dense_down(self._beside(h.reshape(len(h), -1), labels)))
        return self.mean(h), self.log_var(h)

    def decode(self, z: Array, labels: Array | None = None) -> Any:
        """The likelihood of images, of z [B, L]."""
        h = nn.silu(self.dense_up(self._beside(z, labels)))
        h = nn.silu(self.spread(h)).reshape(len(z), *self.small)
        for conv in self.up:
            h = nn.silu(conv(h))
        return self.head(self.output(h))

    def __call__(self, x: Array, labels: Array | None = None) -> Any:
        """The likelihood of images at the mean of their posterior; for `init`."""
        return self.decode(self.encode(x, labels)[0], labels)

    def _beside(self, h: Array, labels: Array | None) -> Array:
        one_hot = label_vectors(labels, self.num_classes, len(h))
        return h if one_hot is None else jnp.concatenate([h, one_hot.astype(h.dtype)], -1)
