"""Masked autoencoders, He et al. 2022, arXiv:2111.06377: patches predicted from a few of them.

The encoder, a vision transformer, sees the kept patches only; a narrow decoder sees its output and
a learned token in place of each hidden patch, and predicts the pixels of all. Positions are fixed
tables of sines, which are variables of their own ("tables"), as checkpoints hold them: they are
neither trained nor decayed.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params
from research.self_supervised import masking, positions
from research.transformers import layers
from research.vision import patches


@flax.struct.dataclass
class Reconstruction:
    """What a masked autoencoder says of a batch.

    Attributes:
        prediction: [B, N, p p C], pixels of all patches, or normalised ones.
        mask: [B, N], 1 where the patch was hidden.
        loss: [], the mean squared error of hidden patches.
    """

    prediction: Array
    mask: Array
    loss: Array


class MAE(nn.Module):
    """A masked autoencoder; `features` and `reconstruct` use it as pure functions.

    Variables: "params", which are trained, and "tables", which are not.

    Attributes:
        image_size: height and width that the tables are for, pixels.
        channels: C.
        patch: p, pixels of a patch's side.
        width, depth, num_heads, mlp_dim: of the encoder: D, blocks, heads, hidden width.
        decoder_width, decoder_depth, decoder_heads, decoder_mlp_dim: of the decoder.
        ratio: share of hidden patches.
        normalise: whether targets are normalised by their own patch.
        epsilon: of the norms; the paper's code has 1e-6, its checkpoints on Hugging Face 1e-12.
    """

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    patch: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_dim: int = 2048
    ratio: float = 0.75
    normalise: bool = True
    epsilon: float = 1e-6

    def setup(self) -> None:
        if min(self.image_size) < self.patch or any(s % self.patch for s in self.image_size):
            raise ValueError(
                f"image_size={self.image_size}: expected multiples of patch={self.patch}"
            )
        grid = tuple(side // self.patch for side in self.image_size)
        stack = functools.partial(_stack, epsilon=self.epsilon)
        encoder = stack(self.depth, self.width, self.num_heads, self.mlp_dim)
        sizes = self.decoder_width, self.decoder_heads, self.decoder_mlp_dim
        decoder = stack(self.decoder_depth, *sizes)
        pixels = self.patch**2 * self.channels
        self.encoder = Encoder(encoder, self.patch, grid)
        self.decoder = Decoder(decoder, grid, pixels)

    def __call__(self, images: Array, rng_or_noise: Array) -> Reconstruction:
        """Images [B, H, W, C] with keys [B], or noise [B, N] by whose order patches are hidden.

        Raises:
            ValueError: for images of integers or of another shape than the model's, a ratio that
                hides or keeps nothing, or one key for the batch.
        """
        _check(self, images)
        pixels = patches.to_patches(images, self.patch)  # [B, N, p p C]
        if rng_or_noise.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"keys or noise of shape {rng_or_noise.shape} for images {images.shape}: expected "
                "[B] or [B, N]"
            )
        hidden = masking.random(rng_or_noise, pixels.shape[1], self.ratio)
        prediction = self.decoder(self.encoder(images, hidden.keep), hidden.restore)
        loss = masking.reconstruction_loss(prediction, pixels, hidden.mask, self.normalise)
        return Reconstruction(prediction, hidden.mask, loss)

    def encode(self, images: Array) -> Array:
        """Tokens [B, 1 + N, D] of images with nothing hidden, after the final norm."""
        _check(self, images)
        return self.encoder(images)

    @nn.nowrap
    def features(self, params: Params, images: Array) -> Array:
        """Tokens of the encoder with nothing hidden, after the final norm.

        Args:
            params: {"params": ..., "tables": ...}.
            images: [B, H, W, C], normalised as in training; tables are interpolated for another
                size than the model's.
        Returns:
            [B, 1 + N, D]: the class token, then patches from the top left.
        Raises:
            ValueError: for images of integers, of other channels, or that p does not divide.
        """
        return self.apply(params, images, method="encode")

    @nn.nowrap
    def reconstruct(self, params: Params, images: Array, rng_or_noise: Array) -> Reconstruction:
        """The prediction of patches, most of which are hidden.

        For images of another size the decoder's table is interpolated along the sequence of
        patches, which is what Hugging Face's does.

        Args:
            params, images: as `features`.
            rng_or_noise: keys [B], or noise [B, N]; patches of least noise are kept.
        Raises:
            ValueError: as there, and for a ratio that hides or keeps nothing.
        """
        return self.apply(params, images, rng_or_noise)


class Encoder(nn.Module):
    """A vision transformer of a part of the patches."""

    stack: layers.Stack
    patch: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, images: Array, keep: Array | None = None) -> Array:
        """Images [B, H, W, C], numbers of kept patches [B, L] or None -> tokens [B, 1 + L, D]."""
        width = self.stack.width
        x = patches.PatchEmbedding(self.patch, width, name="embed")(images)  # [B, N, D]
        table = _table(self, self.grid, width)
        new_grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        table = positions.interpolate(table, self.grid, new_grid).astype(x.dtype)
        x = x + table[:, 1:]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)  # [B, L, D]
        first = self.param("class_token", nn.initializers.normal(0.02), (1, 1, width))
        first = jnp.broadcast_to(first + table[:, :1], (len(x), 1, width)).astype(x.dtype)
        return layers.Layers(self.stack, name="stack")(jnp.concatenate([first, x], axis=1))[0]


class Decoder(nn.Module):
    """A narrow transformer of all patches, hidden ones being one learned token."""

    stack: layers.Stack
    grid: tuple[int, int]
    pixels: int

    @nn.compact
    def __call__(self, tokens: Array, restore: Array) -> Array:
        """Tokens [B, 1 + L, D] and each patch's place [B, N] -> pixels [B, N, p p C]."""
        width, num_patches = self.stack.width, restore.shape[1]
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(width, kernel_init=init, name="embed")(tokens)
        hidden = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, width))
        shape = (len(x), 1 + num_patches - x.shape[1], width)
        hidden = jnp.broadcast_to(hidden, shape).astype(x.dtype)
        x, first = jnp.concatenate([x[:, 1:], hidden], axis=1), x[:, :1]
        x = jnp.take_along_axis(x, restore[:, :, None], axis=1)  # [B, N, W]
        table = _table(self, self.grid, width)
        table = positions.interpolate(table, (1, table.shape[1] - 1), (1, num_patches))
        x = jnp.concatenate([first, x], axis=1) + table.astype(x.dtype)
        x, _ = layers.Layers(self.stack, name="stack")(x)
        return nn.Dense(self.pixels, kernel_init=init, name="head")(x[:, 1:])


