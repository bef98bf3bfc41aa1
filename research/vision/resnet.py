"""Residual networks for images, 18 to 152 layers, He et al. 2016, arXiv:1512.03385, as version 1.5.

In version 1.5 the 3x3 convolution of a bottleneck has the stride, not the 1x1 before it, which
would skip three of four inputs; the last scale of each block starts at zero (Goyal et al. 2017,
arXiv:1706.02677), so that a block starts as its shortcut. Padding is symmetric, as in torchvision.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key, ModelState, Params, at_least_float32
from research.vision import patches

_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(nn.Module):
    """A classifier; `init` and `apply` below use it as pure functions.

    Attributes:
        num_classes: C, labels; None is no classifier but its features [B, D], means over pixels.
        num_blocks: residual blocks of each stage; a stage but the first halves height and width.
        bottleneck: whether a block is 1x1, 3x3, 1x1 with four times the width at its end.
        width: channels of the first stage, doubled in each.
        small_images: a 3x3 stem without stride or pooling, for images of about 32 pixels.
        momentum: of the running mean and variance, the share of the old value.
        dtype: of the computation; statistics and parameters stay float32.
        num_groups: of group norm in place of batch norm, Wu and He 2018, arXiv:1803.08494: an
            example's output then depends on that example alone. None is batch norm.
        axis_name: mapped axis over which the batch is split, and batch statistics are averaged.
    """

    num_classes: int | None
    num_blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    small_images: bool = False
    momentum: float = 0.9
    dtype: Any = None
    num_groups: int | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Logits [B, num_classes], or features [B, D], of images [B, H, W, C].

        Args:
            x: float, of any size that the strides leave something of.
            train: whether statistics are the batch's (and the running ones move).
        Raises:
            ValueError: for images of integers.
        """
        patches.check_floats(x)
        norm = self._norm(train)
        stem, strides = ((3, 3), 1) if self.small_images else ((7, 7), 2)
        x = _conv(self.width, stem, strides, self.dtype, "stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        if not self.small_images:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, count in enumerate(self.num_blocks):
            for block in range(count):
                x = Block(
                    self.width * 2**stage,
                    strides=2 if stage and not block else 1,
                    bottleneck=self.bottleneck,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)
        x = x.astype(at_least_float32(x.dtype)).mean((1, 2))  # [B, C]
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)

    def _norm(self, train: bool) -> Any:
        """A norm's module, but for its name and how its scale starts."""
        # E[x^2] - E[x]^2 has no digits where the mean is large.
        options = {"epsilon": 1e-5, "dtype": self.dtype, "use_fast_variance": False}
        if self.num_groups is not None:
            return functools.partial(nn.GroupNorm, self.num_groups, **options)
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            axis_name=self.axis_name,
            **options,
        )


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), where f is two 3x3 convolutions or a bottleneck."""

    width: int
    strides: int
    bottleneck: bool
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H/strides, W/strides, width, or 4 width with a bottleneck]."""
        convolve = functools.partial(_conv, dtype=self.dtype)
        sizes = [(1, 1), (3, 3), (1, 1)] if self.bottleneck else [(3, 3), (3, 3)]
        out = self.width * (4 if self.bottleneck else 1)
        h = x
        for index, kernel in enumerate(sizes):
            last = index == len(sizes) - 1
            strides = self.strides if index == self.bottleneck else 1
            h = convolve(out if last else self.width, kernel, strides, name=f"conv{index}")(h)
            scale = nn.initializers.zeros if last else nn.initializers.ones
            h = self.norm(scale_init=scale, name=f"norm{index}")(h)
            h = h if last else nn.relu(h)
        if x.shape[-1] != out or self.strides > 1:
            x = self.norm(name="short_norm")(convolve(out, (1, 1), self.strides, name="short")(x))
        return nn.relu(x + h)


resnet18 = functools.partial(ResNet, num_blocks=(2, 2, 2, 2))
resnet34 = functools.partial(ResNet, num_blocks=(3, 4, 6, 3))
resnet50 = functools.partial(ResNet, num_blocks=(3, 4, 6, 3), bottleneck=True)
resnet101 = functools.partial(ResNet, num_blocks=(3, 4, 23, 3), bottleneck=True)
resnet152 = functools.partial(ResNet, num_blocks=(3, 8, 36, 3), bottleneck=True)


def init(model: ResNet, rng: Key, image_shape: tuple[int, int, int]) -> tuple[Params, ModelState]:
    """Parameters and running statistics for images [H, W, C].

    Raises:
        ValueError: if a field of the model or the shape is of no use.
    """
    _check(model, image_shape)
    variables = jax.jit(model.init)(rng, jnp.zeros((1, *image_shape)))
    return variables["params"], variables.get("batch_stats", {})


def apply(
    model: ResNet, params: Params, model_state: ModelState, x: Array, train: bool = False
) -> tuple[Array, ModelState]:
    """Logits [B, num_classes] of images [B, H, W, C], and the running statistics afterwards."""
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}: expected [B, H, W, C]")
    variables = {"params": params, "batch_stats": model_state}
    if not train:
        return model.apply(variables, x), model_state
    logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})


def _conv(
    width: int, kernel: tuple[int, int], strides: int, dtype: Any = None, name: str | None = None
) -> nn.Conv:
    padding = [(size // 2, size // 2) for size in kernel]
    return nn.Conv(
        width, kernel, (strides, strides), padding, use_bias=False, kernel_init=_init,
        dtype=dtype, name=name,
    )  # fmt: skip


def _check(model: ResNet, image_shape: tuple[int, int, int]) -> None:
    num_classes = 1 if model.num_classes is None else model.num_classes
    if min(num_classes, model.width, *model.num_blocks) < 1 or not model.num_blocks:
        raise ValueError(
            f"num_classes={model.num_classes}, width={model.width}, num_blocks="
            f"{model.num_blocks}: expected numbers of at least 1"
        )
    if model.num_groups is not None and (model.num_groups < 1 or model.width % model.num_groups):
        raise ValueError(
            f"num_groups={model.num_groups}: expected a divisor of width={model.width}, or None"
        )
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape={image_shape}: expected (H, W, C)")
