"""What do frozen features know of CIFAR-10's classes after minutes of contrastive training?

Claims: the linear probe of SimCLR's features is 10 points above that of the same encoder before
training, and above those of pixels and of their principal components, in mean over three seeds; the
features have not collapsed.
Cost: 10 minutes on 2 CPU cores, for 128,000 pairs of views and a small network that sees squares of
2 x 2 pixels as one; `accelerator` has a ResNet-18, 8 minutes on one GPU.
    python -m experiments self_supervised.cifar10
    python -m experiments self_supervised.cifar10 --preset accelerator --methods byol vicreg

Windows of 0.2 to 1 of the area, mirror, jitter, grey, no blur. Probes are solved to their optimum
on frozen features, as the fingerprint of the encoder's bytes shows. Images went through JPEG.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.self_supervised import _images, _pretrain
from library import claims, report, training
from library.statistics import intervals
from research.self_supervised import views

SHAPE = (32, 32, 3)
RANDOM = claims.baseline("the same encoder before training, same run")
PIXELS = claims.baseline("linear probes of pixels and of their principal components, same run")
HEALTHY = claims.bar("a method that works does not collapse")
PEERS = claims.bar("below solo-learn's 90.74 after 1,000 epochs (README, commit 9187ea3)")
PATIENCE = claims.bar("8 minutes; a third of 18.2 s an epoch (dkobak/simclr-cifar10, A100)")

CORES_AS_DEVICES = True  # convolutions of a batch: see `environment.cores_as_devices`


@dataclasses.dataclass(frozen=True)
class Config:
    """The methods, the network, its training, and the probes."""

    methods: tuple[str, ...] = ("simclr",)  # simclr, moco, moco_v3, byol, barlow, vicreg, dino, ...
    num_seeds: int = 3  # runs of each
    width: int = 32  # channels of the encoder's first stage
    num_blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks of each stage
    grid: int = 16  # squares of a side, of several pixels, that the encoder sees an image as
    hidden: int = 256  # width of projector and predictor
    dim: int = 64  # of projections
    queue_size: int = 1024  # of MoCo's keys
    temperature: float = 0.2  # of SimCLR's loss
    num_steps: int = 2000  # updates
    batch_size: int = 64  # images of each
    learning_rate: float = 2e-3  # peak of AdamW's
    scale: float = 0.2  # smallest window, share of the area
    dtype: str = "float32"  # of the training
    num_images: int = 50_000  # that it is trained on, the first ones
    num_probe: int = 10_000  # with labels, for the probes
    num_test: int = 2000  # that judge
    num_components: int = 256  # of the pixels
    least_gain: float = 10.0  # bar, points above the random encoder
    least_accuracy: float = 0.0  # bar of SimCLR's probe, %, with bars of its time; 0: none
    run: training.RunOptions = training.RunOptions(log_every=100)


PRESETS = {
    "smoke": Config(
        num_seeds=2, width=4, num_blocks=(1,), grid=8, hidden=8, num_steps=2, batch_size=8,
        num_images=40, num_probe=60, num_test=20, run=training.RunOptions(log_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        num_seeds=1, width=64, num_blocks=(2, 2, 2, 2), grid=32, hidden=2048, dim=128,
        queue_size=4096, num_steps=15_000, batch_size=512, dtype="bfloat16", num_probe=50_000,
        num_test=10_000, least_accuracy=85.0,
        run=training.RunOptions(log_every=100, checkpoint_every=5000),
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains every method and seed, and probes it beside the random encoder and the pixels."""
    _check(config)
    data = _images.cifar10(config.num_images, config.num_probe, config.num_test)
    seeds = range(config.run.seed, config.run.seed + config.num_seeds)
    found = {name: [_one(config, name, seed, data, out) for seed in seeds]
             for name in config.methods}  # fmt: skip
    others = _images.baselines(data, config.num_components)
    result = claims.Result({name: 100 * share for name, share in others.items()})
    for name, runs in found.items():
        each = {key: np.asarray([one[key] for one in runs]) for key in runs[0]}
        result += judged(config, name, each, 100 * max(others.values()))
    rows = {"random encoder": [one["random"] for runs in found.values() for one in runs]}
    rows |= {name: [one["linear"] for one in runs] for name, runs in found.items()}
    out.figure("cifar10", _images.probes_drawn(rows, others))
    return result


def _one(config: Config, name: str, seed: int, data: _images.Data, out: report.RunDir) -> dict:
    """Accuracies in % before and after a training."""
    sizes = _pretrain.Sizes(
        SHAPE, config.width, config.num_blocks, config.hidden, config.dim, config.queue_size,
        patch=SHAPE[0] // config.grid, temperature=config.temperature,
    )  # fmt: skip
    augment = views.small_images(SHAPE[0], (config.scale, 1.0))
    made = _images.pretraining(name, sizes, augment, config.num_steps, config.dtype)
    trained = _images.train(
        made, data.images, report.RunDir(out.path / f"{name}{seed}"), num_steps=config.num_steps,
        batch_size=config.batch_size, learning_rate=config.learning_rate, dtype=config.dtype,
        run=dataclasses.replace(config.run, seed=seed),
    )  # fmt: skip
    before, after = (_images.worth(each, data) for each in (_images.start(made, seed), trained))
    seen = _images.verdict(trained, data.test[0])
    print(f"{name}, seed {seed}: probes of the encoder {after.fingerprint}: {after.linear:.1%}")
    return {
        "linear": 100 * after.linear, "knn": 100 * after.knn,
        "random": 100 * before.linear, "random_knn": 100 * before.knn,
        "rank": seen.effective_rank, "collapsed": float(seen.collapsed != "none"),
        "minutes": trained.seconds / 60,
        "epoch_seconds": trained.seconds * len(data.images) / config.num_steps / config.batch_size,
    }  # fmt: skip


def judged(config: Config, name: str, each: dict[str, np.ndarray], best: float) -> claims.Result:
    """Claims on a method's runs [R], beside the best of pixels and components in %."""
    means = {key: float(values.mean()) for key, values in each.items()}
    gain = each["linear"] - each["random"]
    metrics = {f"{name}_{key}": value for key, value in means.items()}
    metrics[f"{name}_gain"] = float(gain.mean())
    if len(gain) > 1:
        ends = intervals.normal_mean(gain)
        metrics |= {f"{name}_gain_{end}": x for end, x in zip(("low", "high"), ends)}
    stated = [
        claims.at_least(f"{name}: points above random", gain.mean(), config.least_gain, RANDOM),
        claims.above(f"{name}: probe, %", means["linear"], best, PIXELS),
        claims.exactly(f"{name}: runs that collapsed", each["collapsed"].sum(), 0, HEALTHY),
    ]
    if config.least_accuracy and name == "simclr":
        stated += [
            claims.at_least(f"{name}: probe", means["linear"], config.least_accuracy, PEERS),
            claims.at_most(f"{name}: minutes", means["minutes"], 8.0, PATIENCE),
            claims.at_most(f"{name}: seconds an epoch", means["epoch_seconds"], 6.0, PATIENCE),
        ]  # fmt: skip
    return claims.Result(metrics, stated)


def _check(config: Config) -> None:
    """What the host can see before anything is read."""
    unknown = [name for name in config.methods if name not in _pretrain.NAMES]
    if unknown:
        raise ValueError(f"methods={config.methods}: expected some of {', '.join(_pretrain.NAMES)}")
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={config.dtype}: expected float32 or bfloat16")
