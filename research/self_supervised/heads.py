"""What stands on an encoder while it is trained: projectors, predictors, prototypes.

A head is called as `head(x, train)`. Batch norm is over all devices where `axis_name` says so; with
norm="layer", or None, an example's output depends on that example alone, as encoding in chunks
needs it (see `research.self_supervised.cached`).
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from library.types import Array, at_least_float32
from research.self_supervised import checks


class Perceptron(nn.Module):
    """A projector or predictor: linear maps, each but the last with a norm and a ReLU.

    Attributes:
        widths: outputs of all linear maps; the last is the projection's D.
        norm: "batch", "layer" or None.
        last_norm: whether the output is normalised too, without scale and bias, as SimSiam's and
            MoCo v3's projectors have it.
        momentum: of the running statistics, the share of the old value.
        axis_name: mapped axis over which the batch is split, and batch statistics are averaged.
    """

    widths: tuple[int, ...]
    norm: Literal["batch", "layer"] | None = "batch"
    last_norm: bool = False
    momentum: float = 0.9
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, F] -> [B, D].

        Args:
            x: float.
            train: whether statistics are the batch's (and the running ones move).
        Raises:
            ValueError: for widths below 1, none of them, or an unknown norm.
        """
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={self.widths}: expected one number or more, at least 1")
        if self.norm not in ("batch", "layer", None):
            raise ValueError(f"norm={self.norm!r}: expected 'batch', 'layer' or None")
        last = len(self.widths) - 1
        for index, width in enumerate(self.widths):
            normed = self.norm is not None and (index < last or self.last_norm)
            x = nn.Dense(width, use_bias=not normed, name=f"dense{index}")(x)
            if normed:
                x = self._norm(train, affine=index < last, name=f"norm{index}")(x)
            x = nn.relu(x) if index < last else x
        return x

    def _norm(self, train: bool, affine: bool, name: str) -> nn.Module:
        options = {
            "epsilon": 1e-5,
            "use_scale": affine,
            "use_bias": affine,
            # E[x^2] - E[x]^2 has no digits where the mean is large.
            "use_fast_variance": False,
            "name": name,
        }
        if self.norm == "layer":
            return nn.LayerNorm(**options)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            axis_name=self.axis_name,
            **options,
        )


class Prototypes(nn.Module):
    """DINO's head: a perceptron to a sphere, and the cosine to each of K prototypes.

    Caron et al. 2021, arXiv:2104.14294, appendix C: GELUs, no norm, a bottleneck whose outputs are
    normalised, and weights of length 1 each (weight norm whose gain stays 1).

    Attributes:
        num_prototypes: K.
        hidden: widths of the perceptron's hidden layers.
        bottleneck: width of the sphere.
    """

    num_prototypes: int
    hidden: tuple[int, ...] = (2048, 2048)
    bottleneck: int = 256

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, F] -> logits [B, K] in [-1, 1], float32 at least.

        Raises:
            ValueError: for a width below 1.
        """
        del train  # nothing here depends on it
        if min(self.num_prototypes, self.bottleneck, *self.hidden) < 1:
            raise ValueError(
                f"num_prototypes={self.num_prototypes}, bottleneck={self.bottleneck}, hidden="
                f"{self.hidden}: expected all at least 1"
            )
        init = nn.initializers.truncated_normal(0.02)
        dense = functools.partial(nn.Dense, kernel_init=init)
        for index, width in enumerate(self.hidden):
            x = nn.gelu(dense(width, name=f"dense{index}")(x), approximate=False)
        x = dense(self.bottleneck, name="bottleneck")(x)
        kernel = self.param("prototypes", init, (self.num_prototypes, self.bottleneck))
        wide: Any = at_least_float32(x, kernel)
        x, kernel = checks.unit(x.astype(wide)), checks.unit(kernel.astype(wide))
        return jnp.einsum("bd,kd->bk", x, kernel)
