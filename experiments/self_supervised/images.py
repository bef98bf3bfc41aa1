"""What does an encoder learn of images of your own, and which of them does it find alike?

Claims: where there are labels, a vote of 20 neighbours by its features is right more often than one
by those of the random encoder that it started from; the features have not collapsed.
Cost: 1 minute on 2 CPU cores.
    python -m experiments self_supervised.images --images FOLDER --method simclr
    python -m experiments self_supervised.images --images FOLDER --size 64 --patch 2 --method byol

A folder of image files; folders in it, if there are any, are classes. Without --images 8x8 digits.
Where there are labels one image in five of each class is held out of training and probes. In the
run's folder: features.npz (features [N, D], files [N], held_out [N], and labels [N]) and, where
there are labels, probes.csv (linear probe and vote, beside random encoder and pixels).
"""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np

from experiments.self_supervised import _images, _own, _pretrain
from library import claims, report, training
from library.storage import files
from research.self_supervised import probes, views

RANDOM = claims.baseline("the same encoder before training, same run")
HEALTHY = claims.bar("a method that works does not collapse")

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The images, the method, and its training."""

    images: str = ""  # a folder of images, sub-folders are classes; empty: 8x8 digits
    size: int = 32  # pixels of a side to which your images are brought
    channels: int = 3  # of your images: 1 grey, 3 colours
    method: str = "simclr"  # moco, moco_v3, spectral, byol, simsiam, barlow, vicreg or dino
    width: int = 32  # channels of the encoder's first stage
    num_blocks: tuple[int, ...] = (1, 1)  # residual blocks of each stage
    patch: int = 1  # pixels of a side that the encoder takes as one; 4 is quick
    scale: float = 0.3  # smallest window, share of the area
    flip: bool = False  # whether half of the views are mirrored, which makes no digit
    num_steps: int = 600  # updates
    batch_size: int = 128  # images of each, at most half of all
    learning_rate: float = 2e-3  # peak of AdamW's
    run: training.RunOptions = training.RunOptions(log_every=50)


PRESETS = {
    "smoke": Config(
        width=4, num_blocks=(1,), num_steps=2, batch_size=8, run=training.RunOptions(log_every=2)
    ),
    "default": Config(),
    "accelerator": Config(
        width=64, num_blocks=(2, 2, 2, 2), num_steps=20_000, batch_size=512,
        run=training.RunOptions(log_every=100, checkpoint_every=5000),
    ),
}  # fmt: skip

NEIGHBOURS = 20  # that vote


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, writes the features of all images, and probes them where there are labels."""
    if config.method not in _pretrain.NAMES:
        names = ", ".join(_pretrain.NAMES)
        raise ValueError(f"--method {config.method}: expected one of {names}")
    own = read(config)
    seen = own.images[~own.held_out]
    made = _images.pretraining(
        config.method, _sizes(config, own), _views(config, own), config.num_steps
    )
    trained = _images.train(
        made, seen, out, num_steps=config.num_steps, batch_size=_batch_size(config, len(seen)),
        learning_rate=config.learning_rate, run=config.run,
    )  # fmt: skip
    features = _images.features(trained, own.images)
    _own.write(out, own, features)
    out.figure("neighbours", _own.picture(own, features))
    some = own.images[own.held_out] if own.held_out.any() else own.images
    verdict = _images.verdict(trained, some[:256])
    result = claims.Result(
        {"images": len(own.images), "effective_rank": verdict.effective_rank},
        [claims.exactly("collapsed", float(verdict.collapsed != "none"), 0, HEALTHY)],
    )
    if own.labels is None:
        return result
    return judged(out, own, trained, _images.start(made, config.run.seed)) + result


def read(config: Config) -> _own.Own:
    """The digits, or a user's folder."""
    if not config.images:
        return _own.embedded()
    return _own.folder(config.images, config.size, config.channels, config.run.seed)


def judged(
    out: report.RunDir, own: _own.Own, trained: _images.Trained, start: _images.Trained
) -> claims.Result:
    """The table of probes, written to probes.csv, and the claim on neighbours."""
    train, test = ((own.images[rows], own.labels[rows]) for rows in (~own.held_out, own.held_out))
    data = _images.Data(train[0], train, test)
    found = {"random": start, "trained": trained}
    found = {name: _images.worth(each, data, NEIGHBOURS) for name, each in found.items()}
    flat = [np.asarray(_images.floats(x)).reshape(len(x), -1) for x, _ in (train, test)]
    given = flat[0], train[1], flat[1], test[1]
    table = [(name, each.linear, each.knn, each.fingerprint) for name, each in found.items()]
    table.append(("pixels", probes.linear(*given, l2=0.1).accuracy,
                  probes.knn(*given, k=NEIGHBOURS).accuracy, ""))  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows([("features", "linear", "neighbours", "encoder"), *table])
    files.write_atomic(out.path / "probes.csv", text.getvalue())
    for name, linear, knn, encoder in table:
        print(f"{name} {encoder}: linear probe {linear:.1%}, {NEIGHBOURS} neighbours {knn:.1%}")
    metrics = {f"{name}_{kind}": value for name, linear, knn, _ in table
               for kind, value in (("linear", linear), ("knn", knn))}  # fmt: skip
    ours, before = found["trained"].knn, found["random"].knn
    return claims.Result(metrics, [claims.above("right by neighbours", ours, before, RANDOM)])


def _batch_size(config: Config, num: int) -> int:
    return min(config.batch_size, num // 2)


def _sizes(config: Config, own: _own.Own) -> _pretrain.Sizes:
    batch = _batch_size(config, int((~own.held_out).sum()))
    return _pretrain.Sizes(
        own.images.shape[1:], config.width, config.num_blocks, queue_size=8 * batch,
        patch=config.patch,
    )  # fmt: skip


def _views(config: Config, own: _own.Own) -> views.Views:
    """Without colours where there is one channel."""
    _, size, _, channels = own.images.shape
    if channels == 1:
        return views.uncoloured(size, (config.scale, 1.0), flip=config.flip)
    return views.small_images(size, (config.scale, 1.0))
