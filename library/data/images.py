"""A user's own images: a folder of image files, or an .npz file, as one array of bytes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from library import checks
from library.storage import files

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read(path: str, size: int | None = None, channels: int = 3) -> np.ndarray:
    """Images of one size.

    A folder is searched with all its folders, in the order of the paths. From each image the
    largest central square is cut, and resized by averages over areas. An .npz file holds one array
    [N, H, W, C] or [N, H, W] of bytes, or of floats in [0, 1].

    Args:
        path: of the folder or the file.
        size: height and width of the result; None takes those of the images, which must agree.
        channels: 1 for grey, 3 for colours.
    Returns:
        [N, H, W, channels] uint8.
    Raises:
        FileNotFoundError: if nothing is there, or no image in the folder.
        ValueError: for a file that is no image, arrays of other shapes or ranges, images of
            different sizes without `size`, or a count out of range; the file is named.
    """
    if size is not None:
        checks.count("size", size, of="pixels")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: expected 1 (grey) or 3 (colours)")
    place = files.local(path, "images")
    if place.is_dir():
        found = [file for file in sorted(place.rglob("*")) if file.suffix.lower() in SUFFIXES]
        if not found:
            raise FileNotFoundError(f"{place} holds no image ({', '.join(SUFFIXES)})")
        return _stack([(str(file), _open(file, size, channels)) for file in found])
    if not place.exists():
        raise FileNotFoundError(f"{place} not found: expected a folder of images or an .npz file")
    if place.suffix != ".npz":
        raise ValueError(f"{place}: expected a folder of images or an .npz file")
    arrays = _bytes(place)
    if size is None and arrays.shape[-1] == channels:
        return arrays
    return _stack(
        [(f"{place}, image {i}", _fit(each, size, channels)) for i, each in enumerate(arrays)]
    )


def read_files(paths: Sequence[str], size: int, channels: int = 3) -> np.ndarray:
    """The named image files, in their order; see `read`.

    Raises:
        ValueError: for none, a file that is no image, or a count out of range.
    """
    checks.count("size", size, of="pixels")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: expected 1 (grey) or 3 (colours)")
    if not paths:
        raise ValueError("paths: got none, expected at least one image file")
    return _stack([(path, _open(pathlib.Path(path), size, channels)) for path in paths])


def _open(file: pathlib.Path, size: int | None, channels: int) -> np.ndarray:
    from PIL import Image  # here: what reads no image files needs no Pillow

    try:
        with Image.open(file) as image:
            return _resized(image, size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from None


def _fit(array: np.ndarray, size: int | None, channels: int) -> np.ndarray:
    from PIL import Image

    return _resized(
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array), size, channels
    )


def _resized(image, size: int | None, channels: int) -> np.ndarray:
    """[H, W, channels] of an open image."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        image = Image.fromarray((np.asarray(image, np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floats: expected 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")  # what a viewer shows behind it
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BOX, box=box)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def _stack(images: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """[N, H, W, C] of named images of one shape."""
    first = images[0][1].shape
    for name, image in images:
        if image.shape != first:
            raise ValueError(
                f"{name} has {image.shape[0]} x {image.shape[1]} pixels, the first "
                f"{first[0]} x {first[1]}: give a size, to which all are brought"
            )
    return np.stack([image for _, image in images])


def _bytes(place: pathlib.Path) -> np.ndarray:
    """The one array [N, H, W, C] of an .npz file as bytes."""
    try:
        with np.load(place, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{place} cannot be read as .npz: {error}") from None
    images = {name: array for name, array in arrays.items() if array.ndim in (3, 4)}
    if len(images) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{place} holds {shapes}: expected one array of images [N, H, W, C]")
    ((name, array),) = images.items()
    array = array[..., None] if array.ndim == 3 else array
    if not array.size or array.shape[-1] not in (1, 3):
        raise ValueError(f"{place}, {name} {array.shape}: expected [N, H, W, 1 or 3]")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{place}, {name} of type {array.dtype}: expected uint8 or floats")
    if not (np.isfinite(array).all() and 0 <= array.min() and array.max() <= 1):
        low, high = array.min(), array.max()
        raise ValueError(
            f"{place}, {name} goes from {low:g} to {high:g}: expected floats in [0, 1]"
        )
    return np.round(255 * array).astype(np.uint8)
