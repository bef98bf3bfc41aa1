"""Does the best learning rate stay where it is when our GPT becomes wider?

Claims: from width 64 to 512 the optimum moves by less than a factor of 1.5 under muP and by more
without it; the change of features and logits in the first updates has no power of the width under
muP (within 0.2) and one of at least 0.5 in the logits without.
Cost: 20 minutes on 2 CPU cores.
    python -m experiments scaling_laws.mup

Without muP ("standard") the matrices start as under muP, with variance 1 / width; only learning
rates, the factor on the logits and that in the attention differ. At width 64 both are one model.
The optimum of each seed is the vertex of a parabola in log rate through the best rate on a grid of
factors of two and its neighbours; all runs of a study see the same batches.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np

from experiments.scaling_laws import _gpt, _languages
from experiments.scaling_laws.mup import family as family_module
from experiments.scaling_laws.mup import picture
from experiments.scaling_laws.mup.family import Family
from library import claims, job_queue, report, training

KINDS = ("muP", "standard")
WEIGHTS = (0.1, 0.55, 0.35)  # of the language: attention has something to find
TRANSFER = claims.bar(
    "less than one step of the grid of factors of two; transfer: Yang et al. 2022, arXiv:2203.03466"
)
COORDINATES = claims.paper(
    "Yang et al. 2022, arXiv:2203.03466, appendix D.1: no power of the width"
)
GROWTH = claims.bar(
    "far from muP's 0 +- 0.2; that logits grow: Yang et al. 2022, arXiv:2203.03466, appendix D.1"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The models and their training."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # the first is muP's base
    num_seeds: tuple[int, ...] = (3, 3, 2, 1)  # runs of each rate, by width
    depth: int = 2  # layers
    num_heads: int = 4  # at every width, so that heads grow
    vocab_size: int = 64  # symbols of the known language
    length: int = 16  # predictions a window
    batch_size: int = 8  # windows of an update
    num_steps: int = 50  # updates of a run
    first_rate: float = 4e-3  # where the search of width 64 starts; the grid is this times 2^k
    num_windows: int = 1024  # held-out windows
    check_steps: int = 3  # updates of the coordinate check
    check_rate: float = 4e-3  # its learning rate
    run: training.RunOptions = training.RunOptions()  # of these it takes the seed


PRESETS = {
    "smoke": Config(
        widths=(8, 16),
        num_seeds=(1, 1),
        depth=1,
        num_heads=2,
        vocab_size=8,
        length=4,
        batch_size=2,
        num_steps=2,
        num_windows=512,
        check_steps=2,
    ),
    "default": Config(),
    "accelerator": Config(
        widths=(64, 128, 256, 512, 1024, 2048),
        num_seeds=(4,) * 6,
        length=64,
        batch_size=64,
        num_steps=2000,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Checks coordinates, searches the best rate at every width, both ways."""
    training.takes_only(config.run, "seed")
    seed = config.run.seed
    language = _languages.Known(config.vocab_size, config.length, weights=WEIGHTS)
    train = language.windows(seed, config.num_steps * config.batch_size)
    train = train.reshape(config.num_steps, config.batch_size, -1)
    held_out = language.held_out(config.num_windows)
    family = Family(
        config.widths[0], config.depth, config.num_heads, config.vocab_size, config.length
    )

    def job(kind: str, width: int, rate: float, num_seeds: int) -> dict[str, list[float]]:
        seeds, rates = [seed + i for i in range(num_seeds)], [rate] * num_seeds
        stages = family.stages(kind, width)
        params = _gpt.advance(stages, train, config.num_steps, rates, seeds)
        return {"losses": _gpt.evaluate(family.model(kind, width), params, held_out).tolist()}

    result, curves = claims.Result(), {}
    for kind in KINDS:
        slopes = family_module.coordinate_slopes(
            family, kind, config.widths, train, config.check_steps, config.check_rate, seed
        )
        found, moves = _search(config, kind, functools.partial(_measure, job, out.path / "runs"))
        curves |= {(kind, width): curve for width, curve in found.items()}
        result += moves + _judge(kind, moves.metrics[f"{kind}_moves"], slopes)
    out.figure("mup", picture.transfer(curves))
    return result


def _search(
    config: Config, kind: str, measure: Callable[..., list[float]]
) -> tuple[dict[int, tuple[list[float], np.ndarray]], claims.Result]:
    """Rates and losses [rates, seeds] by width, and where the best rate is at each."""
    metrics, curves, found, start = {}, {}, [], 0
    for width, num_seeds in zip(config.widths, config.num_seeds):
        at_rate = functools.partial(measure, kind, width, num_seeds)
        start, table = family_module.lowest(at_rate, config.first_rate, start)
        rates = [config.first_rate * 2.0**k for k in sorted(table)]
        losses = np.array([table[k] for k in sorted(table)])  # [rates, seeds]
        best = np.log([_gpt.vertex(rates, column) for column in losses.T])
        found.append(best.mean())
        curves[width] = (rates, losses)
        metrics |= {
            f"{kind}_{width}_best_rate": float(np.exp(best.mean())),
            f"{kind}_{width}_spread": float(best.std(ddof=1)) if num_seeds > 1 else np.nan,
            f"{kind}_{width}_loss": float(losses.mean(1).min()),
        }
    metrics[f"{kind}_moves"] = float(np.exp(np.ptp(found)))
    return curves, claims.Result(metrics)


def _judge(kind: str, moves: float, slopes: dict[str, float]) -> claims.Result:
    """How far the best rate moves, and the powers of the width in the first updates."""
    name = f"{kind}: largest over smallest best rate"
    metrics = {f"{kind}_slope_{part}": slope for part, slope in slopes.items()}
    if kind == "standard":
        what, slope = "standard: power of the logits' change", slopes["logits"]
        stated = [
            claims.at_least(name, moves, 1.5, source=TRANSFER),
            claims.at_least(what, slope, 0.5, source=GROWTH),
        ]
        return claims.Result(metrics, stated)
    stated = [claims.below(name, moves, 1.5, source=TRANSFER)]
    for part, slope in slopes.items():
        what = f"muP: power of the change, {part}"
        stated.append(claims.within(what, slope, 0.0, 0.2, source=COORDINATES))
    return claims.Result(metrics, stated)


def _measure(
    job: Callable, folder: pathlib.Path, kind: str, width: int, num_seeds: int, rate: float
) -> list[float]:
    """Losses of all seeds at a rate; a run that diverged counts as infinitely bad."""
    arguments = {"kind": kind, "width": width, "rate": rate, "num_seeds": num_seeds}
    name = f"{kind}-{width}-{rate:.5f}"
    losses = job_queue.run_queue(job, {name: arguments}, folder)[name]["losses"]
    return [value if np.isfinite(value) else np.inf for value in map(float, losses)]
