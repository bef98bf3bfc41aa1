"""Does a class-conditional score-based model of colour images beat a Gaussian of the same data?

Claim: samples are closer to held-out images than those of a Gaussian of full covariance, in the
features of a classifier trained here. Cost: 20 minutes on 2 CPU cores, for a model that has seen
the data two and a half times; `accelerator` is the study's own size, hours on one GPU.
    python -m experiments score_sde.cifar10

The images went through JPEG and the classifier is a small one of ours, so neither the data nor the
number, called feature-FID, is that of any published FID, and none is claimed. Model and training
are those of score_sde.mnist.
"""

from __future__ import annotations

import dataclasses

from experiments.score_sde import _pixels
from library import claims, report, training
from library.data.sets import cifar10


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, for how long, and how it is judged."""

    num_steps: int = 2000  # updates
    batch_size: int = 64  # images per update
    learning_rate: float = 1e-3  # peak of the warm-up and cosine schedule
    channels: tuple[int, ...] = (32, 64)  # of the U-Net, by resolution; the finest is 16x16
    dropout: float = 0.0  # rate inside residual blocks
    ema_decay: float = 0.999  # of the averaged parameters that are judged
    label_dropout: float = 0.1  # rate at which training hides the class
    num_samples: int = 1000  # samples of the model, and as many guided ones; hundreds
    sampler_steps: int = 20  # evaluations of the network per sample
    guidance_scale: float = 2.0  # of the guided samples; 1 is the conditional model itself
    judge_steps: int = 1500  # updates of the classifier
    num_train: int = 50_000  # training images that are used, the first ones
    num_test: int = 10_000  # held-out images that samples are compared with, the first ones
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": Config(
        num_steps=2,
        batch_size=4,
        channels=(8,),
        num_samples=100,
        sampler_steps=2,
        judge_steps=2,
        num_train=200,
        num_test=200,
        run=training.RunOptions(log_every=1, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        num_steps=200_000,
        batch_size=256,
        learning_rate=2e-4,
        channels=(256, 256, 256),
        dropout=0.1,
        ema_decay=0.9999,
        num_samples=10_000,
        sampler_steps=35,
        judge_steps=8000,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, samples, draws the pictures and states the claim."""
    study = _pixels.Study(
        cifar10.arrays("train", config.num_train), cifar10.arrays("test", config.num_test)
    )
    model = _pixels.network(3, config.channels, attention_sizes=(8,), dropout=config.dropout)
    params = _pixels.train(
        model,
        study.train,
        out,
        label_dropout=config.label_dropout,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        ema_decay=config.ema_decay,
        run=config.run,
    )
    return _pixels.judge(
        study,
        model,
        params,
        out,
        num_samples=config.num_samples,
        sampler_steps=config.sampler_steps,
        scale=config.guidance_scale,
        judge_steps=config.judge_steps,
        seed=config.run.seed,
    )
