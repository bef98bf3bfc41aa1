"""Do wide networks train like their linearisation, and like the closed form of its gradient flow?

Claims: over a whole training by gradient descent the largest distance of a network's outputs to
those of its linearisation falls at least as fast as width^(-1/2) (Lee et al. 2019,
arXiv:1902.06720, Theorem 2.1), in fact as 1/width (slope within 0.2; the kernel's change is of
order 1/width: Huang and Yau 2020, arXiv:1909.08156); the linearisation descends within the error of
Euler's method of its closed-form flow. Cost: 2 minutes on 2 CPU cores.
    python -m experiments ntk.lazy_training

Even against odd 8 x 8 digits, targets -1 and 1, squared error, all examples in every step, two
hidden layers of erf in NTK parameterisation, one learning rate for all widths.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ntk import _by_width, _networks
from experiments.ntk.lazy_training import descent
from library import claims, figure_style, plots, report, training
from research.ntk import layers

BOUND = claims.theorem(
    "Lee et al. 2019, arXiv:1902.06720, Theorem 2.1: at most of order width^(-1/2)"
)
RATE = claims.paper("kernel change of order 1/width: Huang and Yau 2020, arXiv:1909.08156")
EULER = claims.theorem(
    "largest |exp(-z k) - (1 - z)^k| over modes z <= learning rate * lambda_max and steps k"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks, and how they descend."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)  # units of both hidden layers
    num_draws: int = 4  # random networks of every width
    num_train: int = 48  # digits that are trained on
    num_test: int = 48  # digits whose outputs are compared too
    step_size: float = 0.1  # learning rate times the infinite kernel's largest eigenvalue
    times: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # steps looked at
    run: training.RunOptions = training.RunOptions()  # of these it takes the seed


PRESETS = {
    "smoke": Config(widths=(4, 8), num_draws=1, num_train=4, num_test=4, times=(0, 2, 4)),
    "default": Config(),
    "accelerator": Config(widths=(64, 128, 256, 512, 1024, 2048, 4096), num_draws=16),
}


def network(width: int) -> layers.Layer:
    """Two hidden layers of erf and one output."""
    wide, last = (layers.dense(n, weight_std=1.5, bias_std=0.1) for n in (width, 1))
    return layers.serial(layers.flatten(), wide, layers.erf(), wide, layers.erf(), last)


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains every network in three ways, fits the rates and draws them."""
    training.takes_only(config.run, "seed")
    train = _networks.read_digits("train", config.num_train, config.run.seed)
    test = _networks.read_digits("test", config.num_test, config.run.seed)
    x, y = jnp.asarray(np.concatenate([train.x, test.x])), _signs(train)
    exact = network(1).kernel(jnp.asarray(train.x), get="ntk")
    rate = config.step_size / float(jnp.linalg.eigvalsh(exact)[-1])
    rngs = jax.random.split(jax.random.key(config.run.seed), config.num_draws)
    lazy, closed, euler, bound = [], [], [], 0.0
    for width in config.widths:
        errors = []
        for rng in rngs:
            paths, stiffest = descent.three_ways(network(width), rng, x, y, rate, config.times)
            errors.append([_distance(paths["trained"], paths[name]) for name in ("linear", "flow")])
            seen = slice(0, config.num_train)
            off = np.linalg.norm((paths["linear"] - paths["flow"])[:, seen], axis=-1)
            euler.append(off.max() / np.linalg.norm(paths["flow"][0, seen] - y))
            bound = max(bound, descent.euler_bound(stiffest, config.times))
        for collected, values in zip((lazy, closed), np.array(errors).T):
            collected.append(np.sqrt(np.mean(values**2)))
    return _judge(config, out, np.array(lazy), np.array(closed), max(euler), bound)


def _judge(
    config: Config,
    out: report.RunDir,
    lazy: np.ndarray,
    closed: np.ndarray,
    euler: float,
    bound: float,
) -> claims.Result:
    slope, _, deviation = plots.power_law(config.widths, lazy)
    figure, (axes,) = figure_style.row(1)
    names = {"to its linearisation": lazy, "to the closed-form flow": closed}
    _by_width.power_laws(axes, config.widths, names, -1.0)
    title = "Largest distance of a trained network on its way"
    figure_style.style(axes, title, "hidden units", "root mean square / targets'")
    out.figure("lazy_training", figure)
    metrics = {"slope": slope, "slope_error": deviation, "euler_error": euler}
    metrics |= {"slope_to_flow": plots.power_law(config.widths, closed)[0]}
    metrics |= {f"error_{n}": error for n, error in zip(config.widths, lazy)}
    return claims.Result(
        metrics,
        [
            claims.at_most(
                "slope against width, upper bound", slope, -0.5, source=BOUND, tolerance=0.15
            ),
            claims.within("slope against width", slope, -1.0, 0.2, source=RATE),
            claims.at_most(
                "linearised descent to closed-form flow, training outputs",
                euler,
                bound,
                source=EULER,
                tolerance=1e-4,
            ),
        ],
    )


def _signs(data: _networks.Digits) -> np.ndarray:
    """1 for even digits, -1 for odd ones, [N]."""
    return np.where(data.label % 2 == 0, 1.0, -1.0).astype(np.float32)


def _distance(path: np.ndarray, other: np.ndarray) -> float:
    """Largest root mean square difference on the way; the targets' is 1."""
    return float(np.sqrt(np.mean((path - other) ** 2, axis=-1)).max())
