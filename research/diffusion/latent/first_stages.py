"""A frozen autoencoder around a latent model: its value, its measured scale, losses on its latents.

Latents as an encoder gives them have some mean and spread; a noising process and a network's
preconditioning expect zero and one. So a model of latents lives in the scaled space
(z - shift) * scale, and everything that enters or leaves it goes through a `FirstStage`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from library.types import Array, Aux, Batch, Key, LossFn, ModelState, Params
from research.diffusion import draws
from research.diffusion.curves import wide

# images [B, ...] -> mean and log variance of a Gaussian posterior, or vectors, [B, ..., C]
Encode = Callable[[Any], tuple[Array, Array] | Array]
# latents [B, ..., C] as encoded -> images [B, ...], or a likelihood of `vae.likelihoods`
Decode = Callable[[Array], Any]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What brings latents to zero mean and unit variance, (z - shift) * scale.

    Attributes:
        scale: 1 / standard deviation, a float, or [C] one a channel.
        shift: the mean, likewise.
        law: of what they are moments: "sampled" latents, whose variance has the posterior's in it,
            posterior "mean"s, or "vectors" of an encoder without a posterior.
    """

    scale: float | np.ndarray
    shift: float | np.ndarray
    law: str


def measure(
    encode: Encode, batches: Iterable[Any], per_channel: bool = False, sampled: bool = True
) -> Scaling:
    """Scale and shift of a whole data set's latents, in one pass and in float64.

    The variance of a latent drawn from its posterior is that of the means plus the mean of the
    posterior's variances: so the sampled law is measured without a draw.

    Args:
        encode: images -> mean and log variance, or vectors; compiled by the caller. The identity
            for batches that are encoded already.
        batches: what `encode` takes, of any sizes: all of the data.
        per_channel: one pair for each entry of the last axis, or one for all numbers.
        sampled: measure latents drawn from the posterior, or its means; vectors are what they are.
    Returns:
        `Scaling`, by which the data have mean 0 and variance 1 (divisor N).
    Raises:
        ValueError: if there is no batch, or latents are not finite or do not vary.
    """
    count, mean, squares, law = 0, 0.0, 0.0, "vectors"
    for index, batch in enumerate(batches):
        encoded = encode(batch)
        spread = 0.0
        if isinstance(encoded, tuple):
            law = "sampled" if sampled else "mean"
            encoded, log_var = encoded
            spread = _rows(np.exp(np.asarray(log_var, np.float64)), per_channel) * sampled
        rows = _rows(np.asarray(encoded, np.float64), per_channel)  # [N, C] or [N, 1]
        if not (np.isfinite(rows).all() and np.isfinite(spread).all()):
            raise ValueError(f"batch {index} of batches: its latents are not finite")
        own, total = rows.mean(0), count + len(rows)
        squares += np.sum(np.square(rows - own) + spread, 0)
        squares += np.square(own - mean) * count * len(rows) / total
        mean, count = mean + (own - mean) * len(rows) / total, total
    if not count:
        raise ValueError("batches: expected at least one, got none")
    variance = squares / count
    if not np.all(variance > 0):
        which = f"channels {np.flatnonzero(~(variance > 0)).tolist()} of " if per_channel else ""
        raise ValueError(f"{which}the latents do not vary: they have no scale")
    scale = 1 / np.sqrt(variance)
    return (
        Scaling(scale, mean, law) if per_channel else Scaling(float(scale[0]), float(mean[0]), law)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FirstStage:
    """An encoder and a decoder, frozen, and the scale of the space between them.

    Parameters are bound in the two functions, by closure over arrays or over a loss's model state;
    nothing differentiates them.

    Attributes:
        encode: images -> mean and log variance, or vectors, [B, ..., C]; unscaled.
        decode: unscaled latents -> images, or a likelihood with `.mean` and `.log_prob(x)`.
        scale: what latents are multiplied by, a number or [C]; from `measure`.
        shift: what is taken off before, likewise.
    Raises:
        ValueError: for a scale that is zero or not finite, or a shift that is not finite, as far as
            known; or if either is neither a number nor [C].
    """

    encode: Encode
    decode: Decode
    scale: float | Array = 1.0
    shift: float | Array = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if np.ndim(value) > 1:
                raise ValueError(f"{name} has shape {np.shape(value)}: expected a number or [C]")
            if isinstance(value, jax.core.Tracer):
                continue
            known = np.asarray(value, np.float64)
            if not np.isfinite(known).all() or (name == "scale" and not known.all()):
                expected = "finite numbers" + (" but 0" if name == "scale" else "")
                raise ValueError(f"{name}={value}: expected {expected}")

    def to_latent(self, x: Any, rng: Key | None = None) -> Array:
        """Scaled latents [B, ..., C] of images, float32 or wider.

        Args:
            x: what `encode` takes.
            rng: a key, or [B] keys, to draw from the posterior, each example by its own; None is
                the posterior's mean. Vectors have no posterior and are what they are.
        """
        encoded = self.encode(x)
        if not isinstance(encoded, tuple):
            return self.scaled(encoded)
        mean, log_var = wide(encoded[0]), wide(encoded[1])
        if rng is None:
            return self.scaled(mean)
        (keys,) = draws.example_keys(rng, len(mean), 1)
        return self.scaled(mean + jnp.exp(log_var / 2) * draws.normals(keys, mean))

    def to_image(self, z: Array) -> Array:
        """Images of scaled latents [B, ..., C]: the mean where the decoder gives a likelihood."""
        decoded = self.decode(self.unscaled(z))
        return decoded.mean if hasattr(decoded, "log_prob") else decoded

    def scaled(self, z: Array) -> Array:
        """(z - shift) * scale of latents [B, ..., C]."""
        z = wide(z)
        return (z - self._along(self.shift, z)) * self._along(self.scale, z)

    def unscaled(self, z: Array) -> Array:
        """z / scale + shift: back from `scaled`."""
        z = wide(z)
        return z / self._along(self.scale, z) + self._along(self.shift, z)

    def log_volume(self, shape: tuple[int, ...]) -> Array:
        """log |d scaled / d unscaled| of a latent of this shape, [] nats: what a density gains."""
        logs = jnp.log(jnp.abs(jnp.asarray(self.scale, float)))
        return logs.sum() * (np.prod(shape) / logs.size)

    def _along(self, value: float | Array, z: Array) -> Array:
        """A number, or one a channel, ready to meet latents."""
        value = jnp.asarray(value, z.dtype)
        if value.ndim and value.shape != z.shape[-1:]:
            raise ValueError(f"latents {list(z.shape)}: expected {len(value)} channels, as scales")
        return value.reshape((1,) * (z.ndim - 1) + value.shape) if value.ndim else value


def on_latents(
    loss_fn: LossFn,
    first_stage: FirstStage | Callable[[ModelState], FirstStage],
    sampled: bool = True,
) -> LossFn:
    """The loss of a latent model, on batches of images.

    The latents are constants to the gradient, whatever the first stage is made of.

    Args:
        loss_fn: of a batch with "image" [B, ...], e.g. of `research.diffusion.losses`; it gets the
            scaled latents in that place.
        first_stage: its value, or a function of the model state, which is not differentiated
            either: parameters that are large or sharded are better arguments than constants.
        sampled: draw from the posterior, each example by a key of its own, or take its mean.
    Returns:
        The loss of a batch whose "image" is what the encoder takes.
    """

    def on_images(
        params: Params, model_state: ModelState, rng: Key, batch: Batch
    ) -> tuple[Array, Aux]:
        stage = first_stage(model_state) if callable(first_stage) else first_stage
        size = jax.tree.leaves(batch["image"])[0].shape[0]
        own, rngs = draws.example_keys(rng, size, 2)  # each [B]
        z = stage.to_latent(batch["image"], own if sampled else None)
        return loss_fn(params, model_state, rngs, {**batch, "image": jax.lax.stop_gradient(z)})

    return on_images


def _rows(values: np.ndarray, per_channel: bool) -> np.ndarray:
    """[N, C], one column a channel, or [N, 1]."""
    if values.ndim < 2:
        raise ValueError(f"latents {list(values.shape)}: expected [B, ..., C]")
    return values.reshape(-1, values.shape[-1] if per_channel else 1)
