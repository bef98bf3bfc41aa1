"""BigGAN: class-conditional residual networks under spectral normalisation, arXiv:1809.11096.

Brock et al. 2019, tables 4 to 6: the latent is split among the blocks, each block's batch norms
take gain and bias from its piece and a shared embedding of the label, the discriminator adds the
projection of its features on the label's vector (Miyato and Koyama 2018, arXiv:1802.05637).

Three collections: `params`, `spectral` (vectors of the power iteration) and, in the generator,
`batch_stats` (running mean and variance). `train=True` moves the last two.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, at_least_float32
from research.gan import checks, spectral
from research.vision import resampling

# Channels over `channels`, from 4x4 on: the input of the first block, then the output of each.
_UP = {
    8: (4, 4),
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# The output of each block of the discriminator, and how many of the blocks halve the image.
_DOWN = {
    8: ((4, 4, 4), 1),
    16: ((4, 4, 4), 2),
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


class Generator(nn.Module):
    """Images of latents and labels.

    Attributes:
        resolution: 8 to 512, a power of two.
        channels: the unit in which widths are counted ("ch").
        num_classes: labels.
        shared_dim: size of the label's vector, shared by all blocks; None gives each norm a table
            of its own and leaves the latent whole (the networks of CIFAR-10 in the paper's code).
        attention: sizes at whose end a block of attention stands; none of them need be there.
        image_channels: colours.
        momentum: of running mean and variance, the share of the old value.
    """

    resolution: int = 128
    channels: int = 64
    num_classes: int = 1000
    shared_dim: int | None = 128
    attention: tuple[int, ...] = (64,)
    image_channels: int = 3
    momentum: float = 0.9

    @nn.compact
    def __call__(self, z: Array, labels: Array, train: bool = False) -> Array:
        """Images [B, R, R, image_channels] in [-1, 1].

        Args:
            z: [B, Z] float; Z a multiple of the number of blocks plus one.
            labels: [B] int in [0, num_classes).
            train: whether statistics are the batch's, and the collections move.
        Raises:
            ValueError: for a resolution without a table, a latent that can't be split evenly, or
                labels outside the classes.
        """
        widths = _table(_UP, self.resolution)
        checks.latents(z)
        labels = checks.labels(labels, self.num_classes)
        first, conditions = self._conditions(z, labels, len(widths) - 1)
        h = spectral.Dense(16 * widths[0] * self.channels, name="from_latent")(first, train)
        h = h.reshape(h.shape[0], 4, 4, -1)
        for index, (width, condition) in enumerate(zip(widths[1:], conditions, strict=True)):
            num_classes = self.num_classes if self.shared_dim is None else None
            block = UpBlock(width * self.channels, self.momentum, num_classes, name=f"block{index}")
            h = block(h, condition, train)
            if 8 * 2**index in self.attention:
                h = Attention(name=f"attention{8 * 2**index}")(h, train)
        h = nn.relu(_batch_norm(self.momentum, train, affine=True, name="norm")(h))
        return jnp.tanh(spectral.Conv(self.image_channels, name="to_image")(h, train))

    def _conditions(self, z: Array, labels: Array, num_blocks: int) -> tuple[Array, list[Array]]:
        """What the first layer sees, and what the norms of each block."""
        if self.shared_dim is None:
            return z, [labels] * num_blocks
        if z.shape[1] % (num_blocks + 1):
            raise ValueError(f"z has {z.shape[1]} numbers: expected a multiple of {num_blocks + 1}")
        table = nn.initializers.orthogonal()
        embed = nn.Embed(self.num_classes, self.shared_dim, embedding_init=table, name="embed")
        first, *pieces = jnp.split(z, num_blocks + 1, axis=1)
        embedded = embed(labels).astype(z.dtype)
        return first, [jnp.concatenate([embedded, piece], -1) for piece in pieces]


class Discriminator(nn.Module):
    """Logits of images under their label.

    Attributes:
        resolution, channels, num_classes, attention: as `Generator`.
        wide: whether the first convolution of a block has the width of its output, else of its
            input (the discriminator of CIFAR-10 in the paper's code).
    """

    resolution: int = 128
    channels: int = 64
    num_classes: int = 1000
    attention: tuple[int, ...] = (64,)
    wide: bool = True

    @nn.compact
    def __call__(self, x: Array, labels: Array, train: bool = False) -> Array:
        """Logits [B] of images [B, R, R, colours] and labels [B]; `train` moves `spectral`.

        Raises:
            ValueError: for a resolution without a table, images of another size, or labels
                outside the classes.
        """
        widths, num_halved = _table(_DOWN, self.resolution)
        checks.images(x, self.resolution)
        labels = checks.labels(labels, self.num_classes)
        h, size = x, self.resolution
        for index, width in enumerate(widths):
            down = index < num_halved
            width *= self.channels
            hidden = width if self.wide else h.shape[-1]
            block = DownBlock(hidden, width, down, first=index == 0, name=f"block{index}")
            h, size = block(h, train), size // (2 if down else 1)
            if down and size in self.attention:
                h = Attention(name=f"attention{size}")(h, train)
        h = nn.relu(h).astype(at_least_float32(h)).sum((1, 2))  # [B, C]
        logits = spectral.Dense(1, name="logit")(h, train)[:, 0]
        rows = spectral.Embed(self.num_classes, h.shape[-1], name="embed")(labels, train)
        return logits + jnp.einsum("bc,bc->b", rows.astype(h.dtype), h)


class UpBlock(nn.Module):
    """Residual block to twice the height and width; norms conditioned on a vector."""

    width: int
    momentum: float
    num_classes: int | None

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        """[B, H, W, C], [B, D] or labels [B] -> [B, 2 H, 2 W, width]."""
        norm = lambda name: ConditionalBatchNorm(self.momentum, self.num_classes, name=name)
        h = nn.relu(norm("norm0")(x, condition, train))
        h = spectral.Conv(self.width, name="conv0")(resampling.nearest(h), train)
        h = nn.relu(norm("norm1")(h, condition, train))
        h = spectral.Conv(self.width, name="conv1")(h, train)
        # A 1x1 convolution and the doubling commute; before it costs a quarter.
        shortcut = spectral.Conv(self.width, (1, 1), name="short")(x, train)
        return h + resampling.nearest(shortcut)


class DownBlock(nn.Module):
    """Residual block that may halve the image; the first one sees pixels, without ReLU."""

    hidden: int
    width: int
    down: bool
    first: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B, H, W, C] -> [B, H, W, width] or [B, H/2, W/2, width]."""
        h = x if self.first else nn.relu(x)
        h = nn.relu(spectral.Conv(self.hidden, name="conv0")(h, train))
        h = spectral.Conv(self.width, name="conv1")(h, train)
        if self.down:  # pooling commutes with the 1x1 convolution of the shortcut
            h, x = resampling.mean_pool(h), resampling.mean_pool(x)
        if self.down or x.shape[-1] != self.width:
            x = spectral.Conv(self.width, (1, 1), name="short")(x, train)
        return h + x


class Attention(nn.Module):
    """x + gamma f(x), f attention of pixels to a pooled image, Zhang et al., arXiv:1805.08318."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B, H, W, C] -> [B, H, W, C], C a multiple of 8."""
        batch, height, width, channels = x.shape
        project = lambda features, name: spectral.Conv(features, (1, 1), use_bias=False, name=name)
        pool = lambda h: nn.max_pool(h, (2, 2), (2, 2)).reshape(batch, -1, h.shape[-1])
        query = project(channels // 8, "query")(x, train).reshape(batch, height * width, -1)
        key = pool(project(channels // 8, "key")(x, train))  # [B, S, C/8]
        value = pool(project(channels // 2, "value")(x, train))  # [B, S, C/2]
        logits = jnp.einsum("btc,bsc->bts", query, key)
        weights = jax.nn.softmax(logits.astype(at_least_float32(logits)), -1).astype(x.dtype)
        mixed = jnp.einsum("bts,bsc->btc", weights, value).reshape(batch, height, width, -1)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * project(channels, "out")(mixed, train)


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose gain, around 1, and bias are linear in a vector of each image.

    With `num_classes` the condition is a label, and the two are rows of tables.
    """

    momentum: float
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x: Array, condition: Array, train: bool) -> Array:
        """[B, H, W, C], [B, D] or labels [B] -> [B, H, W, C]."""

        def linear(name: str) -> Array:  # [B, 1, 1, C]
            if self.num_classes is None:
                dense = spectral.Dense(x.shape[-1], use_bias=False, name=name)
                return dense(condition, train)[:, None, None, :]
            table = nn.initializers.normal(0.02)
            embed = nn.Embed(self.num_classes, x.shape[-1], embedding_init=table, name=name)
            return embed(condition).astype(x.dtype)[:, None, None, :]

        gain, bias = 1 + linear("gain"), linear("bias")
        return gain * _batch_norm(self.momentum, train, affine=False, name="norm")(x) + bias


def standing_statistics(
    generator: Generator, variables: dict[str, Any], z: Array, labels: Array
) -> dict[str, Any]:
    """The mean over passes of the statistics of whole batches, to sample with; section 3.

    Running statistics lag behind the weights, and those of an EMA belong to other weights.

    Args:
        generator: the module.
        variables: its collections; `params` may be the EMA's.
        z: [N, B, Z] latents of N passes (16 in the paper's code).
        labels: [N, B] int.
    Returns:
        `variables` with the new `batch_stats`, the rest as it was.
    Raises:
        ValueError: if the passes of latents and labels differ.
    """
    if z.ndim != 3 or labels.shape != z.shape[:2]:
        raise ValueError(
            f"z {list(z.shape)}, labels {list(labels.shape)}: expected [N, B, Z], [N, B]"
        )
    forgetful = generator.clone(momentum=0.0)

    def statistics(batch: tuple[Array, Array]) -> Any:
        _, new = forgetful.apply(variables, *batch, train=True, mutable=["batch_stats", "spectral"])
        return new["batch_stats"]

    passes = jax.lax.map(statistics, (z, labels))
    return {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf.mean(0), passes)}


def _batch_norm(momentum: float, train: bool, affine: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=momentum, epsilon=1e-5, use_scale=affine,
        use_bias=affine, use_fast_variance=False, name=name,
    )  # fmt: skip


def _table(table: dict[int, Any], resolution: int) -> Any:
    if resolution not in table:
        expected = ", ".join(map(str, table))
        raise ValueError(f"resolution={resolution}: expected 4 * 2^n among {expected}")
    return table[resolution]
