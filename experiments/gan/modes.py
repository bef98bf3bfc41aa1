"""Which games find every mode of a mixture in the plane, whatever the seed?

Claims: with R1, or with relativistic pairing, R1 and R2, all of five seeds find 8 of 8 modes of a
ring and at least 24 of 25 of a grid, more than 90 % of the samples within four standard deviations
of a mode; the plain non-saturating loss fails on some seed.
Cost: 8 minutes on 2 CPU cores.
    python -m experiments gan.modes

Perceptrons of two players, alternating rounds of Adam, all seeds of a game in one compiled program.
A mode is found if at least a tenth of its share of high-quality samples lie nearest to it. R1:
Mescheder et al. 2018, arXiv:1801.04406; relativistic with both penalties: Huang et al. 2024,
arXiv:2501.05441.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses

import jax
import numpy as np

from experiments.gan import _plane
from library import claims, environment, figure_style, report
from research.gan import losses

GAMES = {
    "plain": _plane.Rules(losses.non_saturating),
    "R1": _plane.Rules(losses.non_saturating, r1=True),
    "relativistic, R1 and R2": _plane.Rules(losses.relativistic, r1=True, r2=True),
}
SETS = {"ring": (_plane.ring(8), 8), "grid": (_plane.grid(5), 24)}
BAR = claims.bar("every mode of 8, all but one of 25, in each of five seeds")
PLAIN = claims.bar("unregularised games need not converge, so some seed is to fail")


@dataclasses.dataclass(frozen=True)
class Config:
    """The games, the players and their training."""

    sets: tuple[str, ...] = tuple(SETS)  # ring of 8, grid of 25
    games: tuple[str, ...] = tuple(GAMES)  # which are played on each
    num_seeds: int = 5  # games of every kind
    num_steps: int = 40_000  # rounds of a game
    batch_size: int = 256  # points per round
    width: int = 64  # hidden units of a layer, three of them
    learning_rate: float = 3e-3  # of both players, falls to 0 by half a cosine
    gamma: float = 0.02  # weight of the penalties
    num_samples: int = 2000  # points that are judged
    seed: int = 0  # of all games


PRESETS = {
    "smoke": Config(
        sets=("ring",),
        games=("R1",),
        num_seeds=2,
        num_steps=4,
        batch_size=8,
        width=8,
        num_samples=50,
    ),
    "default": Config(),
    "accelerator": Config(num_seeds=50, num_steps=100_000, width=256, num_samples=10_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """All games on both sets, counted; samples of the first seed drawn."""
    _check(config)
    options = dataclasses.asdict(config) | {"rng": jax.random.key(config.seed)}
    for name in ("seed", "sets", "games"):
        options.pop(name)
    plays = [(name, game) for name in config.sets for game in config.games]
    # Each is one program of small products, which leaves other cores idle.
    with concurrent.futures.ThreadPoolExecutor(environment.num_cores()) as pool:
        play = lambda pair: _plane.play(GAMES[pair[1]], SETS[pair[0]][0], **options)
        samples = dict(zip(plays, pool.map(play, plays), strict=True))
    result = claims.Result()
    for (name, game), points in samples.items():
        centres, least = SETS[name]
        found = [_plane.count(each, centres) for each in points]
        result += judged(f"{name}, {game}", found, least, plain=game == "plain")
    out.figure("modes", _draw({pair: points[0] for pair, points in samples.items()}))
    return result


def judged(name: str, found: list[_plane.Count], least: int, plain: bool) -> claims.Result:
    """Claims of one game on one set, from the counts of its seeds."""
    modes = [each.num_modes for each in found]
    quality = [each.high_quality for each in found]
    good = [m >= least and q > 0.9 for m, q in zip(modes, quality, strict=True)]
    metrics = {
        f"{name}: fewest modes": min(modes),
        f"{name}: least high quality": min(quality),
        f"{name}: seeds that hold": sum(good),
    }
    if plain:
        what = f"{name}: seeds of {len(found)} with all modes and quality"
        return claims.Result(metrics, [claims.below(what, sum(good), len(found), PLAIN)])
    return claims.Result(
        metrics,
        [
            claims.at_least(f"{name}: modes of the worst seed", min(modes), least, BAR),
            claims.above(f"{name}: high quality of the worst seed", min(quality), 0.9, BAR),
        ],
    )


def _draw(samples: dict[tuple[str, str], np.ndarray]):
    figure = figure_style.empty(1.56 * figure_style.WIDTH, 1.75 * figure_style.HEIGHT)
    names, games = (list(dict.fromkeys(pair[i] for pair in samples)) for i in (0, 1))
    panels = figure.subplots(len(names), len(games), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        centres, _ = SETS[name]
        for axes, game in zip(row, games, strict=True):
            axes.scatter(*samples[name, game].T, s=3, color=figure_style.PALETTE[0], alpha=0.4)
            axes.scatter(*centres.means.T, s=60, marker="+", color=figure_style.PALETTE[1])
            limit = 1.4 * np.abs(centres.means).max()
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            figure_style.style(axes, f"{name}, {game}")
    return figure


def _check(config: Config) -> None:
    for field, known in (("sets", SETS), ("games", GAMES)):
        chosen = getattr(config, field)
        if not chosen or set(chosen) - set(known):
            raise ValueError(f"{field}={chosen}: expected some of {', '.join(known)}")
