"""A critic of patches: one logit for every patch of an image, and a loss over all of them.

Isola et al. 2017, arXiv:1611.07004, sec. 3.3 and appendix A (pix2pix's PatchGAN). It judges texture
and leaves the whole to another term, so it goes with reconstructions: Esser et al. 2021,
arXiv:2012.09841; Rombach et al. 2022, arXiv:2112.10752.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from library import checks as counts
from library.types import Array, Batch, Key, ModelState, Params, at_least_float32
from research.gan import games
from research.gan.losses import Loss

_init = nn.initializers.normal(0.02)


class Discriminator(nn.Module):
    """Logits of overlapping patches of 16, 34, 70, 142 pixels at a depth of 1, 2, 3, 4.

    Attributes:
        width: channels of the first layer; the next have 2, 4, 8, 8, ... times as many.
        depth: layers that halve the sides; two that do not come after.
        batch_norm: in all layers but the first and the last. Without it the critic looks at each
            image alone, as microbatches and R1 want it.
    """

    width: int = 64
    depth: int = 3
    batch_norm: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, H, W, C] -> [B, h, w], about H / 2^depth - 2; float32 at least.

        Args:
            x: float images.
            train: normalise by the batch and update running statistics.
        Raises:
            ValueError: for images of integers, or too small for one patch.
        """
        counts.count("width", self.width, of="channels")
        counts.count("depth", self.depth, of="layers")
        least = 2 ** (self.depth + 1) + 2**self.depth
        if x.ndim != 4 or min(x.shape[1:3]) < least or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"images {x.dtype}{list(x.shape)}: expected floats [B, H, W, C] of {least} pixels "
                f"or more at depth={self.depth}"
            )
        for index in range(self.depth + 1):
            stride = 2 if index < self.depth else 1
            normed = self.batch_norm and index
            conv = nn.Conv(
                self.width * min(2**index, 8), (4, 4), (stride, stride), 1,
                use_bias=not normed, kernel_init=_init,
            )  # fmt: skip
            x = conv(x)
            if normed:
                x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False)(x)
            x = nn.leaky_relu(x, 0.2)
        logits = nn.Conv(1, (4, 4), padding=1, kernel_init=_init)(x)[..., 0]
        return logits.astype(at_least_float32(logits))


def discriminate(module: Discriminator) -> games.Discriminate:
    """The critic as `games.Game` wants it, in training mode; its model state is "batch_stats"."""

    def of(params: Params, model_state: ModelState, rng: Key, images: Array, batch: Batch):
        variables = {"params": params, "batch_stats": model_state}
        logits, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, updated.get("batch_stats", {})

    return of


@dataclasses.dataclass(frozen=True)
class OnPatches:
    """A loss that takes every patch for an example: the mean over images and patches.

    Attributes:
        loss: of `research.gan.losses`, of logits [B].
    """

    loss: Loss

    @property
    def undecided(self) -> float:
        """As of the loss."""
        return self.loss.undecided

    def discriminator(self, real: Array, fake: Array) -> Array:
        """See `losses.Loss`, of logits [B, ...] of one shape; ValueError for others."""
        return self.loss.discriminator(*_flat(real, fake))

    def generator(self, real: Array, fake: Array) -> Array:
        """See `losses.Loss`, of logits [B, ...] of one shape; ValueError for others."""
        return self.loss.generator(*_flat(real, fake))


def _flat(real: Array, fake: Array) -> tuple[Array, Array]:
    if real.shape != fake.shape:
        raise ValueError(f"logits real {real.shape}, fake {fake.shape}: expected one shape")
    return real.reshape(-1), fake.reshape(-1)
