"""R3GAN: residual networks without normalisation, for the relativistic loss with R1 and R2.

Huang et al. 2024, arXiv:2501.05441. Stages of residual blocks with grouped convolutions, one
stage a resolution; images are doubled and halved by the filter [1, 3, 3, 1]. Every field that has
one entry a stage is given from the coarsest stage (4x4) to the finest, in both networks.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array
from research.gan import checks
from research.vision import resampling

_GAIN = math.sqrt(2 / (1 + 0.2**2))  # of a leaky ReLU with slope 0.2


class Generator(nn.Module):
    """Images [B, R, R, image_channels] of latents, R = 4 * 2^(stages - 1).

    Attributes:
        widths: channels of each stage, 4x4 first.
        groups: groups of the 3x3 convolutions of each stage ("cardinality").
        num_blocks: residual blocks of each stage.
        expansion: channels inside a block over those outside.
        image_channels: colours.
        num_classes: labels, None for none.
        embed_dim: size of the label's vector, which joins the latent.
    """

    widths: tuple[int, ...] = (768, 768, 768, 768)
    groups: tuple[int, ...] = (96, 96, 96, 96)
    num_blocks: tuple[int, ...] = (2, 2, 2, 2)
    expansion: int = 2
    image_channels: int = 3
    num_classes: int | None = None
    embed_dim: int = 64

    @nn.compact
    def __call__(self, z: Array, labels: Array | None = None) -> Array:
        """Images [B, R, R, image_channels], about in [-1, 1], of latents [B, Z].

        Raises:
            ValueError: if the stages do not fit together, or labels are outside the classes.
        """
        checks.latents(z)
        checks.given_labels(labels, self.num_classes)
        _check_stages(self.widths, self.groups, self.num_blocks, self.expansion)
        if self.num_classes is not None:
            table = nn.initializers.normal(self.num_classes**-0.5)
            embed = nn.Embed(self.num_classes, self.embed_dim, embedding_init=table, name="embed")
            labels = checks.labels(labels, self.num_classes)
            z = jnp.concatenate([z, embed(labels).astype(z.dtype)], -1)
        basis = self.param("basis", nn.initializers.normal(1.0), (4, 4, self.widths[0]))
        scale = _dense(self.widths[0], "from_latent")(z)
        h = basis.astype(z.dtype)[None] * scale[:, None, None, :]
        for stage, width in enumerate(self.widths):
            if stage:
                if width != self.widths[stage - 1]:
                    h = _conv(width, name=f"up{stage}")(h)
                h = resampling.fir_up(h)
            for block in range(self.num_blocks[stage]):
                h = Block(
                    self.groups[stage], self.expansion, sum(self.num_blocks),
                    name=f"stage{stage}_block{block}",
                )(h)  # fmt: skip
        return _conv(self.image_channels, name="to_image")(h)


class Discriminator(nn.Module):
    """Logits of images; the fields are those of `Generator`, 4x4 first.

    With classes the last features meet a vector of the label in a scalar product of size
    `embed_dim`, which is the first width in the paper's networks.
    """

    widths: tuple[int, ...] = (768, 768, 768, 768)
    groups: tuple[int, ...] = (96, 96, 96, 96)
    num_blocks: tuple[int, ...] = (2, 2, 2, 2)
    expansion: int = 2
    num_classes: int | None = None
    embed_dim: int = 768

    @nn.compact
    def __call__(self, x: Array, labels: Array | None = None) -> Array:
        """Logits [B] of images [B, R, R, colours].

        Raises:
            ValueError: if the stages do not fit together or the images to them, or labels are
                outside the classes.
        """
        checks.images(x, 4 * 2 ** (len(self.widths) - 1))
        checks.given_labels(labels, self.num_classes)
        _check_stages(self.widths, self.groups, self.num_blocks, self.expansion)
        h = _conv(self.widths[-1], name="from_image")(x)
        for stage in reversed(range(len(self.widths))):
            for block in range(self.num_blocks[stage]):
                h = Block(
                    self.groups[stage], self.expansion, sum(self.num_blocks),
                    name=f"stage{stage}_block{block}",
                )(h)  # fmt: skip
            if stage:
                h = resampling.fir_down(h)
                if self.widths[stage - 1] != self.widths[stage]:
                    h = _conv(self.widths[stage - 1], name=f"down{stage}")(h)
        basis = self.param("basis", nn.initializers.normal(0.25), (4, 4, self.widths[0]))
        h = jnp.einsum("bhwc,hwc->bc", h, basis.astype(h.dtype))
        if self.num_classes is None:
            return _dense(1, "logit")(h)[:, 0]
        table = nn.initializers.normal((self.num_classes * self.embed_dim) ** -0.5)
        embed = nn.Embed(self.num_classes, self.embed_dim, embedding_init=table, name="embed")
        labels = checks.labels(labels, self.num_classes)
        features = _dense(self.embed_dim, "logit")(h)
        return jnp.einsum("be,be->b", features, embed(labels).astype(h.dtype))


class Block(nn.Module):
    """x + f(x), f of 1x1, grouped 3x3 and 1x1 convolutions; the last starts at zero.

    Attributes:
        groups: of the 3x3 convolution.
        expansion: channels inside over those outside.
        depth: residual blocks of the whole network, which scales the start of the first two
            convolutions by depth^-1/4 (Fixup, Zhang et al. 2019, arXiv:1901.09321).
    """

    groups: int
    expansion: int
    depth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        width, gain = self.expansion * x.shape[-1], _GAIN * self.depth**-0.25
        h = _conv(width, gain=gain, name="conv0")(x)
        h = self._biased(h, "bias0")
        h = _conv(width, side=3, groups=self.groups, gain=gain, name="conv1")(h)
        h = self._biased(h, "bias1")
        return x + _conv(x.shape[-1], gain=0.0, name="conv2")(h)

    def _biased(self, h: Array, name: str) -> Array:
        bias = self.param(name, nn.initializers.zeros, h.shape[-1:])
        return nn.leaky_relu(h + bias.astype(h.dtype)[None, None, None, :], 0.2)


def _conv(
    width: int, side: int = 1, groups: int = 1, gain: float = 1.0, name: str | None = None
) -> nn.Conv:
    init = nn.initializers.zeros
    if gain:
        init = nn.initializers.variance_scaling(gain**2, "fan_in", "normal")
    return nn.Conv(
        width, (side, side), feature_group_count=groups, use_bias=False, kernel_init=init, name=name
    )


def _dense(width: int, name: str) -> nn.Dense:
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return nn.Dense(width, use_bias=False, kernel_init=init, name=name)


def _check_stages(
    widths: tuple[int, ...], groups: tuple[int, ...], num_blocks: tuple[int, ...], expansion: int
) -> None:
    if not len(widths) == len(groups) == len(num_blocks) or len(widths) < 2:
        raise ValueError(
            f"widths={widths}, groups={groups}, num_blocks={num_blocks}: expected one entry for "
            "each of at least two stages"
        )
    for width, group in zip(widths, groups, strict=True):
        if width * expansion % group:
            raise ValueError(f"groups {group} do not divide {width} * {expansion} channels")
