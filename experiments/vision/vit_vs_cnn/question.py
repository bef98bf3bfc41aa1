"""Without pre-training, from how many labels on is a vision transformer as good as a small ResNet?

Claims: on MNIST the ResNet reaches 99.2 % within 10 minutes and the ViT 97.5 %; with few labels the
ResNet leads, and augmentation narrows its lead. Cost: 35 minutes on 2 CPU cores.
    python -m experiments vision.vit_vs_cnn

Pairs of equal size, the same optimizer, schedule and batches; labelled subsets drawn anew by each
of five seeds. Augmentation is a random crop of the padded image. ResNet: He et al. 2016,
arXiv:1512.03385; ViT: Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

from __future__ import annotations

import dataclasses

from experiments.vision.vit_vs_cnn import ladders, picture, sets
from library import claims, report, training
from library.data.sets import digits, mnist

PEERS = claims.paper("two convolutions in the table of github.com/zalandoresearch/fashion-mnist")
PAIR = claims.bar("a fair pair: as many parameters, within a tenth")
PATIENCE = claims.bar("ten minutes on 2 CPU cores, what one waits for a first result")
WORKING = claims.bar("a working classifier, without a convolution's head start")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, how long, how often."""

    labels: tuple[int, ...] = (50, 100, 200, 500, 1497)  # labelled 8x8 digits, at most 1497
    mnist_labels: tuple[int, ...] = (1000,)  # labelled MNIST digits; empty: no MNIST
    small: bool = False  # networks of a few parameters, for a check that all runs
    num_seeds: int = 5  # repetitions for each number of labels, each with its own subset
    num_steps: int = 1000  # updates for each number of labels; so many that both fit theirs
    mnist_steps: int = 4000  # updates on all of MNIST, one seed; 0 leaves it out
    batch_size: int = 128  # images per update on all of MNIST; half of that elsewhere
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule
    run: training.RunOptions = training.RunOptions(checkpoint_every=200, keep_checkpoints=1)


PRESETS = {
    "smoke": Config(
        labels=(50,),
        mnist_labels=(),
        small=True,
        num_seeds=1,
        num_steps=2,
        mnist_steps=0,
        batch_size=16,
        run=training.RunOptions(log_every=2, checkpoint_every=2),
    ),
    "default": Config(),
    "accelerator": Config(
        mnist_labels=(100, 1000, 10_000, 60_000), mnist_steps=20_000, num_steps=2000
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Accuracies by number of labels and of all labels, the lead of the ResNet, pictures."""
    _check(config)
    use_mnist = bool(mnist.local_files()) and bool(config.mnist_labels or config.mnist_steps)
    counts = {sets.digits(config.small): config.labels}
    if use_mnist:
        counts[sets.mnist()] = config.mnist_labels
    result = claims.Result()
    for which, labels in counts.items():
        result += _sizes(which)
        if labels:
            result += _by_labels(config, which, labels, out)
    if use_mnist and config.mnist_steps:
        result += _all_labels(config, sets.mnist(), out)
    return result


def _sizes(which: sets.Set) -> claims.Result:
    """Parameters of both, which are about as many."""
    sizes = which.sizes
    ratio = sizes[f"{which.name}_ViT_parameters"] / sizes[f"{which.name}_CNN_parameters"]
    name = f"{which.name}: parameters, ViT / CNN"
    return claims.Result(sizes, [claims.within(name, ratio, 1.0, 0.1, PAIR)])


def _by_labels(
    config: Config, which: sets.Set, labels: tuple[int, ...], out: report.RunDir
) -> claims.Result:
    """A training of each kind for each number of labels."""
    ladder = ladders.climb(
        which,
        labels,
        out,
        num_seeds=config.num_seeds,
        num_steps=config.num_steps,
        batch_size=config.batch_size // 2,
        learning_rate=config.learning_rate,
        run=config.run,
    )
    figure = picture.labels(which.title, labels, ladder.accuracies)
    out.figure(f"labels_{which.name}", figure)
    out.figure(f"attention_{which.name}", picture.attention(which, ladder.last))
    return claims.Result(ladder.losses) + ladders.leads(which.name, labels, ladder.accuracies)


def _all_labels(config: Config, which: sets.Set, out: report.RunDir) -> claims.Result:
    """Both on the whole set: augmented, one seed."""
    scores, minutes = ladders.all_labels(
        which,
        out,
        num_steps=config.mnist_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        run=config.run,
    )
    metrics = {f"mnist_{name}": score for name, score in scores.items()}
    metrics |= {f"mnist_{name}_minutes": value for name, value in minutes.items()}
    stated = [
        claims.at_least("MNIST: CNN, test %", scores["CNN"], 99.2, PEERS),
        claims.at_most("MNIST: CNN, minutes", minutes["CNN"], 10.0, PATIENCE),
        claims.at_least("MNIST: ViT, test %", scores["ViT"], 97.5, WORKING),
    ]
    return claims.Result(metrics, stated)


def _check(config: Config) -> None:
    for name, counts, most in (
        ("labels", config.labels, digits.SPLITS["train"]),
        ("mnist_labels", config.mnist_labels, mnist.SPLITS["train"]),
    ):
        if counts and not 1 <= min(counts) <= max(counts) <= most:
            raise ValueError(f"{name}={counts}: expected numbers from 1 to {most}")
    if not config.labels or config.num_seeds < 1 or config.batch_size < 2:
        raise ValueError(
            f"labels={config.labels}, num_seeds={config.num_seeds}, batch_size="
            f"{config.batch_size}: expected some labels, at least 1 seed and batches of 2"
        )
