"""What a generation is asked for, checked before anything compiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from library import checks
from library.types import Array

_SLACK = 1e-4  # by which a resized image may leave [-1, 1]

if TYPE_CHECKING:
    from research.text_to_image.model import Model


def prompts(given: str | Sequence[str]) -> list[str]:
    """A list of texts.

    Raises:
        ValueError: for none.
        TypeError: for anything else than texts.
    """
    texts = [given] if isinstance(given, str) else list(given)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"prompts hold a {type(wrong[0]).__name__}: expected texts")
    if not texts:
        raise ValueError("prompts: got none, expected at least one")
    return texts


def negative(given: str | Sequence[str] | None, num: int) -> list[str]:
    """One negative prompt for each of `num` prompts; None is "", one text is everybody's.

    Raises:
        ValueError: for a list of another length.
    """
    if given is None or isinstance(given, str):
        return [given or ""] * num
    texts = prompts(given)
    if len(texts) != num:
        raise ValueError(f"{len(texts)} negative prompts for {num} prompts: expected one each")
    return texts


def weights(guidance: float, rescale: float) -> None:
    """Raises ValueError for a guidance that is not finite or a rescale outside [0, 1]."""
    if not np.isfinite(guidance):
        raise ValueError(f"guidance={guidance}: expected a finite number")
    checks.share("rescale", rescale)


def latent_size(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the latents of images of a size in pixels; None is the model's.

    Raises:
        ValueError: for a size that autoencoder and U-Net cannot halve as often as they must.
    """
    factor = model.factor
    if size is None:
        return model.sample_size
    pair = (size, size) if isinstance(size, int) else tuple(size)
    for side in pair:
        checks.count("size", side, of="pixels")
        if side % (factor * model.unet.factor):
            raise ValueError(
                f"size={size}: expected multiples of {factor * model.unet.factor} pixels, which "
                "the networks can halve"
            )
    return pair[0] // factor, pair[1] // factor


def latents(given: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Latents of a shape, in float32 or wider, or None.

    Raises:
        ValueError: for another shape.
    """
    if given is None:
        return None
    if np.shape(given) != shape:
        raise ValueError(f"latents {list(np.shape(given))}: expected {list(shape)}")
    given = jnp.asarray(given)
    return given.astype(jnp.promote_types(given.dtype, jnp.float32))


def images(model: Model, given: Array, num: int) -> Array:
    """Images [B, H, W, 3] for `num` prompts.

    Raises:
        ValueError: for another number, shape, size, type or range.
    """
    shape = np.shape(given)
    if len(shape) != 4 or shape[0] != num or shape[3] != model.vae.image_channels:
        expected = f"[{num}, H, W, {model.vae.image_channels}], one a prompt"
        raise ValueError(f"images {list(shape)}: expected {expected}")
    latent_size(model, shape[1:3])
    given = jnp.asarray(given)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"images of type {given.dtype}: expected floats in [-1, 1]")
    if not isinstance(given, jax.core.Tracer):
        low, high = float(given.min()), float(given.max())
        if not (low >= -1 - _SLACK and high <= 1 + _SLACK):
            raise ValueError(f"images from {low:.4g} to {high:.4g}: expected numbers in [-1, 1]")
    return given


def mask(given: Array, shape: tuple[int, ...]) -> Array:
    """A mask [B, H, W] bool, of one [H, W] or of one an image.

    Raises:
        ValueError: for another shape, or values other than 0 and 1.
    """
    if np.shape(given) not in (shape, shape[1:]):
        raise ValueError(f"mask {list(np.shape(given))}: expected {list(shape[1:])}, of the images")
    if not isinstance(given, jax.core.Tracer):
        known = np.asarray(given)
        if not np.all((known == 0) | (known == 1)):
            raise ValueError(
                f"mask has values from {known.min()} to {known.max()}: expected 0 and 1"
            )
    return jnp.broadcast_to(jnp.asarray(given) != 0, shape)


def interval(given: tuple[int, int] | None, num_steps: int) -> tuple[int, int] | None:
    """Two steps of a table of `num_steps`, or None.

    Raises:
        ValueError: for anything else.
    """
    if given is None:
        return None
    low, high = given
    if not 0 <= low <= high < num_steps:
        raise ValueError(f"interval={given}: expected steps 0 <= low <= high < {num_steps}")
    return int(low), int(high)


def solver(given: Any) -> Any:
    """A solver with a table of steps.

    Raises:
        ValueError: for anything else.
    """
    if not hasattr(given, "table"):
        raise ValueError(f"solver={given!r}: expected one with steps, such as samplers.ddim()")
    return given


def text_network(model: Model) -> None:
    """Raises ValueError for an inpainting network, which wants an image and a mask."""
    if model.inpaints:
        raise ValueError(
            f"the U-Net reads {model.unet.in_channels} channels: it is one for inpainting, "
            "expected a call of `inpaint`"
        )


def mesh(given: Mesh | None, num: int) -> None:
    """Raises ValueError for a mesh without an axis "data" that divides `num` images."""
    if given is None:
        return
    if "data" not in given.shape or num % given.shape["data"]:
        raise ValueError(
            f"mesh {dict(given.shape)}: expected an axis data that divides {num} images"
        )
