"""Encoders and heads as parts, pure functions with an explicit state, and what they make together.

A part is (params, stats, x, train, axis_name) -> (y, stats): any backbone serves. `resnet`, `vit`
and `of_module` make parts of what `research.vision` and `research.self_supervised.heads` have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from library.types import Array, Key, ModelState, Params
from research.vision import resnet as residual
from research.vision import vit as transformer

Apply = Callable[[Params, ModelState, Array, bool, str | None], tuple[Array, ModelState]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A network, or the head of one.

    Attributes:
        init: (key, x [1, ...]) -> (params, stats); stats are batch statistics, {} without any.
        apply: (params, stats, x [B, ...], train, axis_name) -> (y [B, F], stats); with an axis,
            batch statistics are those of all devices.
    """

    init: Callable[[Key, Array], tuple[Params, ModelState]]
    apply: Apply


@dataclasses.dataclass(frozen=True)
class Networks:
    """What is trained: encoder, projector, and a predictor for the methods that have one."""

    encoder: Part
    projector: Part
    predictor: Part | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """By the names that params and statistics have."""
        named = {"encoder": self.encoder, "projector": self.projector, "predictor": self.predictor}
        return {name: part for name, part in named.items() if part is not None}

    def init(self, rng: Key, image_shape: tuple[int, int, int]) -> tuple[Params, ModelState]:
        """Parameters and statistics by part, for images [H, W, C]."""
        x = jnp.zeros((1, *image_shape))
        params, stats = {}, {}
        for index, (name, part) in enumerate(self.parts.items()):
            params[name], stats[name] = part.init(jax.random.fold_in(rng, index), x)
            shape = jax.eval_shape(
                lambda x, part=part, name=name: part.apply(
                    params[name], stats[name], x, False, None
                )[0],
                x,
            )
            x = jnp.zeros(shape.shape, shape.dtype)
        return params, stats

    def project(
        self, params: Params, stats: ModelState, crops: list[Array], axis_name: str | None = None
    ) -> tuple[Array, ModelState]:
        """Projections of all crops in training; batch statistics are over all crops of one size.

        Args:
            params, stats: by part.
            crops: views of one size each, [B, V, H, W, C].
            axis_name: mapped axis over which the batch is split.
        Returns:
            [B, V of all, D], and the statistics by part.
        """
        stats = dict(stats)
        features = []
        for views in crops:
            flat = views.reshape(-1, *views.shape[2:])  # [B V, H, W, C]
            found, stats["encoder"] = self.encoder.apply(
                params["encoder"], stats["encoder"], flat, True, axis_name
            )
            features.append(found.reshape(*views.shape[:2], -1))  # [B, V, F]
        together = jnp.concatenate(features, axis=1)
        return _on_vectors(self.projector, "projector", params, stats, together, axis_name)

    def predict(
        self, params: Params, stats: ModelState, z: Array, axis_name: str | None = None
    ) -> tuple[Array, ModelState]:
        """Predictions [B, V, D] of projections [B, V, D], which they are without a predictor."""
        if self.predictor is None:
            return z, stats
        return _on_vectors(self.predictor, "predictor", params, stats, z, axis_name)


def of_module(module: nn.Module) -> Part:
    """The part of a Flax module that is called as module(x, train), such as those of `heads`.

    A field `axis_name` is set to the mapped axis; batch statistics are its only state.
    """

    def init(rng: Key, x: Array) -> tuple[Params, ModelState]:
        variables = module.init(rng, x, False)
        return variables["params"], variables.get("batch_stats", {})

    def apply(
        params: Params, stats: ModelState, x: Array, train: bool, axis_name: str | None
    ) -> tuple[Array, ModelState]:
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return module.apply(variables, x, False), stats
        placed = module.clone(axis_name=axis_name) if hasattr(module, "axis_name") else module
        y, updated = placed.apply(variables, x, True, mutable=["batch_stats"])
        return y, updated.get("batch_stats", {})

    return Part(init, apply)


def resnet(model: residual.ResNet) -> Part:
    """The features of a residual network, means over pixels; its head is left out.

    With `num_groups` it has no batch statistics: for MoCo v2, which leaks through batch norm, and
    for encoding in chunks.
    """
    return of_module(model.clone(num_classes=None))


def vit(model: transformer.ViT) -> Part:
    """The features of a vision transformer; its head is left out.

    Learned positions are interpolated for images of another size, such as local crops, as DINO
    does: by a cubic kernel without antialiasing.
    """
    model = model.clone(num_classes=None)

    def init(rng: Key, x: Array) -> tuple[Params, ModelState]:
        return model.init(rng, x)["params"], {}

    def apply(
        params: Params, stats: ModelState, x: Array, train: bool, axis_name: str | None
    ) -> tuple[Array, ModelState]:
        del train, axis_name  # neither dropout nor batch statistics
        new = (x.shape[1] // model.patch, x.shape[2] // model.patch)
        if model.positions == "fixed":
            return model.apply({"params": params}, x), stats
        num = params["positions"].shape[1] - (model.pooling == "class")
        grid = model.grid or (int(num**0.5),) * 2
        variables = {"params": params}
        if new != grid:
            variables = transformer.resize_positions(variables, grid, new, antialias=False)
        return model.clone(grid=new).apply(variables, x), stats

    return Part(init, apply)


def _on_vectors(
    part: Part,
    name: str,
    params: Params,
    stats: ModelState,
    x: Array,
    axis_name: str | None,
) -> tuple[Array, ModelState]:
    """A part on vectors [B, V, F] -> [B, V, D], and the statistics of all parts."""
    y, moved = part.apply(params[name], stats[name], x.reshape(-1, x.shape[-1]), True, axis_name)
    return y.reshape(*x.shape[:2], -1), {**stats, name: moved}
