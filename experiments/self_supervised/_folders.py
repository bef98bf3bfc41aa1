"""Encoders in folders of weights: tiny ones of our own, features of images, and what they show."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from library.data import images as image_files
from library.data.sets import digits
from library.types import Array, Params
from research.self_supervised import dinov2, mae, masking, weights
from research.vision import patches, resnet

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as bytes, and their classes where there are any.

    Attributes:
        pixels: [N, H, W, C] uint8.
        labels: [N] int from 0, or None.
    """

    pixels: np.ndarray
    labels: np.ndarray | None


def read(folder: str, size: int, channels: int, most: int, seed: int) -> Images:
    """Images of one size; sub-folders are classes, in the order of their names.

    Args:
        folder: of image files, or of sub-folders of these; an .npz file; empty for the digits.
        size, channels: of the result.
        most: images; of more, so many are drawn.
        seed: of the draw.
    Raises:
        FileNotFoundError, ValueError: as `library.data.images.read`.
    """
    labels = None
    if not folder:
        both = [digits.arrays(split) for split in ("train", "test")]
        pixels = np.concatenate([part["image"] for part in both]) * (255 / digits.MAX_VALUE)
        pixels = enlarged(np.round(pixels).astype(np.uint8), size, channels)
        labels = np.concatenate([part["label"] for part in both])
    elif names := _classes(folder):
        parts = [image_files.read(str(name), size, channels) for name in names]
        pixels = np.concatenate(parts)
        labels = np.repeat(np.arange(len(parts)), list(map(len, parts)))
    else:
        pixels = image_files.read(folder, size, channels)
    rows = np.sort(np.random.default_rng(seed).permutation(len(pixels))[:most])
    return Images(pixels[rows], None if labels is None else labels[rows])


