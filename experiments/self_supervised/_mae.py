"""Masked autoencoders in small: the encoder as a part, the baseline of hidden patches, pictures."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from library import training
from library.types import Array, Key, ModelState, Params
from research.self_supervised import mae, masking, networks
from research.vision import patches


def part(model: mae.MAE) -> networks.Part:
    """The encoder, nothing hidden, as the mean over its patches; its table is its only state."""

    def init(rng: Key, x: Array) -> tuple[Params, ModelState]:
        keys = jax.random.split(rng, len(x))
        variables = model.init(rng, jnp.zeros((len(x), *model.image_size, model.channels)), keys)
        return of(variables)

    def apply(
        params: Params, stats: ModelState, x: Array, train: bool, axis_name: str | None
    ) -> tuple[Array, ModelState]:
        del train, axis_name  # neither dropout nor batch statistics
        variables = {"params": {"encoder": params}, "tables": {"encoder": stats["table"]}}
        return model.features(variables, x)[:, 1:].mean(1), stats

    return networks.Part(init, apply)


def of(variables: Params) -> tuple[Params, ModelState]:
    """Of all variables, those of the encoder as `part` takes them."""
    return variables["params"]["encoder"], {"table": variables["tables"]["encoder"]}


def fresh(model: mae.MAE, seed: int) -> Params:
    """All variables, at random."""
    rng = jax.random.key(seed)
    images = jnp.zeros((1, *model.image_size, model.channels))
    return jax.jit(model.init)(rng, images, jax.random.split(rng, 1))


def pretrained(
    model: mae.MAE, images: np.ndarray, num_steps: int, batch_size: int, rate: float, seed: int
) -> Params:
    """All variables after training on [N, H, W, C] floats; MAE's AdamW, warm-up and half cosine."""
    start = fresh(model, seed)
    optimizer = training.warmup_cosine(
        rate, num_steps, num_steps // 10,
        optimizer=functools.partial(optax.adamw, b2=0.95, weight_decay=0.05),
    )  # fmt: skip
    params = training.quick(
        mae.loss(model, start["tables"]), optimizer, lambda _: start["params"],
        training.batches({"images": images}, batch_size, seed), num_steps=num_steps,
        rng=jax.random.key(seed), rng_per_example=True,
    )  # fmt: skip
    return {**start, "params": params}


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """Hidden patches of held-out images.

    Attributes:
        error: mean squared error, of the targets that the model was trained on.
        mean_error: the same of the mean patch of the training images at that place.
        masked: [N, H, W, C], the images, their hidden patches grey.
        pictures: [N, H, W, C], the prediction in their place.
    """

    error: float
    mean_error: float
    masked: np.ndarray
    pictures: np.ndarray


def rebuilt(model: mae.MAE, variables: Params, train: Array, test: Array, seed: int) -> Rebuilt:
    """What a model makes of images [N, H, W, C] of which it sees a part, beside the mean patch.

    Of a model of normalised patches the pictures have each true patch's own mean and deviation put
    back, hidden ones included, which leaks them.
    """
    keys = jax.random.split(jax.random.key(seed), len(test))
    found = jax.jit(model.reconstruct)(variables, test, keys)
    pixels = patches.to_patches(test, model.patch)
    mean = targets(model, train).mean(0, keepdims=True)
    mean_error = masking.reconstruction_loss(
        jnp.broadcast_to(mean, pixels.shape), targets(model, test), found.mask, normalise=False
    )
    prediction = found.prediction
    if model.normalise:
        prediction = masking.with_own_scale(prediction, pixels)
    hidden = found.mask[:, :, None] == 1
    back = lambda x: np.asarray(patches.from_patches(x, test.shape[1:], model.patch))
    return Rebuilt(
        float(found.loss), float(mean_error),
        back(jnp.where(hidden, 0.5, pixels)), back(jnp.where(hidden, prediction, pixels)),
    )  # fmt: skip


def targets(model: mae.MAE, images: Array) -> Array:
    """[N, P, p p C]: the pixels that the model predicts, normalised by their patch if it does."""
    pixels = patches.to_patches(jnp.asarray(images), model.patch)
    if not model.normalise:
        return pixels
    centred = pixels - pixels.mean(-1, keepdims=True)
    return centred / jnp.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
