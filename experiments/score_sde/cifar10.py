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

from experiments.score_sde import _options, _pixels
from library import claims, report, training
from library.data.sets import cifar10

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, for how long, and how it is judged."""

    num_steps: int = 2000  # updates
    model: _options.Model = _options.Model()  # what is trained; the finest is 16x16
    fit: _options.Fit = _options.Fit(learning_rate=1e-3)  # how
    sampling: _options.Sampling = _options.Sampling()  # what is drawn from it
    judge: _options.Judge = _options.Judge(num_steps=1500)  # what judges it
    num_train: int = 50_000  # training images that are used, the first ones
    num_test: int = 10_000  # held-out images that samples are compared with, the first ones
    run: training.RunOptions = training.RunOptions()


PRESETS = {
    "smoke": _options.smoke(Config(judge=_options.Judge(num_steps=2), num_train=200, num_test=200)),
    "default": Config(),
    "accelerator": Config(
        num_steps=200_000,
        model=_options.Model(channels=(256, 256, 256), dropout=0.1),
        fit=_options.Fit(batch_size=256, learning_rate=2e-4, ema_decay=0.9999),
        sampling=_options.Sampling(num_samples=10_000, num_steps=35),
        judge=_options.Judge(num_steps=8000),
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, samples, draws the pictures and states the claim."""
    train, test = (
        cifar10.arrays(split, num)
        for split, num in (("train", config.num_train), ("test", config.num_test))
    )
    model = _pixels.network(3, attention_sizes=(8,), options=config.model)
    params = _pixels.train(
        model, train, out, num_steps=config.num_steps, fit=config.fit, run=config.run
    )
    study = _pixels.Study(train, test)
    return _pixels.judged(
        study,
        model,
        params,
        out,
        sampling=config.sampling,
        judge=config.judge,
        seed=config.run.seed,
    )
