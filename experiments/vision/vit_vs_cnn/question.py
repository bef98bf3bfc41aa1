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

import numpy as np

from experiments.vision.vit_vs_cnn import classifiers as classifiers
from experiments.vision.vit_vs_cnn import figures as figures
from experiments.vision.vit_vs_cnn import sets as sets
from library import claims, metrics, report, training
from library.data.sets import digits, mnist
from library.types import TrainState

PEERS = claims.paper("two convolutions in the table of zalandoresearch/fashion-mnist")
LEAD = claims.paper(
    "the ViT of equal size, same run; expected by Dosovitskiy et al. 2021, section 4.3"
)


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
    ladders = {sets.digits(config.small): config.labels}
    if use_mnist:
        ladders[sets.mnist()] = config.mnist_labels
    values, stated = {}, []
    for which, counts in ladders.items():
        values |= (sizes := which.sizes)
        ratio = sizes[f"{which.name}_ViT_parameters"] / sizes[f"{which.name}_CNN_parameters"]
        name = f"{which.name}: parameters, ViT / CNN"
        stated.append(claims.within(name, ratio, 1.0, 0.1, source=claims.baseline("a fair pair")))
        if counts:
            results, losses, state = _ladder(config, which, counts, out)
            values |= losses | _summary(which.name, counts, results)
            stated += _leads(which.name, results)
            out.figure(f"labels_{which.name}", figures.labels(which.title, counts, results))
            out.figure(f"attention_{which.name}", figures.attention(which, state))
    if use_mnist and config.mnist_steps:
        scores, minutes = _all_labels(config, sets.mnist(), out)
        values |= {f"mnist_{name}": score for name, score in scores.items()}
        values |= {f"mnist_{name}_minutes": value for name, value in minutes.items()}
        source = "issue bar, 2 CPU cores"
        stated += [
            claims.at_least("MNIST: CNN, test %", scores["CNN"], 99.2, source=PEERS),
            claims.at_most("MNIST: CNN, minutes", minutes["CNN"], 10.0, source=source),
            claims.at_least(
                "MNIST: ViT, test %", scores["ViT"], 97.5, source=claims.bar("our own target")
            ),
        ]
    return claims.Result(metrics=values, claims=stated)


def _ladder(
    config: Config, which: sets.Set, counts: tuple[int, ...], out: report.RunDir
) -> tuple[dict[tuple[str, bool], np.ndarray], dict[str, float], TrainState]:
    """Test accuracies in %, [labels, seeds], by classifier and augmentation; the last ViTs.

    And final losses of training, mean over seeds: a model that has not fitted its labels was
    stopped by the number of updates, not of labels.
    """
    results, losses = {}, {}
    for name, learner in which.learners.items():
        for augmented in (False, True):
            rows = []
            for count in counts:
                kind = "augmented" if augmented else "plain"
                part = report.RunDir(out.path / f"{which.name}_{name}_{kind}_{count}")
                state = classifiers.train(
                    learner,
                    which.train,
                    which.augment if augmented else None,
                    part,
                    seeds=range(config.run.seed, config.run.seed + config.num_seeds),
                    num_labels=count,
                    num_steps=config.num_steps,
                    batch_size=config.batch_size // 2,
                    learning_rate=config.learning_rate,
                    options=config.run,
                )
                rows.append(classifiers.accuracies(learner, state, which.test))
                loss = metrics.read(part.path)[-1]["loss_per_run"]
                losses[f"{which.name}_{name}_{kind}_{count}_training_loss"] = loss
            results[name, augmented] = np.array(rows)
    return results, losses, state


def _all_labels(
    config: Config, which: sets.Set, out: report.RunDir
) -> tuple[dict[str, float], dict[str, float]]:
    """Test accuracies in % and minutes of training by classifier: augmented, one seed."""
    scores, minutes = {}, {}
    for name, learner in which.learners.items():
        part = report.RunDir(out.path / f"{which.name}_{name}_all")
        state = classifiers.train(
            learner,
            which.train,
            which.augment,
            part,
            seeds=[config.run.seed],
            num_labels=len(which.train["label"]),
            num_steps=config.mnist_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            options=config.run,
        )
        scores[name] = float(classifiers.accuracies(learner, state, which.test)[0])
        minutes[name] = metrics.read(part.path)[-1]["wall"] / 60
    return scores, minutes


def _summary(
    name: str, counts: tuple[int, ...], results: dict[tuple[str, bool], np.ndarray]
) -> dict[str, float]:
    """Mean and spread of accuracies and of the paired lead; where the ViT draws level, 0 if not."""
    values = {
        f"{name}_{learner}_{'augmented' if on else 'plain'}_{count}_{what}": value
        for (learner, on), table in results.items()
        for count, row in zip(counts, table)
        for what, value in (("mean", row.mean()), ("std", _spread(row)))
    }
    for on, kind in ((False, "plain"), (True, "augmented")):
        lead = results["CNN", on] - results["ViT", on]  # [labels, seeds]
        for count, row in zip(counts, lead):
            values[f"{name}_lead_{kind}_{count}_mean"] = row.mean()
            values[f"{name}_lead_{kind}_{count}_std"] = _spread(row)
        level = [count for count, row in zip(counts, lead) if row.mean() <= 0]
        values[f"{name}_crossover_{kind}"] = min(level, default=0)
    return values


def _leads(name: str, results: dict[tuple[str, bool], np.ndarray]) -> list[claims.Claim]:
    """The ResNet leads, and augmentation narrows its lead."""
    lead = {on: (results["CNN", on] - results["ViT", on]).mean() for on in (False, True)}
    return [
        claims.above(
            f"{name}: lead of the CNN without augmentation, points, mean over labels and seeds",
            lead[False],
            0.0,
            source=LEAD,
        ),
        claims.below(
            f"{name}: lead of the CNN with augmentation, points",
            lead[True],
            lead[False],
            source=claims.baseline("its lead without augmentation, same run"),
        ),
    ]


def _spread(row: np.ndarray) -> float:
    """Standard deviation over seeds, 0 for one seed."""
    return row.std(ddof=1) if len(row) > 1 else 0.0


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
