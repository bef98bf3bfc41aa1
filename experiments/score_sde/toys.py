"""What do exact, memorising and trained scores make of densities in the plane?

Claim: samples of the exact score of a ring of Gaussians are as close to fresh draws as other fresh
draws are, and its entropy through the flow is the closed form; the exact score of a finite data set
recites it; a perceptron trained on a checkerboard is closer to it than scikit-learn's 10-component
mixture, and its likelihood lies between that mixture's and the entropy.
Cost: 2.5 minutes on 2 CPU cores.
    python -m experiments score_sde.toys

Variance-preserving flow (Song et al. 2021, arXiv:2011.13456), Heun's method in log SNR. Every
distance stands beside its floor: what two fresh samples of the same size show.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import mixture

from library import claims, figure_style, report, training
from library.figure_style import PALETTE
from library.types import Array
from research.diffusion import likelihood, losses, mlp, oracles, predictions, processes, samplers
from research.diffusion.predictions import Score
from research.sample_quality import distances  # fmt: skip

PROCESS = processes.vp()
RING, RADIUS, STD = 8, 1.5, 0.1  # Gaussians on a ring
UNIT = 2.0  # the checkerboard is learned in half of its units, to have a spread near 1
CHECKERBOARD_ENTROPY = math.log(32)  # 8 cells of area 4
LINES = 120  # flow lines in a panel


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of samples and of the training."""

    parts: tuple[str, ...] = ("ring", "memorised", "checkerboard")  # what is run
    num_samples: int = 2000  # points compared
    num_draws: int = 100  # pairs of fresh samples behind a floor
    num_memorised: int = 100  # points of the data set that is recited
    num_train: int = 50_000  # points of the checkerboard trained on
    num_steps: int = 8000  # updates
    batch_size: int = 512  # points per update
    width: int = 128  # of the perceptron
    learning_rate: float = 3e-3  # peak of the warm-up and cosine schedule
    sampler_steps: int = 50  # steps of Heun's method
    run: training.RunOptions = training.RunOptions(
        log_every=400, checkpoint_every=4000, steps_per_call=100
    )


