"""Vision transformers, Dosovitskiy et al. 2021, arXiv:2010.11929, Ti to H.

An image is a sequence of patches; a pre-norm transformer encoder reads it; a class token or the
mean over patches is classified. Fixed positions and the mean are the plain recipe of Beyer et al.
2022, arXiv:2205.01580; registers, extra tokens that nothing reads, are those of Darcet et al. 2024,
arXiv:2309.16588.
"""

from __future__ import annotations

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Params
from research.transformers import layers
from research.vision import patches


class ViT(nn.Module):
    """A classifier of square patches, as a pure function `apply(params, images)`.

    Attributes:
        num_classes: C, labels.
        patch: p, pixels of a patch's side.
        width: D, numbers per token.
        depth: blocks, compiled once and scanned over.
        num_heads: H, heads of attention; divides D.
        mlp_dim: F, hidden width of a block's MLP; None is 4 D.
        pooling: "class" for a token of its own, "average" for the mean over patches.
        positions: "learned", or "fixed" sines and cosines of both axes.
        num_registers: learned tokens beside the patches, dropped at the end.
        epsilon: of the norms; the paper's code has 1e-6, its checkpoints on Hugging Face 1e-12.
        unroll: blocks per iteration of the scan.
    """

    num_classes: int
    patch: int = 16
    width: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_dim: int | None = None
    pooling: Literal["class", "average"] = "class"
    positions: Literal["learned", "fixed"] = "learned"
    num_registers: int = 0
    epsilon: float = 1e-6
    unroll: int = 1

    @property
    def stack(self) -> layers.Stack:
        """The encoder, of the blocks of `research.transformers`."""
        return layers.Stack(
            self.depth,
            self.width,
            self.num_heads,
            self.mlp_dim or 4 * self.width,
            norm=layers.Norm(epsilon=self.epsilon),
            activation=layers.gelu_exact,
            causal=False,
            # Xavier's, as in the reference; GPT-2's 0.02 is for widths near 768 and starts a
            # narrow stack so quietly that hundreds of updates pass before it attends.
            init_std=self.width**-0.5,
            unroll=self.unroll,
        )

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [B, num_classes] of images [B, H, W, C].

        Parameters fit the size of the image they were made for, unless positions are fixed and
        there is no class token.

        Raises:
            ValueError: for fields that make no network, or an image that p does not divide.
        """
        _check(self)
        x = patches.PatchEmbedding(self.patch, self.width, name="embed")(images)  # [B, N, D]
        batch, num_patches, _ = x.shape
        extra = [self._tokens("registers", self.num_registers, batch)]
        if self.pooling == "class":
            x = jnp.concatenate([self._tokens("class_token", 1, batch), x], axis=1)
        x = x + self._positions(images.shape, x.shape[1])
        x = jnp.concatenate([x, *extra], axis=1)
        self.sow("intermediates", "tokens", x)
        x, _ = layers.Layers(self.stack, name="encoder")(x)
        x = x[:, 0] if self.pooling == "class" else x[:, :num_patches].mean(1)  # [B, D]
        zeros = nn.initializers.zeros
        return nn.Dense(self.num_classes, kernel_init=zeros, name="head")(x)

    def _tokens(self, name: str, count: int, batch: int) -> Array:
        if not count:
            return jnp.zeros((batch, 0, self.width))
        tokens = self.param(name, nn.initializers.normal(0.02), (1, count, self.width))
        return jnp.broadcast_to(tokens, (batch, count, self.width))

    def _positions(self, image_shape: tuple[int, ...], length: int) -> Array:
        """[1, length, D]; a class token has a learned place, or none where places are fixed."""
        if self.positions == "learned":
            init = nn.initializers.normal(0.02)
            return self.param("positions", init, (1, length, self.width))
        rows, columns = image_shape[1] // self.patch, image_shape[2] // self.patch
        table = patches.sincos_2d(rows, columns, self.width)
        return jnp.pad(table, ((length - len(table), 0), (0, 0)))[None]


tiny = functools.partial(ViT, width=192, depth=12, num_heads=3)
small = functools.partial(ViT, width=384, depth=12, num_heads=6)
base = functools.partial(ViT, width=768, depth=12, num_heads=12)
large = functools.partial(ViT, width=1024, depth=24, num_heads=16)
huge = functools.partial(ViT, width=1280, depth=32, num_heads=16)


def attention_maps(model: ViT, params: Params, images: Array) -> Array:
    """Who looks where: the attention weights of all blocks.

    Args:
        model, params: a vision transformer.
        images: [B, H, W, C].
    Returns:
        [depth, B, heads, T, T] float, rows sum to 1; T counts the class token, if there is one,
        then patches, then registers.
    """
    _, captured = model.apply(params, images, mutable=["intermediates"])
    stack = model.stack
    layer = layers.Layer(stack)

    def advance(x: Array, weights: Params) -> tuple[Array, Array]:
        h = stack.norm(None).apply({"params": weights["attention_norm"]}, x)
        query, key = (
            jnp.einsum("btd,dhk->bthk", h, weights["attention"][name]["kernel"])
            + weights["attention"][name]["bias"][None, None]
            for name in ("query", "key")
        )
        scores = jnp.einsum("bthk,bshk->bhts", query, key) / query.shape[-1] ** 0.5
        x, _ = layer.apply({"params": weights}, x, *(None,) * 8)
        return x, jax.nn.softmax(scores, axis=-1)

    tokens = captured["intermediates"]["tokens"][0]
    return jax.lax.scan(advance, tokens, params["params"]["encoder"]["layers"])[1]


def _check(model: ViT) -> None:
    if min(model.num_classes, model.patch, model.width, model.depth, model.num_heads) < 1:
        raise ValueError(
            f"num_classes={model.num_classes}, patch={model.patch}, width={model.width}, depth="
            f"{model.depth}, num_heads={model.num_heads}: expected all at least 1"
        )
    if model.width % model.num_heads:
        raise ValueError(f"width={model.width} is not a multiple of num_heads={model.num_heads}")
    if model.pooling not in ("class", "average") or model.positions not in ("learned", "fixed"):
        raise ValueError(
            f"pooling={model.pooling!r}, positions={model.positions!r}: expected 'class' or "
            "'average', 'learned' or 'fixed'"
        )
    if model.num_registers < 0:
        raise ValueError(f"num_registers={model.num_registers}: expected at least 0")
