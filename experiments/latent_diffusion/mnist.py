"""Does diffusion in latents draw better digits than diffusion in pixels of equal training time?

Claims: a classifier that is right on 99 % of held-out digits names the asked class of 95 % of
guided samples of the latent model; the feature distance of its samples to held-out digits, guided
and not, is no more than that of a pixel model trained by as many floating-point operations as first
stage and latent model together.
Cost: 10 minutes on 2 CPU cores.
    python -m experiments latent_diffusion.mnist

MNIST at 16 x 16 (means of 2 x 2 pixels), in latents of 4 x 4 cells. Both models are U-Nets that are
given the class, with one loss, schedule of rates, process and sampler. Distances are Frechet
distances in the features of the classifier, which is trained here; they are not FID.
"""

from __future__ import annotations

import dataclasses

from experiments.latent_diffusion import _images, _pair
from library import claims, report, training

WITNESS = claims.bar("a judge that errs more often is no witness")
NAMED = claims.bar("at least 95 %, set before the first run; chance is 10 %")


@dataclasses.dataclass(frozen=True)
class Config:
    """The first stage, both models, and what judges them."""

    stage: _pair.Stage = _pair.Stage()  # the autoencoder
    latent: _pair.Model = _pair.Model((64,), 3000)  # in its latents
    pixel: _pair.Model = _pair.Model((32, 64), 2450, patch=2)  # in pixels
    sampling: _pair.Sampling = _pair.Sampling()  # of both
    batch_size: int = 64  # digits per update
    judge_width: int = 32  # channels of the classifier
    judge_steps: int = 2500  # its updates
    num_train: int = 60_000  # training digits, the first ones
    num_test: int = 10_000  # held-out digits
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        stage=_pair.Stage(channels=(2,), num_blocks=0, latent_dim=1, num_steps=2),
        latent=_pair.Model((4,), 2, num_blocks=0),
        pixel=_pair.Model((4,), 2, patch=2, num_blocks=0),
        sampling=_pair.Sampling(num_samples=20, num_steps=2), batch_size=4, judge_width=1,
        judge_steps=2, num_train=20, num_test=16,
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        stage=_pair.Stage(channels=(128,), num_steps=30_000),
        latent=_pair.Model((256,), 100_000, num_blocks=2),
        pixel=_pair.Model((64, 128), 210_000, patch=2, num_blocks=2),
        sampling=_pair.Sampling(num_samples=10_000, num_steps=40), batch_size=256,
        judge_steps=10_000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """A judge, a first stage and a model of its latents, a model of pixels, and their samples."""
    train, test = _images.read("train", config.num_train), _images.read("test", config.num_test)
    judge = _images.judge(
        train, test, width=config.judge_width, num_steps=config.judge_steps, seed=config.run.seed,
        shift=1,
    )  # fmt: skip
    study = _pair.Study(train, test, judge, config.batch_size, config.sampling, config.run, out)
    latents, first, rows = study.in_latents(config.stage, config.latent)
    pixels, others = study.in_pixels(config.pixel)
    title = "Held-out digits, the first stage's, and samples by class"
    out.figure("mnist", _pair.picture({**study.held_out(), **rows, **others}, title))
    stated = [
        claims.at_least("judge's accuracy on held-out digits", judge.accuracy, 0.99, WITNESS),
        claims.at_least("latents: asked class named in guided samples", latents.guided_named,
                        0.95, NAMED),
    ]  # fmt: skip
    return claims.Result({}, stated) + _pair.judged(latents, pixels, first, study.floor())