PRESETS = {
    "smoke": Config(
        parts=("checkerboard",),
        num_samples=50,
        num_draws=2,
        num_memorised=10,
        num_train=100,
        num_steps=4,
        batch_size=8,
        width=8,
        sampler_steps=2,
        run=training.RunOptions(log_every=2, checkpoint_every=4, steps_per_call=2),
    ),
    "default": Config(),
    "accelerator": Config(num_samples=10_000, num_steps=50_000, batch_size=4096, width=256),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """One panel and its claims for each of the three scores."""
    parts = {"ring": _ring, "memorised": _memorised, "checkerboard": _checkerboard}
    if not config.parts or set(config.parts) - set(parts):
        raise ValueError(f"parts={config.parts}: expected some of {', '.join(parts)}")
    metrics, stated, shown = {}, [], {}
    for name in config.parts:
        values, more, shown[name] = parts[name](config, out)
        metrics |= {f"{name}_{key}": float(value) for key, value in values.items()}
        stated += more
    out.figure("toys", _picture(shown))
    return claims.Result(metrics=metrics, claims=stated)


def _ring(config: Config, out: report.RunDir) -> tuple[dict, list[claims.Claim], tuple]:
    """The exact score of 8 Gaussians on a ring."""
    angles = 2 * np.pi * np.arange(RING) / RING
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
    law = oracles.mixture(PROCESS, np.full(RING, 1 / RING), means, STD**2)
    samples, path = _sample(config, law)
    pool = law.sample(jax.random.key(1), 3 * config.num_samples)
    values = _compared(config, samples, pool)
    with jax.enable_x64(True):  # the mean of -log p by quadrature over one Gaussian of the ring
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
        weights = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
        points = jnp.asarray(means[:1] + STD * grid)
        log_prob = jax.jit(lambda x: likelihood.log_prob(law, PROCESS, x))(points)
        values["entropy"] = -np.asarray(log_prob) @ weights
    expected = math.log(RING) + math.log(2 * math.pi * math.e * STD**2)
    return values, [
        *_within_floor("ring, exact score", values),
        claims.within("ring: entropy through the flow, nats", values["entropy"], expected, 1e-3, source=claims.baseline("ln K + ln(2 pi e s^2)")),
    ], (samples, path, "8 Gaussians, exact score")  # fmt: skip


def _memorised(config: Config, out: report.RunDir) -> tuple[dict, list[claims.Claim], tuple]:
    """The exact score of a few points of a spiral, which is the optimum of training on them."""
    data = _spiral(np.random.default_rng(0), config.num_memorised)
    fresh = _spiral(np.random.default_rng(1), config.num_samples)
    samples, path = _sample(config, oracles.empirical(PROCESS, jnp.asarray(data)), to_zero=True)
    nearest, which = distances.nearest_neighbours(samples, data)
    values = {
        "median_distance_to_data": np.median(nearest),
        "median_distance_of_fresh": np.median(distances.nearest_neighbours(fresh, data)[0]),
        "share_of_data_recited": len(np.unique(which)) / len(data),
    }
    return values, [
        claims.below("memorised: median distance to the data set, over that of fresh draws", values["median_distance_to_data"] / values["median_distance_of_fresh"], 0.01, source=claims.baseline("the optimum of score matching on a finite set recites it"))
    ], (samples, path, f"{len(data)} points, their own score")  # fmt: skip


def _checkerboard(config: Config, out: report.RunDir) -> tuple[dict, list[claims.Claim], tuple]:
    """A perceptron that learns the noise, beside scikit-learn's mixture fitted to the same data."""
    rng = np.random.default_rng(0)
    train, test, pool = (
        _cells(rng, num) for num in (config.num_train, config.num_samples, 3 * config.num_samples)
    )
    score = _train(config, out, train)
    samples, path = _sample(config, score)
    values = _compared(config, samples, pool)
    log_prob = jax.jit(lambda x: likelihood.log_prob(
        score, PROCESS, x, t_start=1e-4, steps=likelihood.adaptive(1e-4, 1e-4)
    ))(test)  # fmt: skip
    values["nll"] = -np.mean(log_prob) + 2 * math.log(UNIT)
    fitted = mixture.GaussianMixture(min(10, len(train)), random_state=0).fit(train)
    drawn = fitted.sample(config.num_samples)[0].astype(np.float32)
    baseline = _distances(drawn, pool[: config.num_samples])
    values |= {f"baseline_{name}": value for name, value in baseline.items()}
    values["baseline_nll"] = -fitted.score(test) + 2 * math.log(UNIT)
    source = "scikit-learn GaussianMixture(10) fitted to the same data"
    stated = [
        claims.below(f"checkerboard: {name}", values[key], values[f"baseline_{key}"], source=source)
        for name, key in (
            ("energy distance", "energy"), ("sliced Wasserstein", "sliced"), ("nats a point", "nll")
        )
    ]  # fmt: skip
    error = np.std(log_prob) / len(test) ** 0.5
    stated.append(claims.at_least("checkerboard: nats a point against the entropy", values["nll"], CHECKERBOARD_ENTROPY, source=claims.baseline("ln 32; 4 standard errors"), tolerance=4 * error))  # fmt: skip
    return values, stated, (samples, path, "Checkerboard, trained score")


def _train(config: Config, out: report.RunDir, train: np.ndarray) -> Score:
    """The averaged network's score."""
    model = mlp.MLP(width=config.width)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.num_steps // 20, config.num_steps
    )

    def apply(params, x, t, labels, rng):
        return model.apply(params, x, t)

    state = training.train(
        losses.denoising_score_matching(PROCESS, apply, kind="noise", stratified=True),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        lambda rng: model.init(rng, jnp.zeros((1, 2)), jnp.zeros(1)),
        training.batches({"image": train}, config.batch_size, config.run.seed),
        num_steps=config.num_steps,
        run=config.run,
        out=out,
        ema_decay=lambda step: jnp.minimum(0.999, (1.0 + step) / (10.0 + step)),
        rng_per_example=True,
    )
    return predictions.to_score(PROCESS, functools.partial(model.apply, state.ema), "noise")