base = functools.partial(MAE, width=768, depth=12, num_heads=12, mlp_dim=3072)
large = functools.partial(MAE, width=1024, depth=24, num_heads=16, mlp_dim=4096)


def loss(model: MAE, tables: Params) -> LossFn:
    """The loss of a masked autoencoder for the shared training step.

    Batch: images [B, H, W, C]. Params are the variables "params" of the model. What is hidden of an
    image depends on its key alone, so with `rng_per_example` not on the split of the batch.

    Args:
        model: of the images' size.
        tables: its variables "tables".
    """

    def loss_fn(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        images = batch["images"]
        if rng.ndim == 0:
            rng = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(len(images)))
        found = model.reconstruct({"params": params, "tables": tables}, images, rng)
        return found.loss, Aux(found.mask.sum(), model_state=model_state)

    return loss_fn


def _table(module: nn.Module, grid: tuple[int, int], width: int) -> Array:
    """[1, 1 + N, D], a variable that is not trained."""
    start = lambda: jnp.asarray(positions.sincos(*grid, width), jnp.float32)
    return module.variable("tables", "positions", start).value


def _stack(depth: int, width: int, num_heads: int, mlp_dim: int, epsilon: float) -> layers.Stack:
    """The blocks of `vit.ViT`."""
    if width % num_heads:
        raise ValueError(f"width={width} is not a multiple of num_heads={num_heads}")
    return layers.Stack(
        depth,
        width,
        num_heads,
        mlp_dim,
        norm=layers.Norm(epsilon=epsilon),
        activation=layers.gelu_exact,
        causal=False,
        init_std=width**-0.5,
    )


def _check(model: MAE, images: Array) -> None:
    patches.check_floats(images)
    if images.ndim != 4 or images.shape[-1] != model.channels:
        raise ValueError(f"images of shape {images.shape}: expected [B, H, W, {model.channels}]")
