"""DINOv2's vision transformers, Oquab et al. 2023, arXiv:2304.07193: blocks with layer scale.

Each branch is scaled by learned numbers per feature before it is added (Touvron et al. 2021,
arXiv:2103.17239). Positions are learned for one grid of patches and interpolated for all others.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Params, at_least_float32
from research.attention import multihead
from research.self_supervised import positions
from research.transformers import layers
from research.vision import patches


class DINOv2(nn.Module):
    """An encoder of images; `features` uses it as a pure function.

    Attributes:
        image_size: height and width that the learned positions are for, pixels.
        channels: C.
        patch: p, pixels of a patch's side.
        width: D, numbers per token.
        depth: blocks, compiled once and scanned over.
        num_heads: H.
        mlp_dim: F; None is 4 D, or with `gated` two thirds of that, up to a multiple of 8.
        gated: SwiGLU in place of GELU, as in the giant.
        mask_token: whether there is a token for hidden patches, which pre-training reads.
        scale: at which each branch starts.
        epsilon: of the norms.
    """

    image_size: tuple[int, int] = (518, 518)
    channels: int = 3
    patch: int = 14
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None
    gated: bool = False
    mask_token: bool = True
    scale: float = 1e-5
    epsilon: float = 1e-6

    @property
    def stack(self) -> layers.Stack:
        """The blocks, but for their layer scale."""
        hidden = 4 * self.width
        if self.gated:
            hidden = (hidden * 2 // 3 + 7) // 8 * 8
        return layers.Stack(
            self.depth,
            self.width,
            self.num_heads,
            self.mlp_dim or hidden,
            norm=layers.Norm(epsilon=self.epsilon),
            activation=nn.silu if self.gated else layers.gelu_exact,
            gated=self.gated,
            causal=False,
            init_std=self.width**-0.5,
        )

    @nn.compact
    def __call__(self, images: Array, hidden: Array | None = None) -> Array:
        """Tokens [B, 1 + N, D] of images [B, H, W, C], after the final norm.

        Args:
            images: float.
            hidden: [B, N] bool, patches that the mask token replaces; None hides none.
        Raises:
            ValueError: for fields that make no network, images of integers, of other channels or
                that p does not divide, or hidden patches without a mask token.
        """
        _check(self, images, hidden)
        x = patches.PatchEmbedding(self.patch, self.width, name="embed")(images)  # [B, N, D]
        init = nn.initializers.normal(0.02)
        if self.mask_token:
            mask_token = self.param("mask_token", nn.initializers.zeros, (1, self.width))
            if hidden is not None:
                x = jnp.where(hidden[:, :, None], mask_token[None].astype(x.dtype), x)
        first = self.param("class_token", init, (1, 1, self.width))
        first = jnp.broadcast_to(first, (len(x), 1, self.width)).astype(x.dtype)
        grid = tuple(side // self.patch for side in self.image_size)
        new_grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        table = self.param("positions", init, (1, 1 + grid[0] * grid[1], self.width))
        table = positions.interpolate(table, grid, new_grid).astype(x.dtype)
        x = jnp.concatenate([first, x], axis=1) + table
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        self.sow("intermediates", "tokens", x)
        x, _ = blocks(self.stack, self.scale, name="blocks")(x, None)
        return self.stack.norm("final_norm")(x)

    @nn.nowrap
    def features(self, params: Params, images: Array) -> Array:
        """Tokens after the final norm.

        Args:
            params: {"params": ...}.
            images: [B, H, W, C], normalised as in training; positions are interpolated for another
                size than the model's.
        Returns:
            [B, 1 + N, D]: the class token, then patches from the top left.
        Raises:
            ValueError: for images of integers, of other channels, or that p does not divide.
        """
        return self.apply(params, images)

    @nn.nowrap
    def attention_maps(self, params: Params, images: Array) -> Array:
        """Who looks where in the last block: [B, H, 1 + N, 1 + N], rows sum to 1.

        The first row of a head is where the class token looks, the maps that DINO's papers show.

        Args and errors as `features`.
        """
        _, kept = self.apply(params, images, mutable=["intermediates"])
        (x,) = kept["intermediates"]["tokens"]
        block, blocks = Block(self.stack, self.scale), params["params"]["blocks"]
        before = jax.tree.map(lambda leaf: leaf[:-1], blocks)
        advance = lambda x, weights: block.apply({"params": weights}, x, None)
        x, _ = jax.lax.scan(advance, x, before)
        last = jax.tree.map(lambda leaf: leaf[-1], blocks)
        x = self.stack.norm(None).apply({"params": last["attention_norm"]}, x)
        query, key = (
            jnp.einsum("btd,dhk->bthk", x, last["attention"][name]["kernel"])
            + last["attention"][name]["bias"][None, None]
            for name in ("query", "key")
        )
        scores = jnp.einsum("bthk,bshk->bhts", query, key) / query.shape[-1] ** 0.5
        return jax.nn.softmax(scores.astype(at_least_float32(scores.dtype)), axis=-1)


class Block(nn.Module):
    """x + s attention(norm(x)), then x + s mlp(norm(x)); in the form that `nn.scan` wants."""

    stack: layers.Stack
    scale: float

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """[B, T, D] -> [B, T, D]."""
        stack = self.stack
        init = nn.initializers.normal(stack.init_std)
        attention = multihead.MultiHead(
            stack.num_heads, kernel_init=init, out_init=init, name="attention"
        )
        h, _ = attention(stack.norm("attention_norm")(x))
        x = x + self._scale("attention_scale", x) * h
        h = layers.Perceptron(stack, name="mlp")(stack.norm("mlp_norm")(x))
        return x + self._scale("mlp_scale", x) * h, None

    def _scale(self, name: str, x: Array) -> Array:
        scale = self.param(name, nn.initializers.constant(self.scale), (self.stack.width,))
        return scale[None, None].astype(x.dtype)


small = functools.partial(DINOv2, width=384, depth=12, num_heads=6)
base = functools.partial(DINOv2, width=768, depth=12, num_heads=12)
large = functools.partial(DINOv2, width=1024, depth=24, num_heads=16)
giant = functools.partial(DINOv2, width=1536, depth=40, num_heads=24, gated=True)


def _check(model: DINOv2, images: Array, hidden: Array | None) -> None:
    if min(model.image_size) < model.patch or any(s % model.patch for s in model.image_size):
        raise ValueError(
            f"image_size={model.image_size}: expected multiples of patch={model.patch}"
        )
    if model.width % model.num_heads:
        raise ValueError(f"width={model.width} is not a multiple of num_heads={model.num_heads}")
    patches.check_floats(images)
    if images.ndim != 4 or images.shape[-1] != model.channels:
        raise ValueError(f"images of shape {images.shape}: expected [B, H, W, {model.channels}]")
    if hidden is not None and not model.mask_token:
        raise ValueError("hidden patches: the model has no mask token")
    expected = (len(images), images.shape[1] // model.patch * (images.shape[2] // model.patch))
    if hidden is not None and hidden.shape != expected:
        raise ValueError(f"hidden {hidden.shape}: expected {expected}, a truth for each patch")
