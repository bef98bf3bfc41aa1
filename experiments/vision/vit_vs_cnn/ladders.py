"""Trainings by number of labels, what they reach, and who leads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.vision.vit_vs_cnn import classifiers, sets
from library import claims, metrics, report, training
from library.types import TrainState

LEAD = claims.paper(
    "Dosovitskiy et al. 2021, arXiv:2010.11929, section 4.3: convolutions lead on small data"
)
PLAIN = claims.baseline("its lead without augmentation, same run")

Accuracies = Mapping[
    tuple[str, bool], np.ndarray
]  # by classifier and augmentation: [labels, seeds]


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """What the trainings of one set came to.

    Attributes:
        accuracies: test accuracies in %.
        losses: final losses of training by name, mean over seeds: a model that has not fitted its
            labels was stopped by the number of updates, not of labels.
        last: the ViTs with the most labels, augmented.
    """

    accuracies: Accuracies
    losses: dict[str, float]
    last: TrainState


def climb(
    which: sets.Set,
    counts: Sequence[int],
    out: report.RunDir,
    *,
    num_seeds: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
) -> Ladder:
    """Trains both classifiers, with and without augmentation, on each number of labels.

    Args:
        which: the set.
        counts: numbers of labels, rising.
        out: the run's folder, with one folder for each fleet of seeds.
        num_seeds: runs for each number of labels.
        num_steps, batch_size, learning_rate, run: of each training.
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
                    seeds=range(run.seed, run.seed + num_seeds),
                    num_labels=count,
                    num_steps=num_steps,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    options=run,
                )
                rows.append(classifiers.accuracies(learner, state, which.test))
                loss = metrics.read(part.path)[-1]["loss_per_run"]
                losses[f"{which.name}_{name}_{kind}_{count}_training_loss"] = loss
            results[name, augmented] = np.array(rows)
    return Ladder(results, losses, state)


def all_labels(
    which: sets.Set,
    out: report.RunDir,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    run: training.RunOptions,
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
            seeds=[run.seed],
            num_labels=len(which.train["label"]),
            num_steps=num_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            options=run,
        )
        scores[name] = float(classifiers.accuracies(learner, state, which.test)[0])
        minutes[name] = metrics.read(part.path)[-1]["wall"] / 60
    return scores, minutes


def leads(name: str, counts: Sequence[int], accuracies: Accuracies) -> claims.Result:
    """The ResNet leads, and augmentation narrows its lead; means and spreads of all."""
    lead = {on: (accuracies["CNN", on] - accuracies["ViT", on]).mean() for on in (False, True)}
    ahead = claims.above(
        f"{name}: lead of the CNN without augmentation, points, mean over labels and seeds",
        lead[False],
        0.0,
        LEAD,
    )
    narrower = claims.below(
        f"{name}: lead of the CNN with augmentation, points", lead[True], lead[False], PLAIN
    )
    return claims.Result(_summary(name, counts, accuracies), [ahead, narrower])


def _summary(name: str, counts: Sequence[int], accuracies: Accuracies) -> dict[str, float]:
    """Mean and spread of accuracies and of the paired lead; where the ViT draws level, 0 if not."""
    values = {
        f"{name}_{learner}_{'augmented' if on else 'plain'}_{count}_{what}": value
        for (learner, on), table in accuracies.items()
        for count, row in zip(counts, table)
        for what, value in (("mean", row.mean()), ("std", _spread(row)))
    }
    for on, kind in ((False, "plain"), (True, "augmented")):
        lead = accuracies["CNN", on] - accuracies["ViT", on]  # [labels, seeds]
        for count, row in zip(counts, lead):
            values[f"{name}_lead_{kind}_{count}_mean"] = row.mean()
            values[f"{name}_lead_{kind}_{count}_std"] = _spread(row)
        level = [count for count, row in zip(counts, lead) if row.mean() <= 0]
        values[f"{name}_crossover_{kind}"] = min(level, default=0)
    return values


def _spread(row: np.ndarray) -> float:
    """Standard deviation over seeds, 0 for one seed."""
    return row.std(ddof=1) if len(row) > 1 else 0.0