def _spiral(rng: np.random.Generator, num: int) -> np.ndarray:
    """[num, 2] float32, points about a spiral."""
    turn = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, num))
    curve = 0.22 * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return (curve + 0.03 * rng.standard_normal((num, 2))).astype(np.float32)


def _cells(rng: np.random.Generator, num: int) -> np.ndarray:
    """[num, 2] float32, uniform on the 8 dark cells of a 4x4 board on [-2, 2]^2."""
    row, half = rng.integers(0, 4, num), rng.integers(0, 2, num)
    corner = np.stack([2 * half + row % 2, row], 1) - 2.0
    return (corner + rng.uniform(size=(num, 2))).astype(np.float32)


def _sample(config: Config, score: Score, to_zero: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Samples [N, 2], and some of them on their way, [T, LINES, 2]."""
    # the last noise level lies far below every length of the data
    grid = samplers.log_snr_grid(config.sampler_steps, to_zero=to_zero, t_end=1e-4)
    draw = jax.jit(lambda rng: samplers.sample(
        score, PROCESS, rng, (config.num_samples, 2), solver=samplers.heun("log_snr"), grid=grid,
        every=1,
    ))  # fmt: skip
    samples, info = draw(jax.random.key(0))
    return np.asarray(samples), np.asarray(info.trajectory[:, :LINES])


def _distances(x: Array, y: Array) -> dict[str, float]:
    return {
        "energy": float(distances.energy_distance(x, y)),
        "sliced": float(distances.sliced_wasserstein(jax.random.key(0), x, y)),
    }


def _compared(config: Config, samples: np.ndarray, pool: Array) -> dict[str, float]:
    """Distances of samples to as many fresh draws, and the 98 % bands of fresh against fresh."""
    num, key = config.num_samples, jax.random.key(0)
    values = _distances(samples, pool[:num])
    functions = {
        "energy": distances.energy_distance,
        "sliced": functools.partial(distances.sliced_wasserstein, key),
    }
    for name, function in functions.items():
        fresh = jnp.asarray(pool[num:])
        floor = distances.fresh_sample_floor(
            key, function, fresh, (num, num), num_draws=config.num_draws, level=0.98
        )
        values |= {f"{name}_floor": float(floor.mean), f"{name}_floor_high": float(floor.high)}
    return values


def _within_floor(name: str, values: dict[str, float]) -> list[claims.Claim]:
    source = "upper end of the 98 % band of fresh samples of that size: 1 % false alarm"
    high = {key: values[f"{key}_floor_high"] for key in ("energy", "sliced")}
    return [
        claims.at_most(f"{name}: {key}", values[key], high[key], source=source)
        for key in ("energy", "sliced")
    ]


def _picture(shown: dict[str, tuple[np.ndarray, np.ndarray, str]]):
    """Samples with flow lines from noise to data."""
    figure, all_axes = figure_style.row(len(shown), width=3.3 * len(shown), height=3.7)
    for axes, (samples, path, title) in zip(all_axes, shown.values()):
        axes.plot(path[..., 0], path[..., 1], color=PALETTE[0], lw=0.6, alpha=0.45, zorder=1)
        axes.plot(*path[0].T, "o", color=PALETTE[0], ms=1.6, mew=0, alpha=0.8, zorder=2)
        axes.plot(*samples.T, "o", color=PALETTE[1], ms=1.6, mew=0, alpha=0.5, zorder=3)
        figure_style.bare(axes, title)
        axes.set_aspect("equal")
        axes.set_xlim(-2.7, 2.7)
        axes.set_ylim(-2.7, 2.7)
    return figure