def enlarged(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Grey [N, H, W, 1] as [N, size, size, channels], each pixel as its nearest."""
    rows, columns = (np.arange(size) * side // size for side in pixels.shape[1:3])
    large = pixels[:, rows][:, :, columns]
    return np.broadcast_to(large, (*large.shape[:3], channels))


def held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """[N] bool: one in five of each class, rounded down."""
    rng, out = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        out[rows[: len(rows) // 5]] = True
    return out


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Bytes as float32, by ImageNet's means and deviations; grey ones by those of its green."""
    mean, deviation = _moments(pixels.shape[-1])
    return (pixels / np.float32(255) - mean) / deviation


def features(
    model: weights.Model, params: Params, pixels: np.ndarray, batch_size: int
) -> np.ndarray:
    """[N, D] float32 of bytes [N, H, W, C]: the class token or the mean over the map.

    Of a masked autoencoder the mean over patches, as nothing trains its class token. The last batch
    is filled up with its last image, so that there is one program, with the weights as an argument.
    """

    @jax.jit
    def run(params: Params, images: Array) -> Array:
        tokens = model.features(params, images)
        whole = isinstance(model, mae.MAE)
        return (tokens[:, 1:].mean(1) if whole else tokens[:, 0]).astype(jnp.float32)

    found = []
    for start in range(0, len(pixels), batch_size):
        part = pixels[start : start + batch_size]
        full = np.concatenate([part, np.repeat(part[-1:], batch_size - len(part), axis=0)])
        found.append(np.asarray(run(params, normalised(full)))[: len(part)])
    return np.concatenate(found)


def pictures(
    model: weights.Model, params: Params, pixels: np.ndarray, seed: int
) -> tuple[np.ndarray, list[str], str]:
    """Rows of pictures [R N, H, W, C] in [0, 1], their names, and a title, for bytes [N, H, W, C].

    Where the class token of DINOv2's last block looks, a row a head, brightest 1; what a masked
    autoencoder makes of hidden patches; where the map of a residual network is longest.
    """
    images, shape = normalised(pixels), pixels.shape[1:]
    shown = pixels / 255.0
    rows, names, title = [shown], ["image"], "Length of the last map"
    if isinstance(model, dinov2.DINOv2):
        seen = np.asarray(jax.jit(model.attention_maps)(params, images))[:, :, 0, 1:]  # [N, H, P]
        title = "Where the class token looks in the last block, by head"
        for head in range(seen.shape[1]):
            rows.append(_grid(seen[:, head], shape))
            names.append(f"head {head + 1}")
    elif isinstance(model, mae.MAE):
        keys = jax.random.split(jax.random.key(seed), len(images))
        found = jax.jit(model.reconstruct)(params, images, keys)
        true = patches.to_patches(images, model.patch)
        prediction = np.asarray(found.prediction)
        title = f"{100 * model.ratio:.0f} % of the patches hidden, and rebuilt"
        if model.normalise:
            prediction = masking.with_own_scale(prediction, true)
            title += "; true means put back: they leak"
        hidden = np.asarray(found.mask)[:, :, None] == 1
        back = lambda x: patches.from_patches(x, shape, model.patch)
        mean, deviation = _moments(shape[-1])
        rebuilt = back(np.where(hidden, prediction, true)) * deviation + mean
        grey = np.where(hidden, 0.5, patches.to_patches(shown, model.patch))
        rows += [back(grey), np.clip(rebuilt, 0, 1)]
        names += ["seen", "rebuilt"]
    else:
        tokens = np.asarray(jax.jit(model.features)(params, images))[:, 1:]
        rows.append(_grid(np.linalg.norm(tokens, axis=-1), shape))
        names.append("length")
    return np.concatenate(rows), names, title


def tiny(seed: int) -> dict[str, tuple[weights.Model, Params]]:
    """Random models of each kind for images of 32 x 32 pixels."""
    small = {"image_size": (32, 32), "patch": 4, "width": 24, "depth": 2, "num_heads": 3}
    narrow = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_dim": 32}
    encoder = weights.ResNetEncoder(resnet.ResNet(None, (1, 1), width=8))
    images, rng = jnp.zeros((1, 32, 32, 3)), np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(0), 1)
    made = {
        "dinov2": (dinov2.DINOv2(**small, scale=1.0), (images,)),
        "vit_mae": (mae.MAE(**small, mlp_dim=48, **narrow, epsilon=1e-12), (images, keys)),
        "resnet": (encoder, (images,)),
    }
    found = {}
    for name, (model, given) in made.items():
        net = encoder.net if name == "resnet" else model
        outline = jax.eval_shape(net.init, jax.random.key(0), *given)
        draw = lambda leaf: rng.uniform(0.0, 0.4, leaf.shape).astype(np.float32)
        params = {**jax.tree.map(draw, outline)}
        params["params"] = jax.tree.map(lambda leaf: 2 * leaf - 0.4, params["params"])
        found[name] = model, params
    return found


def side(model: weights.Model) -> int:
    """Pixels of an image's side that a model is for."""
    return getattr(model, "image_size", (224,))[0]


def _classes(folder: str) -> list[pathlib.Path]:
    """The sub-folders of a folder, by name; none of what is no folder."""
    place = pathlib.Path(folder).expanduser()
    return sorted(each for each in place.iterdir() if each.is_dir()) if place.is_dir() else []


def _moments(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """ImageNet's means and deviations by channel; of grey images those of its green."""
    mean, deviation = (np.array(each, np.float32) for each in (MEAN, DEVIATION))
    return (mean, deviation) if channels == 3 else (mean[1:2], deviation[1:2])


def _grid(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[N, H, W, C]: one number a patch [N, P] as a picture, largest 1, patches as squares."""
    side = round(values.shape[1] ** 0.5)
    grid = (values / values.max(1, keepdims=True)).reshape(-1, side, side, 1)
    rows, columns = (np.arange(length) * side // length for length in shape[:2])
    picture = grid[:, rows][:, :, columns]  # [N, H, W, 1]
    return np.broadcast_to(picture, (*picture.shape[:3], shape[-1]))
