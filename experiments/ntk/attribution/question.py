"""Do projected gradients tell which training digits a prediction rests on?

Claims: the linear datamodeling score of projected-gradient attribution (TRAK, Park et al. 2023,
arXiv:2303.14186) exceeds those of nearest neighbours in pixels and of random scores by more than
two standard errors. Cost: 1 minute on 2 CPU cores.
    python -m experiments ntk.attribution

An MLP on 8 x 8 digits is retrained on random halves of the training set; a method's scores are good
if their sums over a half rank its outputs, the margins of test digits. Every output is a mean over
several starts, because one start's noise hides the data's effect. Attribution itself never
retrains: it averages over a few networks trained on everything.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ntk import _networks
from experiments.ntk.attribution import methods, picture
from library import claims, report, training
from research.ntk import attribution


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, retrainings and projections."""

    num_train: int = 400  # training digits
    num_test: int = 100  # test digits whose outputs are explained
    width: int = 32  # hidden units of each of two layers
    num_steps: int = 200  # of Adam, on all examples at once
    learning_rate: float = 5e-3  # of Adam
    weight_decay: float = 1e-3  # of the squared parameters, in the loss
    num_subsets: int = 100  # random halves
    num_starts: int = 5  # retrainings of each half
    num_models: int = 5  # networks trained on everything, for attribution
    num_features: int = 512  # of every projection
    ridge: float = 1e-2  # of the attribution, in mean eigenvalues
    run: training.RunOptions = training.RunOptions()  # of these it takes the seed


PRESETS = {
    "smoke": Config(
        num_train=12,
        num_test=12,
        width=4,
        num_steps=3,
        num_subsets=4,
        num_starts=1,
        num_models=1,
        num_features=8,
    ),
    "default": Config(),
    "accelerator": Config(
        num_train=1497,
        num_test=300,
        width=128,
        num_steps=500,
        num_subsets=400,
        num_starts=10,
        num_models=10,
        num_features=4096,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Retrains, attributes by every method, and compares their scores."""
    training.takes_only(config.run, "seed")
    train = _networks.read_digits("train", config.num_train, config.run.seed)
    test = _networks.read_digits("test", config.num_test, config.run.seed)
    rngs = jax.random.split(jax.random.key(config.run.seed), 5)
    subsets = methods.halves(rngs[0], config.num_subsets, config.num_train)
    starts = jax.random.split(rngs[1], (config.num_subsets, config.num_starts))
    models = jax.random.split(rngs[2], config.num_models)
    recipe = methods.Training(
        config.width, config.num_steps, config.learning_rate, config.weight_decay
    )
    outputs = methods.outputs(recipe, train, test, subsets, starts)  # [S, starts, M]
    sizes = {"num_features": config.num_features, "ridge": config.ridge}
    attributed = {
        "projected gradients": methods.gradients(recipe, train, test, models, **sizes),
        "nearest, by class": methods.neighbours(train, test, signed=True),
        "nearest": methods.neighbours(train, test, signed=False),
        "random": jax.random.normal(rngs[3], (config.num_test, config.num_train)),
    }
    mean = outputs.mean(1)  # [S, M]
    judge = jax.jit(attribution.linear_datamodeling_score)
    found = {name: np.asarray(judge(scores, subsets, mean)) for name, scores in attributed.items()}
    scores = {name: (v.mean(), v.std(ddof=1) / len(v) ** 0.5) for name, v in found.items()}
    out.figure("attribution", picture.bars(scores))
    metrics = {
        f"lds_{name.replace(' ', '_').replace(',', '')}": value
        for name, (value, _) in scores.items()
    }
    metrics["lds_of_other_starts"] = _ceiling(outputs)
    ours = found.pop("projected gradients")
    stated = [_exceeds(name, ours, theirs) for name, theirs in found.items()]
    return claims.Result(metrics, stated)


def _exceeds(name: str, ours: np.ndarray, theirs: np.ndarray) -> claims.Claim:
    """The mean difference over test digits less two standard errors is positive."""
    gap = ours - theirs
    bound = gap.mean() - 2 * gap.std(ddof=1) / len(gap) ** 0.5
    title = f"score of projected gradients less that of {name}, less two standard errors"
    return claims.above(title, bound, 0.0, source=claims.baseline(f"{name}, same retrainings"))


def _ceiling(outputs: np.ndarray) -> float:
    """Rank correlation of half of the starts with the others: what a perfect score would meet."""
    num = outputs.shape[1] // 2
    if not num:
        return float("nan")
    a, b = outputs[:, :num].mean(1), outputs[:, num:].mean(1)
    return float(jax.vmap(attribution.spearman, in_axes=1)(jnp.asarray(a), jnp.asarray(b)).mean())
