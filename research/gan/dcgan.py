"""Deep convolutional GAN, Radford et al. 2016, arXiv:1511.06434: the plain pair of networks.

Every layer doubles or halves the resolution by a 4x4 convolution of stride 2, from 4x4 on; batch
norm but at the images' ends, ReLU up and leaky ReLU (0.2) down, tanh at the end, weights N(0,
0.02^2). With a width of 64 and images of 64x64 it is the network of 3,576,704 and 2,765,568
parameters that tutorials train.

    generate, discriminate = dcgan.players(generator, discriminator)
    play = training.make_round(losses.non_saturating, generate, discriminate, optimizer, optimizer)
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from library import checks as counts
from library.types import Array, Batch, Key, ModelState, Params, at_least_float32
from research.gan import checks, games

_init = nn.initializers.normal(0.02)


class Generator(nn.Module):
    """Images of latents.

    Attributes:
        resolution: R = 4 * 2^n, n >= 1, height and width.
        width: channels before the last layer, doubled at each halving of the size.
        channels: of the image.
        batch_norm: whether layers but the last are normalised by the batch.
    """

    resolution: int = 64
    width: int = 64
    channels: int = 3
    batch_norm: bool = True

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        """[B, Z] -> [B, R, R, channels] in (-1, 1).

        Args:
            z: float, N(0, 1).
            train: whether statistics are the batch's (and the running ones move).
        Raises:
            ValueError: for latents that are no floats [B, Z], or sizes of no use.
        """
        checks.latents(z)
        counts.count("width", self.width, of="channels")
        sizes = checks.sizes(self.resolution)
        widths = [self.width * self.resolution // (2 * size) for size in sizes[:-1]]
        h = nn.Dense(16 * widths[0], use_bias=False, kernel_init=_init)(z)
        h = h.reshape(-1, 4, 4, widths[0])
        for features in (*widths[1:], self.channels):
            h = nn.relu(_norm(self.batch_norm, train)(h))
            h = nn.ConvTranspose(features, (4, 4), (2, 2), use_bias=False, kernel_init=_init)(h)
        return jnp.tanh(h)


class Discriminator(nn.Module):
    """Logits of images.

    Attributes:
        resolution, width, batch_norm: as `Generator`; batch norm neither in the first layer nor in
            the last. Without it the critic looks at each image alone, as R1 wants it.
    """

    resolution: int = 64
    width: int = 64
    batch_norm: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, R, R, C] -> [B]; float32 at least.

        Args:
            x: float images.
            train: as `Generator`.
        Raises:
            ValueError: for images of another size or of integers.
        """
        counts.count("width", self.width, of="channels")
        sizes = checks.sizes(self.resolution)
        checks.images(x, self.resolution)
        for index in range(len(sizes) - 1):
            features = self.width * 2**index
            x = nn.Conv(features, (4, 4), (2, 2), use_bias=False, kernel_init=_init)(x)
            x = _norm(self.batch_norm, train)(x) if index else x
            x = nn.leaky_relu(x, 0.2)
        logits = nn.Dense(1, use_bias=False, kernel_init=_init)(x.reshape(len(x), -1))[:, 0]
        return logits.astype(at_least_float32(logits))


def init(
    generator: Generator, discriminator: Discriminator, rng: Key, latent_dim: int = 100
) -> tuple[Params, ModelState]:
    """Parameters and running statistics of both, {"generator": ..., "discriminator": ...}."""
    size, channels = generator.resolution, generator.channels
    g_rng, d_rng = jax.random.split(rng)
    variables = {
        "generator": generator.init(g_rng, jnp.zeros((1, latent_dim))),
        "discriminator": discriminator.init(d_rng, jnp.zeros((1, size, size, channels))),
    }
    params = {player: tree["params"] for player, tree in variables.items()}
    return params, {p: tree.get("batch_stats", {}) for p, tree in variables.items()}


def players(
    generator: Generator, discriminator: Discriminator, latent_dim: int = 100
) -> tuple[games.Generate, games.Discriminate]:
    """The two functions of `research.gan.games`, in training mode, for batches of images."""

    def generate(params: Params, model_state: ModelState, rng: Key, batch: Batch):
        z = games.latents(rng, len(games.images_of(batch)), latent_dim)
        return _apply(generator, params, model_state, z)

    def discriminate(
        params: Params, model_state: ModelState, rng: Key, images: Array, batch: Batch
    ):
        return _apply(discriminator, params, model_state, images)

    return generate, discriminate


def _apply(
    module: nn.Module, params: Params, model_state: ModelState, x: Array
) -> tuple[Array, ModelState]:
    variables = {"params": params, "batch_stats": model_state}
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, updated.get("batch_stats", {})


def _norm(batch_norm: bool, train: bool):
    if not batch_norm:
        return lambda x: x
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
