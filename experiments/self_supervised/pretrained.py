"""What do published weights make of your images, and what do they see in them?

Claims: files of weights that are written and read are the same; features of an image do not depend
on its batch; the probes leave the weights as they are; of a folder of your own, its features know
more of the labels than pixels do, by nearest neighbours. Cost: 1 minute on 2 CPU cores.
    python -m experiments self_supervised.pretrained --model dinov2-small --images FOLDER

A folder of Hugging Face's (config.json and *.safetensors) of DINOv2, ViT-MAE or ResNet, and a
folder of images, sub-folders being classes; one image in five of each is held out for the probes.
Without --model tiny random ones of all three kinds are written and read: the numbers then say
nothing of published weights. Without --images digits, brought to the model's size. In the run's
folder: features.npz (features, labels, held_out) and pictures of attention or reconstructions.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.self_supervised import _folders
from library import claims, plots, report
from research.self_supervised import probes, weights

BACK = claims.theorem("a folder that is written and read is the same model")
ALONE = claims.theorem("nothing couples the images of a batch; float32")
FROZEN = claims.theorem("a probe sees features, not weights")
PIXELS = claims.baseline("the same vote by the pixels of the same images")


@dataclasses.dataclass(frozen=True)
class Config:
    """The weights and the images."""

    model: str = ""  # a folder of config.json and *.safetensors; empty: tiny random ones
    images: str = ""  # a folder of images, sub-folders are classes, or .npz; empty: 8x8 digits
    size: int = 0  # pixels of a side to which images are brought; 0: the model's own
    num_images: int = 5000  # at most; of more, so many are drawn
    batch_size: int = 50  # images at a time
    k: int = 20  # neighbours that vote
    num_shown: int = 8  # images in the pictures
    seed: int = 0  # of held-out images, hidden patches and random weights


PRESETS = {
    "smoke": Config(num_images=60, batch_size=20, k=5, num_shown=2),
    "default": Config(),
    "accelerator": Config(num_images=50_000, batch_size=200),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Reads the weights, and shows what they see and what their features know."""
    if config.model:
        model, params = weights.load(config.model)
        found = _seen(config, weights.to_config(model)["model_type"], model, params, out)
        return claims.Result(found, _stated([found], own=True))
    print("No --model: tiny random weights of our own, which say nothing of published ones")
    changed, each = 0, {}
    for name, (made, params) in _folders.tiny(config.seed).items():
        weights.save(out.path / "models" / name, made, params)
        model, again = weights.load(out.path / "models" / name)
        same = jax.tree.map(np.array_equal, params, again)
        changed += sum(not leaf for leaf in jax.tree.leaves(same)) + (model != made)
        each[name] = _seen(config, name, model, again, out)
    metrics = {f"{name}_{key}": value for name, got in each.items() for key, value in got.items()}
    stated = [claims.exactly("written and read: leaves changed", changed, 0, BACK)]
    return claims.Result(metrics, stated + _stated(list(each.values())))


def _stated(found: list[dict[str, float]], own: bool = False) -> list[claims.Claim]:
    """What holds of all weights, and of a user's own where there are labels."""
    moved, change = (max(each[name] for each in found) for name in ("moved", "alone"))
    stated = [
        claims.at_most("features with no other image in the batch: change", change, 1e-5, ALONE),
        claims.exactly("weights that the probes moved", moved, 0, FROZEN),
    ]
    if own and "knn" in found[0]:
        knn, pixels = (100 * found[0][name] for name in ("knn", "pixels_knn"))
        stated.append(claims.above("neighbours: right by its features, %", knn, pixels, PIXELS))
    return stated


def _seen(config: Config, name: str, model: weights.Model, params, out) -> dict[str, float]:
    """Pictures, features.npz, and what the features know of labels, where there are any."""
    size = config.size or (_folders.side(model) if config.model else 32)
    channels = model.channels
    images = _folders.read(config.images, size, channels, config.num_images, config.seed)
    before = probes.fingerprint(params)
    x = _folders.features(model, params, images.pixels, config.batch_size)
    alone = _folders.features(model, params, images.pixels[1:2], config.batch_size)
    metrics = {"alone": float(abs(alone - x[1:2]).max() / abs(x).max())}
    kept = {"features": x}
    if images.labels is not None:
        held = _folders.held_out(images.labels, config.seed)
        kept |= {"labels": images.labels, "held_out": held}
        pixels = _folders.normalised(images.pixels).reshape(len(x), -1)
        sets = lambda x: (x[~held], images.labels[~held], x[held], images.labels[held])
        metrics["linear"] = probes.linear(*sets(x), l2=1e-3).accuracy
        metrics["knn"] = probes.knn(*sets(x), config.k).accuracy
        metrics["pixels_knn"] = probes.knn(*sets(pixels), config.k).accuracy
    np.savez(out.path / ("features.npz" if config.model else f"features_{name}.npz"), **kept)
    metrics["moved"] = float(probes.fingerprint(params) != before)
    shown = images.pixels[: config.num_shown]
    rows, labels, title = _folders.pictures(model, params, shown, config.seed)
    out.figure(name, plots.image_grid(rows, len(labels), len(shown), title=title,
                                      row_labels=labels))  # fmt: skip
    return metrics
