"""What a generation is asked for, checked before anything compiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from library import checks
from library.types import Array, Key, Params

_SLACK = 1e-4  # by which a resized image may leave [-1, 1]
_DTYPES = ("float16", "bfloat16", "float32", "float64")

if TYPE_CHECKING:
    from research.text_to_image.model import Model


def prompts(given: str | Sequence[str], name: str = "prompts") -> list[str]:
    """A list of texts.

    Raises:
        ValueError: for none.
        TypeError: for anything else than texts.
    """
    if not hasattr(given, "__iter__"):
        raise TypeError(f"{name}={given!r}: expected texts")
    texts = [given] if isinstance(given, str) else list(given)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"{name} hold a {type(wrong[0]).__name__}: expected texts")
    if not texts:
        raise ValueError(f"{name}: got none, expected at least one")
    return texts


def negative(given: str | Sequence[str] | None, num: int) -> list[str]:
    """One negative prompt for each of `num` prompts; None is "", one text is everybody's.

    Raises:
        ValueError: for a list of another length.
    """
    if given is None or isinstance(given, str):
        return [given or ""] * num
    texts = prompts(given, "negative prompts")
    if len(texts) != num:
        raise ValueError(f"{len(texts)} negative prompts for {num} prompts: expected one each")
    return texts


def weights(guidance: float, rescale: float) -> None:
    """Raises ValueError for a guidance that is no finite number or a rescale outside [0, 1]."""
    try:
        known = np.ndim(guidance) == 0 and math.isfinite(guidance)
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"guidance={guidance}: expected a finite number")
    checks.share("rescale", rescale)


def latent_size(model: Model, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the latents of images of a size in pixels; None is the model's.

    Raises:
        ValueError: for anything but one or two whole numbers, which autoencoder and U-Net can halve
            as often as they must.
    """
    factor = model.factor
    if size is None:
        size = tuple(factor * side for side in model.sample_size)
    pair = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"size={size}: expected pixels of a side, or (height, width)")
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
        ValueError: for another shape or type, or numbers that are not finite.
    """
    if given is None:
        return None
    if np.shape(given) != shape:
        raise ValueError(f"latents {list(np.shape(given))}: expected {list(shape)}")
    given = jnp.asarray(given)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"latents of type {given.dtype}: expected floats")
    if not isinstance(given, jax.core.Tracer) and not jnp.isfinite(given).all():
        raise ValueError("latents hold nan or inf: expected finite numbers")
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
        if known.dtype.kind not in "biuf" and known.dtype != jnp.bfloat16:
            raise ValueError(f"mask of type {known.dtype}: expected bool, or 0 and 1")
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
    whole = np.shape(given) == (2,) and np.asarray(given).dtype.kind in "iu"
    if not whole or not 0 <= given[0] <= given[1] < num_steps:
        raise ValueError(f"interval={given}: expected steps 0 <= low <= high < {num_steps}")
    return int(given[0]), int(given[1])


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
    if not isinstance(given, Mesh):
        raise ValueError(f"mesh={given!r}: expected a jax.sharding.Mesh")
    if "data" not in given.shape or num % given.shape["data"]:
        raise ValueError(
            f"mesh {dict(given.shape)}: expected an axis data that divides {num} images"
        )


def first_index(given: int, num: int) -> Array:
    """The index of the first of `num` images, [] int32; a traced one is left as it is.

    Raises:
        ValueError: for anything but a whole number, of which the last image's is below 2**31 too.
    """
    if not isinstance(given, jax.core.Tracer):
        last = checks.count("first_index", given, least=0) + num - 1
        if last >= 2**31:
            raise ValueError(f"first_index={given} of {num} images: expected indices below 2**31")
    return jnp.asarray(given, jnp.int32)


def dtype(given: Any) -> np.dtype:
    """A type of floats for parameters and networks.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = jnp.dtype(given)
    except TypeError:
        found = None
    if found is None or found.name not in _DTYPES:
        raise ValueError(f"dtype={given}: expected one of {', '.join(_DTYPES)}")
    return found


def params(model: Model, given: Params) -> None:
    """Raises ValueError unless there are parameters of each network of the model."""
    names = ["text_encoder", "unet", "vae"] + ["text_encoder_2"] * bool(model.text_encoder_2)
    lacking = [name for name in names if not jax.tree.leaves((given or {}).get(name))]
    if lacking:
        raise ValueError(f"params lack {', '.join(lacking)}: expected {', '.join(names)}")


def key(given: Key) -> None:
    """Raises ValueError for anything but one key, typed or raw."""
    kind, shape = getattr(given, "dtype", None), np.shape(given)
    typed = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key)
    if not (typed and shape == () or kind == np.uint32 and len(shape) == 1):
        what = f"{kind}{list(shape)}" if kind is not None else repr(given)
        raise ValueError(f"rng={what}: expected one key, such as jax.random.key(0)")
