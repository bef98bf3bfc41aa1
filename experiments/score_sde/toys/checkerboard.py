"""A perceptron trained on a checkerboard, beside a mixture of Gaussians fitted to the same data."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import mixture

from experiments.score_sde.toys import comparison, picture
from experiments.score_sde.toys.comparison import PROCESS
from library import claims, report, training
from research.diffusion import likelihood, losses, mlp, predictions
from research.diffusion.predictions import Score

UNIT = 2.0  # the checkerboard is learned in half of its units, to have a spread near 1
ENTROPY = math.log(32)  # 8 cells of area 4
MIXTURE = claims.baseline("scikit-learn GaussianMixture(10) fitted to the same data")


@dataclasses.dataclass(frozen=True)
class Fit:
    """The perceptron and its training, apart from the number of updates."""

    num_train: int = 50_000  # points of the checkerboard trained on
    batch_size: int = 512  # points per update
    width: int = 128  # of the perceptron
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule


def learned(
    sizes: comparison.Sizes,
    out: report.RunDir,
    *,
    num_steps: int,
    fit: Fit,
    run: training.RunOptions,
) -> tuple[claims.Result, picture.Panel]:
    """A perceptron that learns the noise, beside scikit-learn's mixture fitted to the same data."""
    rng, num = np.random.default_rng(0), sizes.num_samples
    train, test, pool = (_cells(rng, each) for each in (fit.num_train, num, 3 * num))
    score = _train(train, out, num_steps, fit, run)
    samples, path = comparison.sample(sizes, score)
    values = comparison.compared(sizes, samples, pool)
    options = {"t_start": 1e-4, "steps": likelihood.adaptive(1e-4, 1e-4)}
    log_prob = jax.jit(lambda x: likelihood.log_prob(score, PROCESS, x, **options))(test)
    values["nll"] = -np.mean(log_prob) + 2 * math.log(UNIT)
    fitted = mixture.GaussianMixture(min(10, len(train)), random_state=0).fit(train)
    drawn = fitted.sample(num)[0].astype(np.float32)
    baseline = comparison.distances_between(drawn, pool[:num])
    values |= {f"baseline_{name}": value for name, value in baseline.items()}
    values["baseline_nll"] = -fitted.score(test) + 2 * math.log(UNIT)
    stated = _claims(values, error=np.std(log_prob) / len(test) ** 0.5)
    panel = picture.Panel(samples, path, "Checkerboard, trained score")
    return comparison.result("checkerboard", values, stated), panel


def _claims(values: dict[str, float], error: float) -> list[claims.Claim]:
    """Better than the mixture in each respect, and no likelihood above that of the law."""
    names = {"energy": "energy distance", "sliced": "sliced Wasserstein", "nll": "nats a point"}
    better = [
        claims.below(f"checkerboard: {name}", values[key], values[f"baseline_{key}"], MIXTURE)
        for key, name in names.items()
    ]
    possible = claims.at_least(
        "checkerboard: nats a point against the entropy",
        values["nll"],
        ENTROPY,
        claims.theorem("ln 32; 4 standard errors"),
        tolerance=4 * error,
    )
    return [*better, possible]


def _train(
    train: np.ndarray, out: report.RunDir, num_steps: int, fit: Fit, run: training.RunOptions
) -> Score:
    """The averaged network's score."""
    model = mlp.MLP(width=fit.width)

    def apply(params, x, t, labels, rng):
        return model.apply(params, x, t)

    state = training.train(
        losses.denoising_score_matching(PROCESS, apply, kind="noise", stratified=True),
        training.warmup_cosine(fit.learning_rate, num_steps, num_steps // 20, clip=1.0),
        lambda rng: model.init(rng, jnp.zeros((1, 2)), jnp.zeros(1)),
        training.batches({"image": train}, fit.batch_size, run.seed),
        num_steps=num_steps,
        run=run,
        out=out,
        ema_decay=training.ema_warmup(0.999),
        rng_per_example=True,
    )
    return predictions.to_score(PROCESS, functools.partial(model.apply, state.ema), "noise")


def _cells(rng: np.random.Generator, num: int) -> np.ndarray:
    """[num, 2] float32, uniform on the 8 dark cells of a 4x4 board on [-2, 2]^2."""
    row, half = rng.integers(0, 4, num), rng.integers(0, 2, num)
    corner = np.stack([2 * half + row % 2, row], 1) - 2.0
    return (corner + rng.uniform(size=(num, 2))).astype(np.float32)
