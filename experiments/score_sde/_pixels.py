"""Models of bytes, and their samples beside data in the features of a classifier.

A model works on cells: byte k is the interval [k, k + 1]/128 - 1 of [-1, 1], filled evenly by
noise. Samples are rounded down to bytes before anything looks at them, as in a picture file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from experiments.score_sde import _images, _judges, _options, _pictures
from library import claims, report, training
from library.types import Array, Batch, Params
from research.diffusion import embeddings, losses, processes, unet, weightings
from research.sample_quality import frechet

NUM_VALUES, LOW, HIGH = 256, -1.0, 1.0
WIDTH = (HIGH - LOW) / NUM_VALUES
KIND = "v"  # what the networks predict; of pure noise it asks for the mean image, not for itself


@dataclasses.dataclass(frozen=True)
class Study:
    """The data of a study, {"image": [N, H, W, C] uint8, "label": [N]}, and its bars.

    Attributes:
        train, test: what everything is fitted on, and what it is compared with.
        judge_accuracy: least accuracy of the classifier on `test`; None for no claim.
        guided_accuracy: least share of guided samples whose class it names; None for no claim.
    """

    train: Batch
    test: Batch
    judge_accuracy: float | None = None
    guided_accuracy: float | None = None

    @functools.cached_property
    def gaussian(self) -> Gaussian:
        """The baseline, fitted on the training images."""
        return Gaussian(self.train["image"])


def network(
    image_channels: int, attention_sizes: tuple[int, ...], options: _options.Model
) -> unet.UNet:
    """A U-Net on patches of 2x2 pixels that sees the log SNR and the fine details of its input."""
    ends = np.asarray(_images.PROCESS.log_snr(np.array([_images.PROCESS.t_min, 1.0], np.float32)))

    def unit_log_snr(t: Array) -> Array:  # 1 at t_min, 0 at t = 1
        return (_images.PROCESS.log_snr(t) - ends[1]) / (ends[0] - ends[1])

    return unet.UNet(
        out_channels=image_channels,
        num_classes=_images.NUM_CLASSES,
        channels=options.channels,
        attention_sizes=attention_sizes,
        features=embeddings.Sinusoidal(options.channels[0], of=unit_log_snr),
        dropout=options.dropout,
        patch=2,
        details=embeddings.FineDetails((6, 7, 8), _images.PROCESS.sigma),
    )


def train(
    model: unet.UNet,
    data: Batch,
    out: report.RunDir,
    *,
    num_steps: int,
    fit: _options.Fit,
    run: training.RunOptions,
) -> Params:
    """Averaged parameters after training on dequantised bytes; see `weighting` for the loss.

    Args:
        model: the network.
        data: {"image": [N, H, W, C] uint8, "label": [N]}.
        out: the run's folder.
        num_steps, fit, run: see `_images.train`.
    """
    apply = losses.drop_labels(model.apply, null_label=_images.NUM_CLASSES, rate=fit.label_dropout)
    loss_fn = losses.denoising_score_matching(
        _images.PROCESS,
        apply,
        kind=KIND,
        weighting=weighting,
        times=weightings.uniform_log_snr,
        stratified=True,
    )
    cells = {**data, "image": to_cells(data["image"])}
    dequantised = losses.dequantised(loss_fn, WIDTH)
    return _images.train(model, dequantised, cells, out, num_steps=num_steps, fit=fit, run=run)


def weighting(process: processes.Process, t: Array) -> Array:
    """The squared error of v, the same for every unit of log SNR.

    Where there is little noise this is the likelihood weighting (arXiv:2101.09258), and bounds the
    bits of the data; where there is much it goes on counting the error of the implied data.
    """
    return weightings.likelihood(process, t) * weightings.uniform("v")(process, t)


def judged(
    study: Study,
    model: unet.UNet,
    params: Params,
    out: report.RunDir,
    *,
    sampling: _options.Sampling,
    judge: _options.Judge,
    seed: int,
) -> claims.Result:
    """Draws and judges samples of the model, guided and not.

    Args:
        study: data and bars.
        model, params: the network.
        out: the run's folder, for the pictures.
        sampling: how many samples of each kind, in how many steps, guided how much.
        judge: training of the classifier, whose features serve as well.
        seed: of samples and classifier.
    """
    shape, labels = study.train["image"].shape[1:], _images.classes_in_turn(sampling.num_samples)
    rng = jax.random.fold_in(jax.random.key(seed), 1)
    sizes = {"num_steps": sampling.num_steps, "batch_size": 100}
    plain, guided = (
        _images.make_sampler(model, KIND, shape, **sizes, scale=each)(params, rng, labels)
        for each in (1.0, sampling.scale)
    )
    _pictures.draw_classes(out, guided, sampling.scale)
    _pictures.draw_beside(out, plain, to_centres(study.test["image"][:100]))
    classify, features = _judges.train_conv_net(
        centred(study.train), num_steps=judge.num_steps, batch_size=judge.batch_size, seed=seed
    )
    gaussian = study.gaussian.draw(sampling.num_samples)
    samples = {"model": plain, "guided": guided, "gaussian": gaussian}
    found = feature_distances(features, samples, study.train["image"], study.test["image"])
    found["unguided_accuracy"] = _judges.accuracy(classify, to_centres(to_bytes(plain)), labels)
    verdicts = _judges.verdicts(
        classify,
        centred(study.test),
        to_centres(to_bytes(guided)),
        labels,
        (study.judge_accuracy, study.guided_accuracy),
    )
    closer = claims.below(
        "feature-FID of samples (not FID: features of a classifier trained here)",
        found["feature_fid_model"],
        found["feature_fid_gaussian"],
        source=claims.baseline("as many samples of a Gaussian of full covariance, same features"),
    )
    return claims.Result(found, [closer]) + verdicts


def to_cells(images: np.ndarray) -> np.ndarray:
    """The lower ends of the cells of uint8 images, float32 in [-1, 1)."""
    return images.astype(np.float32) * np.float32(WIDTH) + np.float32(LOW)


def to_bytes(samples: np.ndarray) -> np.ndarray:
    """The uint8 bytes of the cells that samples lie in; the outermost take what is beyond."""
    return np.clip(np.floor((samples - LOW) / WIDTH), 0, NUM_VALUES - 1).astype(np.uint8)


def to_centres(images: np.ndarray) -> np.ndarray:
    """The middles of the cells of uint8 images, what classifiers and pictures are given."""
    return to_cells(images) + np.float32(WIDTH / 2)


def centred(data: Batch) -> Batch:
    """The data set with `to_centres` of its images."""
    return {**data, "image": to_centres(data["image"])}


class Gaussian:
    """The Gaussian of mean and covariance of uint8 images with even noise in their cells."""

    def __init__(self, images: np.ndarray):
        self.shape = images.shape[1:]
        flat = to_centres(images).reshape(len(images), -1)
        self.mean = flat.mean(0, dtype=np.float64)  # [D]
        self.centred = flat - self.mean.astype(np.float32)  # [N, D]

    def draw(self, num: int, seed: int = 0) -> np.ndarray:
        """[num, H, W, C] samples: normal combinations of the training images, and noise."""
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((num, len(self.centred)), np.float32)
        flat = weights @ self.centred / np.float32(len(self.centred) ** 0.5) + self.mean
        return (flat + _NOISE_STD * rng.standard_normal(flat.shape)).reshape(num, *self.shape)


_NOISE_STD = WIDTH / 12**0.5  # of even noise in a cell


def histogram_log_prob(train: np.ndarray, images: np.ndarray) -> np.ndarray:
    """[M] nats, log mass of uint8 images [M, ...] if every pixel had its own law, independently.

    The laws are the histograms of the training images [N, ...], one added to every count.
    """
    train, images = train.reshape(len(train), -1), images.reshape(len(images), -1)
    counts = np.ones((NUM_VALUES, train.shape[1]))
    pixels = np.arange(train.shape[1])
    np.add.at(counts, (train, pixels), 1)
    log_mass = np.log(counts / counts.sum(0))
    return log_mass[images, pixels].sum(1)


def feature_distances(
    features: Callable[[np.ndarray], np.ndarray],
    samples: Mapping[str, np.ndarray],
    train: np.ndarray,
    held_out: np.ndarray,
) -> dict[str, float]:
    """Frechet distance to held-out data in the features of a classifier trained here: feature-FID.

    No Inception network is involved, so the numbers compare with each other and with nothing
    published. Each is biased upwards by the number of samples, so all have the same, and as many
    training images give the floor.

    Args:
        features: images [N, H, W, C] in [-1, 1] -> [N, F].
        samples: [N, H, W, C] float by name, equal N.
        train, held_out: uint8 images.
    """
    target = features(to_centres(held_out))
    (num,) = {len(points) for points in samples.values()}
    rows = np.random.default_rng(0).permutation(len(train))[:num]
    images = {name: to_bytes(points) for name, points in samples.items()}
    images["fresh_floor"] = train[rows]
    return {
        f"feature_fid_{name}": frechet.distance(features(to_centres(points)), target)
        for name, points in images.items()
    }
