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

from library.types import Array, Params, at_least_float32
from research.transformers import layers
from research.vision import patches


class ViT(nn.Module):
    """A classifier of square patches, as a pure function `apply(params, images)`.

    Attributes:
        num_classes: C, labels; None is no classifier but its features [B, D].
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
        grid: rows and columns of patches that learned positions are for; None is a square of them.
    """

    num_classes: int | None
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
    grid: tuple[int, int] | None = None

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
        """Logits [B, num_classes], or features [B, D], of images [B, H, W, C].

        Parameters fit the size of the image they were made for, unless positions are fixed; see
        `resize_positions`.

        Raises:
            ValueError: for fields that make no network, images of integers (0 ... 255 would be read
                as they are), one that p does not divide, or one of another grid of patches than
                learned positions are for.
        """
        _check(self)
        patches.check_floats(images)
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
        if self.num_classes is None:
            return x
        zeros = nn.initializers.zeros
        return nn.Dense(self.num_classes, kernel_init=zeros, name="head")(x)

    def _tokens(self, name: str, count: int, batch: int) -> Array:
        if not count:
            return jnp.zeros((batch, 0, self.width))
        tokens = self.param(name, nn.initializers.normal(0.02), (1, count, self.width))
        return jnp.broadcast_to(tokens, (batch, count, self.width))

    def _positions(self, image_shape: tuple[int, ...], length: int) -> Array:
        """[1, length, D]; a class token has a learned place, or none where places are fixed."""
        rows, columns = image_shape[1] // self.patch, image_shape[2] // self.patch
        if self.positions == "learned":
            init, shape = nn.initializers.normal(0.02), (1, length, self.width)
            _check_grid(self, (rows, columns), shape)
            return self.param("positions", init, shape)
        table = patches.sincos_2d(rows, columns, self.width)
        return jnp.pad(table, ((length - len(table), 0), (0, 0)))[None]


tiny = functools.partial(ViT, width=192, depth=12, num_heads=3)
small = functools.partial(ViT, width=384, depth=12, num_heads=6)
base = functools.partial(ViT, width=768, depth=12, num_heads=12)
large = functools.partial(ViT, width=1024, depth=24, num_heads=16)
huge = functools.partial(ViT, width=1280, depth=32, num_heads=16)


def resize_positions(
    params: Params,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    method: Literal["cubic", "linear"] = "cubic",
    antialias: bool = True,
) -> Params:
    """The parameters for images of another grid of patches: learned positions, interpolated.

    Dosovitskiy et al. 2021, section 3.2. Positions are seen as an image of `grid` pixels and
    resized by `jax.image.resize`: places are centres of pixels, "cubic" is Keys' kernel with
    a = -1/2, weights beyond the border are left out and the rest made to sum to 1. Codes differ in
    this: PyTorch's "bicubic" has a = -3/4 and, as DINOv2 and Hugging Face call it, no antialiasing.

    Args:
        params: {"params": ...} of a `ViT` with learned positions; a class token keeps its own.
        grid: rows and columns that they are for.
        new_grid: rows and columns of the new images; not a square needs `ViT(grid=new_grid)`.
        method: the kernel.
        antialias: stretch the kernel where the grid shrinks, so that no old position is skipped;
            nothing else depends on it.
    Raises:
        ValueError: for another number of positions than `grid` has, or an unknown method.
    """
    table = params["params"]["positions"]  # [1, N, D]
    (rows, columns), tokens = grid, table.shape[1]
    if min(*grid, *new_grid) < 1 or tokens - rows * columns not in (0, 1):
        raise ValueError(
            f"grid={grid}, new_grid={new_grid}: expected sizes of at least 1, and the first of the "
            f"{tokens} positions of the parameters, with or without a class token"
        )
    if method not in ("cubic", "linear"):
        raise ValueError(f"method={method!r}: expected 'cubic' or 'linear'")
    first, places = jnp.split(jnp.asarray(table), [tokens - rows * columns], axis=1)
    image = places.reshape(rows, columns, -1).astype(at_least_float32(table.dtype))
    image = jax.image.resize(image, (*new_grid, image.shape[-1]), method, antialias=antialias)
    places = image.reshape(1, -1, image.shape[-1]).astype(table.dtype)
    positions = jnp.concatenate([first, places], axis=1)
    return {**params, "params": {**params["params"], "positions": positions}}


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


def _check_grid(model: ViT, grid: tuple[int, int], shape: tuple[int, ...]) -> None:
    """ValueError for patches that learned positions, or those in the parameters, are not for."""
    rows, columns = grid
    if model.grid is None and rows != columns:
        raise ValueError(
            f"{rows} x {columns} patches: learned positions are for a square of them unless "
            f"grid=({rows}, {columns}) says otherwise"
        )
    if model.grid is not None and tuple(model.grid) != grid:
        raise ValueError(f"{rows} x {columns} patches: the model has grid={model.grid}")
    if model.has_variable("params", "positions"):
        known = model.get_variable("params", "positions").shape
        if known != shape:
            raise ValueError(
                f"{rows} x {columns} patches: the parameters have positions {known}, expected "
                f"{shape}; vit.resize_positions makes them"
            )


def _check(model: ViT) -> None:
    num_classes = 1 if model.num_classes is None else model.num_classes
    if min(num_classes, model.patch, model.width, model.depth, model.num_heads) < 1:
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
