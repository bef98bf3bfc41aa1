"""Does a small adversarial network draw images of your own, and does it copy them?

Claims: samples have a higher density and coverage of held-out images than a Gaussian of the
training images, on principal components; a sample is nearer to the training images than a held-out
one is with a probability of at most 3/4, where fresh images have 1/2 and copies 1.
Cost: 4 minutes on 2 CPU cores.
    python -m experiments gan.images --images FOLDER --size 64 --num-steps 20000
    python -m experiments gan.images --images FILE.npz --channels 1 --augment diffaugment

A folder of image files or an .npz file of one array [N, H, W, C] (bytes, or floats in [0, 1]);
without --images 8x8 digits. One image in five is held out. Density and coverage: Naeem et al. 2020,
arXiv:2002.09797; copying: Meehan et al. 2020, arXiv:2004.05675. With few images the critic learns
them by heart: let it see data and samples augmented, by DiffAugment (arXiv:2006.10738) or
adaptively (arXiv:2006.06676). The generator's average is in checkpoints/.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.gan import _images, _networks
from library import claims, report, training
from library.data import images as image_files
from library.data.sets import digits
from research.sample_quality import manifolds

GAUSSIAN = claims.baseline("a Gaussian of full covariance fitted to the training images, same run")
COPIES = claims.bar("half way from fresh images, 1/2, to copies of the training set, 1")

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The images, the networks and their training."""

    images: str = ""  # a folder of images or an .npz file; empty: 8x8 digits
    size: int = 64  # pixels of a side of your images, 4 * 2^n
    channels: int = 3  # of your images: 1 grey, 3 colours
    network: str = "r3gan"  # or stylegan2
    augment: str = "none"  # what the critic sees through: none, diffaugment or ada
    ada_images: int = 100_000  # data within which ada's p can rise to 1
    width: int = 16  # channels at the finest resolution
    num_steps: int = 6000  # rounds
    batch_size: int = 32  # images per round
    learning_rate: float = 1e-3  # of both; falls to a tenth by half a cosine
    gamma: float = 0.1  # weight of R1, and of R2 in R3GAN
    ema_decay: float = 0.998  # of the average that samples come from
    num_samples: int = 1000  # that are judged
    num_dims: int = 50  # principal components that they are judged on
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=500)


PRESETS = {
    "smoke": Config(
        network="stylegan2", width=4, num_steps=2, batch_size=8, num_samples=40,
        num_dims=4, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        width=64, num_steps=50_000, batch_size=64, ada_images=500_000, num_samples=10_000,
        ema_decay=0.999,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains on all but the held-out images, judges samples and a Gaussian's, shows neighbours."""
    train, held_out = _images.split(read(config), config.run.seed)
    game = players(config, train.shape[1:])
    variables = _images.play(
        game, {"images": train}, out, num_steps=config.num_steps, batch_size=config.batch_size,
        learning_rate=config.learning_rate, ema_decay=config.ema_decay, run=config.run,
    )  # fmt: skip
    samples, shown = _images.draw(
        config.network, game, variables, config.num_samples, config.run.seed
    )
    gaussian = _images.gaussian_mixture(
        train, len(samples), num_components=1, num_dims=config.num_dims, seed=config.run.seed
    )
    project = _images.components(train, config.num_dims)
    near = _images.nearest(samples[: _images.COLUMNS], train)
    rows = {"held out": held_out, "Gaussian": gaussian, "nearest in training": near, **shown}
    out.figure("images", _images.picture(rows, "Samples below their nearest training images"))
    result = judged(*map(project, (train, held_out, samples, gaussian)))
    return result + claims.Result({"trained_on": len(train), "held_out": len(held_out)})


def read(config: Config) -> np.ndarray:
    """Images [N, R, R, C] in [-1, 1].

    Raises:
        ValueError: if there are too few to hold some out, or as `library.data.images.read`.
    """
    if not config.images:
        both = [digits.arrays(name)["image"] for name in ("train", "test")]
        return _images.to_range(np.concatenate(both), digits.MAX_VALUE)
    images = image_files.read(config.images, config.size, config.channels)
    if len(images) < 50:
        raise ValueError(f"{config.images} holds {len(images)} images: expected 50 or more")
    return _images.to_range(images)


def players(config: Config, shape: tuple[int, int, int]) -> _networks.Players:
    """The game on images of a shape [R, R, C]."""
    augmented = _networks.augmentation(config.augment, config.batch_size, config.ada_images)
    widths = _networks.pyramid(shape[0], config.width)
    if config.network == "r3gan":
        return _networks.residual(shape, widths=widths, gamma=config.gamma, augmented=augmented)
    if config.network == "stylegan2":
        return _networks.styled(shape, width=config.width, gamma=config.gamma, augmented=augmented)
    raise ValueError(f"--network {config.network}: expected r3gan or stylegan2")


def judged(train, held_out, samples, gaussian) -> claims.Result:
    """Claims on density, coverage and copying, from features [., F] of all images."""
    ours, theirs = (manifolds.density_coverage(held_out, each) for each in (samples, gaussian))
    copied = float(manifolds.copying(train, held_out, samples))
    best = manifolds.coverage_of_equals(len(held_out), len(samples))
    stated = [
        claims.above("density", float(ours.density), float(theirs.density), GAUSSIAN),
        claims.above("coverage", float(ours.coverage), float(theirs.coverage), GAUSSIAN),
        claims.at_most("probability of a sample to be nearer than a held-out image", copied, 0.75,
                       COPIES),
    ]  # fmt: skip
    return claims.Result({"coverage_of_equals": best}, stated)
