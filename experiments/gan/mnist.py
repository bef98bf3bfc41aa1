"""Do small adversarial networks draw digits better than a mixture of Gaussians and a small VAE?

Claims: samples are nearer to held-out digits than those of a mixture of ten Gaussians on principal
components and than those of a small VAE, by the Frechet distance in the features of a classifier;
each class has 5 to 15 % of the samples, and at least half of the held-out digits lie among samples.
Cost: 5 minutes on 2 CPU cores.
    python -m experiments gan.mnist --networks dcgan r3gan stylegan2 biggan

MNIST with a margin of two pixels, 32x32, of which `--size 16` takes means of 2 x 2 pixels. R3GAN
(arXiv:2501.05441) and BigGAN (arXiv:1809.11096) are given the class, and as many samples of each
are judged; DCGAN (arXiv:1511.06434), StyleGAN2 (arXiv:1912.04958) and R3GAN with `--no-labels` are
not. All end in tanh: four pixels in five are -1, which no image without a bound quite reaches.
"feature-FID" is taken in the features of a classifier trained here, which also names the classes;
it compares with no published FID. The VAE's samples are means of its decoder.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.gan import _images, _judge, _networks
from library import claims, report, training
from library.data.sets import mnist

BASELINES = {
    "mixture": claims.baseline("ten Gaussians of full covariance on principal components"),
    "VAE": claims.baseline("a convolutional VAE trained here, means of its decoder"),
}
BALANCE = claims.bar("half to one and a half times a tenth: no class is lost")
RECALL = claims.bar("half of the held-out digits lie in the samples' manifold")

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The networks, their training, and what judges them."""

    networks: tuple[str, ...] = ("dcgan",)  # of dcgan, r3gan, stylegan2 and biggan
    labels: bool = True  # whether R3GAN is given the class, as BigGAN is; others never are
    size: int = 16  # pixels of a side: 32, or 16 or 8 by means
    width: int = 16  # channels at the finest resolution
    num_steps: int = 4000  # rounds of each game
    batch_size: int = 64  # images per round
    learning_rate: float = 1e-3  # of the generator; falls to a tenth by half a cosine
    gamma: float = 0.2  # weight of R1, and of R2 in R3GAN
    ema_decay: float = 0.998  # of the average that samples come from
    num_samples: int = 5000  # that are judged, and as many held-out digits, the last ones
    num_dims: int = 50  # principal components of the mixture
    vae_steps: int = 3000  # updates of the VAE
    judge_steps: int = 2000  # updates of the classifier
    num_train: int = 60_000  # training images, the first ones
    run: training.RunOptions = training.RunOptions(log_every=100, checkpoint_every=1000)


PRESETS = {
    "smoke": Config(
        size=8, width=1, num_steps=2, batch_size=8, num_samples=60, num_dims=4, vae_steps=2,
        judge_steps=2, num_train=200, run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        networks=("dcgan", "r3gan", "stylegan2", "biggan"), size=32, width=64, num_steps=50_000,
        batch_size=256, learning_rate=2e-4, ema_decay=0.999, num_samples=10_000, vae_steps=20_000,
        judge_steps=5000,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains each network, judges its samples beside the baselines', and draws them."""
    seed = config.run.seed
    games = {name: players(name, config) for name in config.networks}
    train = read("train", config.size, slice(config.num_train))
    test = read("test", config.size, slice(-config.num_samples, None))
    samples, rows = {}, {"held out": _images.one_of_each(test)}
    for name, each in games.items():
        folder = report.RunDir(out.path / name) if len(games) > 1 else out
        variables = _images.play(
            each, train, folder, num_steps=config.num_steps, batch_size=config.batch_size,
            learning_rate=config.learning_rate, ema_decay=config.ema_decay, run=config.run,
        )  # fmt: skip
        samples[name], shown = _images.draw(name, each, variables, config.num_samples, seed, 10)
        rows |= shown
    judge = _judge.train(train, num_steps=config.judge_steps, seed=seed)
    others = _baselines(config, train["images"])
    rows |= others
    out.figure("mnist", _images.picture(rows, "Held-out digits, samples, and those of baselines"))
    found = _images.feature_fids(judge.features, test["images"], samples | others)
    right = judge.labels(test["images"]) == test["labels"]
    metrics = {f"feature_fid_{name}": value for name, value in found.items()}
    result = claims.Result({"judge_accuracy": float(right.mean()), **metrics})
    verdicts = (judged(name, found, judge, test["images"], samples[name]) for name in games)
    return sum(verdicts, result)


def players(name: str, config: Config) -> _networks.Players:
    """The game of a network, by its name."""
    shape, width, gamma = (config.size, config.size, 1), config.width, config.gamma
    if name == "dcgan":
        return _networks.convolutional(shape, width=2 * width, gamma=gamma)
    if name == "r3gan":
        widths, num = _networks.pyramid(config.size, width), 10 if config.labels else None
        return _networks.residual(shape, widths=widths, gamma=gamma, num_classes=num, end=jnp.tanh)
    if name == "stylegan2":
        return _networks.styled(shape, width=width, gamma=gamma, end=jnp.tanh)
    if name == "biggan":
        return _networks.conditional(shape, width=4 * width, num_classes=10)
    raise ValueError(f"networks={name}: expected some of dcgan, r3gan, stylegan2, biggan")


def read(split: str, size: int, rows: slice) -> dict[str, np.ndarray]:
    """Digits {"images": [N, size, size, 1] in [-1, 1], "labels": [N]}, those rows of a split."""
    data = mnist.arrays(split)
    images = np.pad(data["image"][rows], [(0, 0), (2, 2), (2, 2), (0, 0)])
    return {"images": _images.to_range(_images.shrunk(images, size)), "labels": data["label"][rows]}


def judged(
    name: str, found: dict[str, float], judge: _judge.Judge, held_out: np.ndarray, samples
) -> claims.Result:
    """Claims of one network, from all Frechet distances and its samples."""
    shares = _images.shares(judge.labels(samples))
    precision, recall = _images.precision_recall(judge.features, held_out, samples)
    stated = [
        claims.below(f"{name}: feature-FID, below the {other}'s", found[name], found[other], source)
        for other, source in BASELINES.items()
    ]
    stated += [
        claims.at_least(f"{name}: share of the rarest class", shares.min(), 0.05, BALANCE),
        claims.at_most(f"{name}: share of the commonest class", shares.max(), 0.15, BALANCE),
        claims.at_least(f"{name}: recall in features", recall, 0.5, RECALL),
    ]
    return claims.Result({f"precision_{name}": precision}, stated)


def _baselines(config: Config, images: np.ndarray) -> dict[str, np.ndarray]:
    num, seed = config.num_samples, config.run.seed
    return {
        "mixture": _images.gaussian_mixture(
            images[:20_000], num, num_components=10, num_dims=config.num_dims, seed=seed
        ),
        "VAE": _images.autoencoder(
            images, num, num_steps=config.vae_steps, batch_size=min(64, len(images)),
            latent_dim=16, seed=seed,
        ),
    }  # fmt: skip
