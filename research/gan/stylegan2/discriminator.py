"""The discriminator of StyleGAN2: residual blocks down to 4x4, Karras et al., arXiv:1912.04958."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array
from research.gan import checks
from research.gan.stylegan2 import layers
from research.gan.stylegan2.generator import Mapping


class Discriminator(nn.Module):
    """Logits of images; with classes, of images under their label (projection).

    Attributes:
        resolution: R = 4 * 2^n, n >= 1.
        channel_base: channels at resolution r are channel_base // r, at most `max_channels`.
        max_channels: see there.
        num_classes: labels, None for none.
        group: images over which the deviation is taken that joins the last block; None leaves
            that channel out, and the network then sees one image at a time.
    """

    resolution: int
    channel_base: int = 32768
    max_channels: int = 512
    num_classes: int | None = None
    group: int | None = 4

    @nn.compact
    def __call__(self, x: Array, labels: Array | None = None) -> Array:
        """Logits [B] of images [B, R, R, colours].

        Raises:
            ValueError: for a resolution that is not 4 * 2^n, images of another size, a batch that
                the group does not divide, or labels outside the classes.
        """
        checks.images(x, self.resolution)
        checks.given_labels(labels, self.num_classes)
        widths = {
            size: min(self.channel_base // size, self.max_channels)
            for size in checks.sizes(self.resolution)
        }
        h = layers.Conv(widths[self.resolution], side=1, name="from_image")(x)
        h = layers.leaky_relu(h)
        for size in checks.sizes(self.resolution)[:0:-1]:
            h = Block(widths[size // 2], name=f"block{size}")(h)
        if self.group is not None:
            h = layers.minibatch_deviation(h, self.group)
        h = layers.leaky_relu(layers.Conv(widths[4], name="conv")(h))
        h = layers.leaky_relu(layers.Dense(widths[4], name="dense")(h.reshape(h.shape[0], -1)))
        if self.num_classes is None:
            return layers.Dense(1, name="logit")(h)[:, 0]
        h = layers.Dense(widths[4], name="logit")(h)
        directions = Mapping(widths[4], num_classes=self.num_classes, decay=None, name="mapping")
        along = jnp.einsum("bc,bc->b", h, directions(None, labels).astype(h.dtype))
        return along / math.sqrt(widths[4])


class Block(nn.Module):
    """(f(x) + shortcut(x)) / sqrt(2), both at half the height and width."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H/2, W/2, width]."""
        shortcut = layers.Conv(self.width, side=1, down=True, bias=False, name="short")(x)
        h = layers.leaky_relu(layers.Conv(x.shape[-1], name="conv0")(x))
        h = layers.leaky_relu(layers.Conv(self.width, down=True, name="conv1")(h))
        return (h + shortcut) * math.sqrt(0.5)
