"""Which share of an image should a masked autoencoder not see?

Claims: hidden patches of held-out digits are predicted better than by the mean patch, whatever is
hidden; the best share, fine-tuned on ten labels a class, beats the same network from scratch, the
95 % interval over draws of labels above 0; a probe gains from three quarters hidden over one (He et
al. 2022, arXiv:2111.06377, figure 5). Cost: 7 minutes on 2 CPU cores.
    python -m experiments self_supervised.mae

MNIST in patches of 7 x 7 pixels. A probe says little of a masked autoencoder, so linear, nearest
neighbours and fine-tuned stand together, beside a random encoder. Which share is best is chosen on
training images that no label was taken from. With --normalise targets are normalised by their own
patch; then pictures have its mean and deviation put back, which leaks.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.self_supervised import _mae
from library import claims, plots, report
from library.data.sets import mnist
from library.statistics import paired
from research.self_supervised import mae

MEAN = claims.baseline("the mean patch of the training images at that place")
SCRATCH = claims.baseline("the same network and labels, from scratch")
PAPER = claims.paper("He et al. 2022, arXiv:2111.06377, figure 5, linear probing")
FEW, MANY = 0.25, 0.75  # shares hidden that the paper's figure tells apart
LEAK = "True patches' means and deviations are put back: they leak"


@dataclasses.dataclass(frozen=True)
class Config:
    """The shares, the network, its training, and the labels."""

    ratios: tuple[float, ...] = (FEW, 0.5, MANY, 0.9)  # shares of hidden patches; both claimed ones
    normalise: bool = False  # targets by their own patch's mean and deviation
    patch: int = 7  # pixels of a patch's side
    width: int = 64  # of the encoder
    depth: int = 3  # its blocks
    decoder_width: int = 32  # of the decoder's one block
    num_train: int = 20_000  # images without labels, the first of the file
    num_labelled: int = 5000  # of these, for the probes
    num_test: int = 2000  # images
    num_steps: int = 1500  # updates of pre-training
    batch_size: int = 128  # images of each
    learning_rate: float = 3e-3  # peak of AdamW's
    num_seeds: int = 3  # draws of labels for fine-tuning
    per_class: int = 10  # labels of each class
    tune_steps: int = 200  # updates of fine-tuning
    tune_rate: float = 3e-3  # peak of AdamW's
    seed: int = 0  # the first


PRESETS = {
    "smoke": Config(
        ratios=(FEW, MANY), width=16, depth=1, decoder_width=8, num_train=64,
        num_labelled=64, num_test=20, num_steps=2, batch_size=8, num_seeds=2, per_class=1,
        tune_steps=10,
    ),
    "default": Config(),
    "accelerator": Config(
        width=256, depth=8, decoder_width=128, num_train=60_000, num_labelled=60_000,
        num_test=10_000, num_steps=40_000, batch_size=512, learning_rate=1e-3, num_seeds=10,
        tune_steps=500,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Pre-trains with every share hidden, and asks what the encoder is worth, beside none."""
    if not {FEW, MANY} <= set(config.ratios):
        raise ValueError(f"ratios={config.ratios}: expected {FEW} and {MANY} among them")
    train, test = _read("train", config.num_train), _read("test", config.num_test)
    judge = _mae.Judge(
        _mae.part(network(config, MANY)), tuple(each[: config.num_labelled] for each in train),
        test, range(config.seed, config.seed + config.num_seeds), config.per_class,
        config.tune_steps, config.tune_rate,
    )  # fmt: skip
    start, found, rebuilt = _mae.fresh(network(config, MANY), config.seed), {}, {}
    for ratio in (None, *config.ratios):
        model = network(config, ratio or MANY)
        variables = start
        if ratio:
            variables = _mae.pretrained(
                model, start, train[0], config.num_steps, config.batch_size, config.learning_rate,
                config.seed,
            )  # fmt: skip
            rebuilt[ratio] = _mae.rebuilt(model, variables, train[0], test[0], config.seed)
        found[ratio] = judge(_mae.of(variables))
    out.figure("mae", _draw(config, test[0], rebuilt))
    best = max(config.ratios, key=lambda ratio: found[ratio]["rest"].mean())
    gains = 100 * (found[best]["tuned"] - found[None]["tuned"])
    linear = {ratio: 100 * each["linear"] for ratio, each in found.items()}
    worst = max(each.error / each.mean_error for each in rebuilt.values())
    metrics = {"best": best}
    for ratio, each in found.items():
        metrics |= {f"{name}_{ratio or 'none'}": np.mean(held) for name, held in each.items()}
    for ratio, each in rebuilt.items():
        metrics |= {f"error_{ratio}": each.error, f"mean_error_{ratio}": each.mean_error}
    stated = [
        claims.below("error of hidden patches / the mean patch's, largest", worst, 1.0, MEAN),
        claims.above("best share: points above scratch", gains.mean(), 0.0, SCRATCH),
        claims.at_most(
            "best share: chance of such a gain without an effect",
            paired.t_test(gains, 0 * gains, "greater").p_value, 0.025, SCRATCH,
        ),
        claims.above(f"linear probe at {MANY}, against {FEW}, %", linear[MANY], linear[FEW], PAPER),
    ]  # fmt: skip
    return claims.Result(metrics, stated)


def _read(split: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    held = mnist.arrays(split)
    return held["image"][:most] / np.float32(255), held["label"][:most]


def network(config: Config, ratio: float) -> mae.MAE:
    """The masked autoencoder with a share hidden."""
    wide, narrow = config.width, config.decoder_width
    return mae.MAE(
        (28, 28), 1, config.patch, wide, config.depth, max(1, wide // 16), 2 * wide,
        narrow, 1, max(1, narrow // 16), 2 * narrow, ratio, config.normalise,
    )  # fmt: skip


def _draw(config: Config, test, rebuilt):
    rows, names = [test[:8]], ["image"]
    for ratio, each in rebuilt.items():
        rows += [each.masked[:8], each.pictures[:8]]
        names += [f"{100 * ratio:.0f} % hidden", "rebuilt"]
    title = LEAK if config.normalise else "Held-out digits; visible patches are their own"
    return plots.image_grid(np.concatenate(rows), len(rows), 8, title=title, row_labels=names)
