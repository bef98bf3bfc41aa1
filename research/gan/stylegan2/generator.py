"""The generator of StyleGAN2: latents to styles, styles to images.

Karras et al. 2020, arXiv:1912.04958, in the form of figure 7: every resolution adds its image to
the doubled one of the resolution before ("skip").
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key
from research.gan import checks
from research.gan.stylegan2 import layers
from research.vision import resampling


class Mapping(nn.Module):
    """Latents, labels or both to styles, by a perceptron of unit-moment inputs.

    Attributes:
        width: W, size of a style and of the hidden layers.
        num_layers: dense layers.
        num_classes: labels, None for none.
        decay: of the running mean of styles, which `train` moves; None keeps no mean.
    """

    width: int = 512
    num_layers: int = 8
    num_classes: int | None = None
    decay: float | None = 0.995

    @nn.compact
    def __call__(self, z: Array | None, labels: Array | None = None, train: bool = False) -> Array:
        """Styles [B, W] of latents [B, Z] and labels [B]."""
        parts = [] if z is None else [layers.unit_moment(z)]
        if self.num_classes is not None:
            labels = checks.labels(labels, self.num_classes)
            one_hot = jnp.take(jnp.eye(self.num_classes), labels, axis=0)  # nan outside
            parts.append(layers.unit_moment(layers.Dense(self.width, name="embed")(one_hot)))
        w = jnp.concatenate(parts, -1)
        for index in range(self.num_layers):
            w = layers.leaky_relu(layers.Dense(self.width, rate=0.01, name=f"dense{index}")(w))
        if self.decay is not None:
            mean = self.variable("batch_stats", "mean", jnp.zeros, (self.width,))
            if train and not self.is_initializing():
                mean.value = w.mean(0) + self.decay * (mean.value - w.mean(0))
        return w


class Synthesis(nn.Module):
    """Images of styles, one style a layer; the fields are those of `Generator`."""

    resolution: int
    channel_base: int
    max_channels: int
    image_channels: int

    @nn.compact
    def __call__(self, ws: Array, rng: Key | None = None) -> Array:
        """[B, R, R, image_channels] of styles [B, L, W] and, for noise, keys [B]."""
        width = min(self.channel_base // 4, self.max_channels)
        constant = self.param("constant", nn.initializers.normal(1.0), (4, 4, width))
        h = jnp.broadcast_to(constant.astype(ws.dtype)[None], (ws.shape[0], 4, 4, width))
        image, layer = None, 0
        for size in checks.sizes(self.resolution):
            width = min(self.channel_base // size, self.max_channels)
            for up in [False] if size == 4 else [True, False]:
                noise = None if rng is None else _noise(rng, layer, size)
                styled = StyledConv(width, up, name=f"conv{size}_{int(up or size == 4)}")
                h = styled(h, ws[:, layer], noise)
                layer += 1
            colours = ToImage(self.image_channels, name=f"image{size}")(h, ws[:, layer])
            image = colours if image is None else resampling.fir_up(image) + colours
        return image


class StyledConv(nn.Module):
    """Modulated convolution, noise of a learned strength, bias, leaky ReLU."""

    width: int
    up: bool

    @nn.compact
    def __call__(self, x: Array, w: Array, noise: Array | None) -> Array:
        """[B, H, W, C], styles [B, W], noise [B, H', W', 1] or None -> [B, H', W', width]."""
        style = layers.Dense(x.shape[-1], bias=1.0, name="style")(w)
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        strength = self.param("noise", nn.initializers.zeros, ())
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        h = layers.modulated_conv(x, kernel, style, up=self.up)
        if noise is not None:
            h = h + (noise * strength).astype(h.dtype)
        return layers.leaky_relu(h + bias.astype(h.dtype)[None, None, None, :])


class ToImage(nn.Module):
    """Channels of an image by a modulated 1x1 convolution without demodulation."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        """[B, H, W, C], styles [B, W] -> [B, H, W, channels]."""
        style = layers.Dense(x.shape[-1], bias=1.0, name="style")(w) / math.sqrt(x.shape[-1])
        shape = (1, 1, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        h = layers.modulated_conv(x, kernel, style, demodulate=False)
        return h + bias.astype(h.dtype)[None, None, None, :]


class Generator(nn.Module):
    """Images of latents; `mapping` and `synthesis` are its halves.

    A program of its own styles goes through `apply(..., method="styles")`, `mix` or any other map
    of them, and `apply(..., method="images")`.

    Attributes:
        resolution: R = 4 * 2^n, n >= 1.
        channel_base: channels at resolution r are channel_base // r, at most `max_channels`.
        max_channels: see there.
        image_channels: colours.
        w_dim: W, size of a style.
        num_mapping_layers: dense layers from latent to style.
        num_classes: labels, None for none.
        w_decay: of the running mean of styles, kept in the collection `batch_stats`.
    """

    resolution: int
    channel_base: int = 32768
    max_channels: int = 512
    image_channels: int = 3
    w_dim: int = 512
    num_mapping_layers: int = 8
    num_classes: int | None = None
    w_decay: float = 0.995

    def setup(self):
        self.mapping = Mapping(self.w_dim, self.num_mapping_layers, self.num_classes, self.w_decay)
        self.synthesis = Synthesis(
            self.resolution, self.channel_base, self.max_channels, self.image_channels
        )

    @property
    def num_layers(self) -> int:
        """L: layers of which each takes a style of its own."""
        return 2 * len(checks.sizes(self.resolution))

    def __call__(
        self,
        z: Array,
        labels: Array | None = None,
        rng: Key | None = None,
        truncation: float | Array = 1.0,
        truncated_layers: int | None = None,
        train: bool = False,
    ) -> Array:
        """Images, about in [-1, 1].

        Args:
            z: [B, Z] float, standard normal.
            labels: [B] int, with `num_classes` only.
            rng: [B] keys, one an image, of the noise inside; None for no noise.
            truncation: psi of section 4 of arXiv:1812.04948: 1 all styles, 0 the mean one.
            truncated_layers: how many layers, coarsest first, are truncated; None for all.
            train: whether the mean of styles moves (collection `batch_stats` mutable).
        Returns:
            [B, R, R, image_channels].
        Raises:
            ValueError: for a resolution that is not 4 * 2^n, or labels outside the classes.
        """
        ws = self.styles(z, labels, train)
        if not isinstance(truncation, int | float) or truncation != 1:
            mean = self.mapping.get_variable("batch_stats", "mean")
            ws = truncate(ws, mean, truncation, truncated_layers)
        return self.images(ws, rng)

    def styles(self, z: Array, labels: Array | None = None, train: bool = False) -> Array:
        """Styles [B, L, W] of latents [B, Z], the same for every layer."""
        checks.latents(z)
        checks.given_labels(labels, self.num_classes)
        w = self.mapping(z, labels, train)
        return jnp.broadcast_to(w[:, None], (w.shape[0], self.num_layers, w.shape[1]))

    def images(self, ws: Array, rng: Key | None = None) -> Array:
        """Images [B, R, R, image_channels] of styles [B, L, W]; keys [B] for noise."""
        if ws.ndim != 3 or ws.shape[1] != self.num_layers:
            raise ValueError(f"styles {list(ws.shape)}: expected [B, {self.num_layers}, W]")
        return self.synthesis(ws, rng)


def truncate(
    ws: Array, mean: Array, truncation: float | Array, num_layers: int | None = None
) -> Array:
    """Styles nearer to their mean: mean + psi (w - mean), Karras et al. 2019, arXiv:1812.04948.

    Args:
        ws: [B, L, W] styles.
        mean: [W], of styles.
        truncation: psi; 1 returns `ws` to the bit.
        num_layers: how many of the L layers, coarsest first; None for all.
    Returns:
        [B, L, W].
    """
    moved = ws + (truncation - 1) * (ws - mean[None, None])
    if num_layers is None:
        return moved
    return jnp.where(jnp.arange(ws.shape[1])[None, :, None] < num_layers, moved, ws)


def mix(ws: Array, others: Array, rng: Key, probability: float = 0.9) -> Array:
    """Styles of one latent up to a random layer, of another from there on, with `probability`.

    Mixing regularisation, Karras et al. 2019, arXiv:1812.04948, section 3.1.

    Args:
        ws, others: [B, L, W] styles, L >= 2.
        rng: [B] keys, one an image.
        probability: of an image to be mixed; the crossover is uniform in 1 .. L - 1.
    Returns:
        [B, L, W].
    """
    num_layers = ws.shape[1]

    def crossover(key: Key) -> Array:
        chosen, place = jax.random.split(key)
        layer = jax.random.randint(place, (), 1, num_layers)
        return jnp.where(jax.random.uniform(chosen) < probability, layer, num_layers)

    kept = jnp.arange(num_layers)[None] < jax.vmap(crossover)(rng)[:, None]  # [B, L]
    return jnp.where(kept[..., None], ws, others)


def _noise(rng: Key, layer: int, size: int) -> Array:
    """[B, size, size, 1] standard normals, by example and layer."""
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, layer), (size, size, 1))
    return jax.vmap(draw)(rng)
