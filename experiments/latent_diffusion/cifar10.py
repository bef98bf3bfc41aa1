"""Does diffusion in latents draw better colour images than diffusion in pixels of equal training?

Claims: the feature distance of the latent model's samples to held-out images, guided and not, is no
more than that of a pixel model trained by as many floating-point operations as first stage and
latent model together; and guidance makes a classifier name the asked class more often.
Cost: 30 minutes on 2 CPU cores, for models that have seen the data twice; `accelerator` is the
study's own size, hours on one GPU.
    python -m experiments latent_diffusion.cifar10

Everything is as in `latent_diffusion.mnist`, on 32 x 32 pixels and in latents of 8 x 8 cells. The
images went through JPEG and the classifier is a small one of ours, so neither the data nor the
distance in its features is that of any published FID.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.latent_diffusion import _images, _pair
from library import claims, report, training
from library.data.sets import cifar10

UNGUIDED = claims.baseline("the same model with weight 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """The first stage, both models, and what judges them."""

    stage: _pair.Stage = _pair.Stage((32, 64), patch=2, num_steps=800)  # the autoencoder
    latent: _pair.Model = _pair.Model((64, 128), 1500)  # in its latents
    pixel: _pair.Model = _pair.Model((32, 64, 64), 2300, patch=2)  # in pixels
    sampling: _pair.Sampling = _pair.Sampling()  # of both
    batch_size: int = 64  # images per update
    judge_width: int = 32  # channels of the classifier
    judge_steps: int = 2000  # its updates
    num_train: int = 50_000  # training images, the first ones
    num_test: int = 10_000  # held-out images
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=500)


PRESETS = {
    "smoke": Config(
        stage=_pair.Stage((2,), patch=2, num_blocks=0, latent_dim=1, num_steps=2),
        latent=_pair.Model((4,), 2, num_blocks=0),
        pixel=_pair.Model((4,), 2, patch=2, num_blocks=0),
        sampling=_pair.Sampling(num_samples=20, num_steps=2), batch_size=4, judge_width=1,
        judge_steps=2, num_train=20, num_test=16,
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        stage=_pair.Stage((128, 256), patch=2, num_steps=50_000),
        latent=_pair.Model((256, 256), 200_000, num_blocks=2),
        pixel=_pair.Model((256, 256, 256), 62_000, patch=2, num_blocks=2),
        sampling=_pair.Sampling(num_samples=10_000, num_steps=40), batch_size=256, judge_width=64,
        judge_steps=10_000,
    ),
}  # fmt: skip


def read(split: str, num: int) -> dict[str, np.ndarray]:
    """The first images: {"images": [num, 32, 32, 3] in [-1, 1], "labels": [num]}."""
    data = cifar10.arrays(split, num)
    images = data["image"].astype(np.float32) * np.float32(2 / 255) - 1
    return {"images": images, "labels": data["label"]}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """A judge, a first stage and a model of its latents, a model of pixels, and their samples."""
    train, test = read("train", config.num_train), read("test", config.num_test)
    judge = _images.judge(
        train, test, width=config.judge_width, num_steps=config.judge_steps, seed=config.run.seed,
        shift=2,
    )  # fmt: skip
    study = _pair.Study(train, test, judge, config.batch_size, config.sampling, config.run, out)
    latents, first, rows = study.in_latents(config.stage, config.latent)
    pixels, others = study.in_pixels(config.pixel)
    title = "Held-out images, the first stage's, and samples by class"
    out.figure("cifar10", _pair.picture({**study.held_out(), **rows, **others}, title))
    guided = claims.above(
        "latents: asked class named in guided samples", latents.guided_named, latents.named,
        UNGUIDED,
    )  # fmt: skip
    result = claims.Result({"judge_accuracy": judge.accuracy}, [guided])
    return result + _pair.judged(latents, pixels, first, study.floor())
