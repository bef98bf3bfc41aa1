"""Does R3GAN draw colour images nearer to held-out ones than a mixture of Gaussians does?

Claims: the Frechet distance of its samples to held-out images, in the features of a classifier
trained here, is below that of a mixture of ten Gaussians on principal components; a recall above
the mixture's in the same features.
Cost: 6 minutes on 2 CPU cores, for a small network on 16x16 pixels that has seen the data twice;
`accelerator` has the paper's network and values on 32x32, days on one GPU.
    python -m experiments gan.cifar10

Huang et al. 2024, arXiv:2501.05441: relativistic pairing with R1 and R2, residual networks without
normalisation, given the class. Rates fall to a quarter as in the paper; its gamma and betas, which
move in training there, stand still. Images went through JPEG and the classifier is ours, so
"feature-FID" is not the paper's FID of 1.96, which is not claimed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.gan import _images, _judge, _networks
from library import claims, report, training
from library.data.sets import cifar10

MIXTURE = claims.baseline("ten Gaussians of full covariance on principal components, same run")

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The networks, their training, and what judges them."""

    widths: tuple[int, ...] = (64, 32, 16)  # of stages, 4x4 first: three for 16 pixels, four for 32
    groups: int = 1  # of every 3x3 convolution
    num_blocks: int = 1  # of every stage
    num_steps: int = 3000  # rounds
    batch_size: int = 32  # images per round
    learning_rate: float = 1e-3  # of both; falls to a quarter by half a cosine
    gamma: float = 0.2  # weight of R1 and of R2
    ema_decay: float = 0.998  # of the average that samples come from
    num_samples: int = 5000  # that are judged, and as many held-out images
    num_dims: int = 100  # principal components of the mixture
    judge_steps: int = 1000  # updates of the classifier
    num_train: int = 50_000  # training images, the first ones
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=500)


PRESETS = {
    "smoke": Config(
        widths=(4, 4), num_steps=2, batch_size=8, num_samples=60, num_dims=4, judge_steps=2,
        num_train=200, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        widths=(768, 768, 768, 768), groups=96, num_blocks=2, num_steps=200_000, batch_size=512,
        learning_rate=2e-4, gamma=0.05, ema_decay=0.9999, num_samples=10_000, judge_steps=8000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains, judges samples beside a mixture's, and draws them, a column for each class."""
    shape = (4 * 2 ** (len(config.widths) - 1),) * 2 + (3,)
    game = _networks.residual(
        shape, widths=config.widths, groups=config.groups, num_blocks=config.num_blocks,
        gamma=config.gamma, num_classes=10,
    )  # fmt: skip
    train = read("train", shape[0], config.num_train)
    test = read("test", shape[0], config.num_samples)
    variables = _images.play(
        game, train, out, num_steps=config.num_steps, batch_size=config.batch_size,
        learning_rate=config.learning_rate, ema_decay=config.ema_decay, run=config.run, end=0.25,
    )  # fmt: skip
    num, seed = config.num_samples, config.run.seed
    ours, shown = _images.draw("r3gan", game, variables, num, seed, 10)
    mixture = _images.gaussian_mixture(
        train["images"], num, num_components=10, num_dims=config.num_dims, seed=seed
    )
    rows = {"held out": _images.one_of_each(test), "mixture": mixture, **shown}
    out.figure("cifar10", _images.picture(rows, "Held-out images, the mixture's, and R3GAN's"))
    judge = _judge.train(train, num_steps=config.judge_steps, seed=seed)
    right = judge.labels(test["images"]) == test["labels"]
    result = claims.Result({"judge_accuracy": float(right.mean())})
    return result + judged(judge, test["images"], {"r3gan": ours, "mixture": mixture})


def read(split: str, size: int, num: int) -> dict[str, np.ndarray]:
    """The first images {"images": [num, size, size, 3] in [-1, 1], "labels": [num]}."""
    data = cifar10.arrays(split, num)
    images = _images.to_range(_images.shrunk(data["image"], size))
    return {"images": images, "labels": data["label"]}


def judged(
    judge: _judge.Judge, held_out: np.ndarray, samples: dict[str, np.ndarray]
) -> claims.Result:
    """Claims of both kinds of samples, in the judge's features."""
    found = _images.feature_fids(judge.features, held_out, samples)
    shares = {
        name: _images.precision_recall(judge.features, held_out, images)
        for name, images in samples.items()
    }
    metrics = {f"precision_{name}": precision for name, (precision, _) in shares.items()}
    recall = {name: each for name, (_, each) in shares.items()}
    stated = [
        claims.below("feature-FID of samples", found["r3gan"], found["mixture"], MIXTURE),
        claims.above("recall in features", recall["r3gan"], recall["mixture"], MIXTURE),
    ]
    return claims.Result(metrics, stated)
