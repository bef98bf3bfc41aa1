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

import jax
import jax.numpy as jnp
import numpy as np

from experiments.scaling_laws import _figures, _gpt, _languages
from library import claims, job_queue, report
from research.transformers import models, mup

KINDS = ("muP", "standard")
SOURCE = claims.paper("Yang et al. 2022, arXiv:2203.03466: transfer; bar of this study")
WARMUP = 0.1  # share of the updates; one update in the coordinate check
WEIGHTS = (0.1, 0.55, 0.35)  # of the language: attention has something to find
COORDINATES = claims.paper(
    "Yang et al. 2022, arXiv:2203.03466, appendix D.1: no power of the width"
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
    language = _languages.Known(config.vocab_size, config.length, weights=WEIGHTS)
    train = language.windows(0, config.num_steps * config.batch_size)
    train = train.reshape(config.num_steps, config.batch_size, -1)
    held_out = language.held_out(config.num_windows)

    def job(kind: str, width: int, rate: float, num_seeds: int) -> dict[str, list[float]]:
        stages = _stages(config, kind, width)
        seeds, rates = list(range(num_seeds)), [rate] * num_seeds
        params = _gpt.advance(stages, train, config.num_steps, rates, seeds)
        values = _gpt.evaluate(_model(config, kind, width), params, held_out)
        return {"losses": values.tolist()}

    metrics, stated, curves = {}, [], {}
    for kind in KINDS:
        slopes = _coordinate_slopes(config, kind, train)
        metrics |= {f"{kind}_slope_{name}": value for name, value in slopes.items()}
        found, start = [], 0
        for width, num_seeds in zip(config.widths, config.num_seeds):
            measure = functools.partial(_measure, job, out.path / "runs", kind, width, num_seeds)
            start, table = _bracket(measure, config.first_rate, start)
            rates = [config.first_rate * 2.0**k for k in sorted(table)]
            losses = np.array([table[k] for k in sorted(table)])  # [rates, seeds]
            best = np.log([_gpt.vertex(rates, column) for column in losses.T])
            found.append(best.mean())
            curves[kind, width] = (rates, losses)
            metrics |= {
                f"{kind}_{width}_best_rate": float(np.exp(best.mean())),
                f"{kind}_{width}_spread": float(best.std(ddof=1)) if num_seeds > 1 else np.nan,
                f"{kind}_{width}_loss": float(losses.mean(1).min()),
            }
        metrics[f"{kind}_moves"] = float(np.exp(np.ptp(found)))
        stated += _claims(kind, metrics[f"{kind}_moves"], slopes)
    out.figure("mup", _figures.transfer(curves))
    return claims.Result(metrics, stated)


def _claims(kind: str, moves: float, slopes: dict[str, float]) -> list[claims.Claim]:
    name = f"{kind}: largest over smallest best rate"
    if kind == "standard":
        return [
            claims.at_least(name, moves, 1.5, source=SOURCE),
            claims.at_least("standard: power of the logits' change", slopes["logits"], 0.5, source=COORDINATES),
        ]  # fmt: skip
    return [claims.below(name, moves, 1.5, source=SOURCE)] + [
        claims.within(f"muP: power of the change, {part}", slope, 0.0, 0.2, source=COORDINATES)
        for part, slope in slopes.items()
    ]


def _model(config: Config, kind: str, width: int) -> models.DecoderConfig:
    make = lambda width: _gpt.plain(  # noqa: E731
        config.vocab_size, config.depth, width, config.num_heads, config.length
    )
    return mup.widened(make(width), make(config.widths[0] if kind == "muP" else width))


def _stages(config: Config, kind: str, width: int) -> tuple:
    m = width / config.widths[0]
    at_once = None if width <= 2 * _gpt.VMAP_WIDTH else 1
    model = _model(config, kind, width)
    return _gpt.compiled(model, m, m if kind == "muP" else 1.0, WARMUP, at_once)


def _measure(job, folder, kind: str, width: int, num_seeds: int, rate: float) -> list[float]:
    """Losses of all seeds at a rate; a run that diverged counts as infinitely bad."""
    arguments = {"kind": kind, "width": width, "rate": rate, "num_seeds": num_seeds}
    name = f"{kind}-{width}-{rate:.5f}"
    losses = job_queue.run_queue(job, {name: arguments}, folder)[name]["losses"]
    return [value if np.isfinite(value) else np.inf for value in map(float, losses)]


def _bracket(measure, unit: float, start: int) -> tuple[int, dict[int, list[float]]]:
    """The k with the lowest mean loss at unit * 2^k, and all measured: both neighbours are."""
    table = {k: measure(unit * 2.0**k) for k in (start - 1, start, start + 1)}
    while True:
        best = min(table, key=lambda k: np.mean(table[k]))
        missing = [k for k in (best - 1, best + 1) if k not in table]
        if not missing:
            return best, table
        table[missing[0]] = measure(unit * 2.0 ** missing[0])


def _coordinate_slopes(config: Config, kind: str, train: np.ndarray) -> dict[str, float]:
    """The power of the width in the mean change of features and logits by the first updates."""
    batches, tokens = train[: config.check_steps], jnp.asarray(train[0][:, :-1])
    changes: dict[str, list[float]] = {}
    for width in config.widths:
        model = _model(config, kind, width)
        stages = _stages(config, kind, width)
        before, after = (
            jax.tree.map(
                lambda leaf: leaf[0], _gpt.advance(stages, some, config.check_steps, [rate], [0])
            )
            for some, rate in ((batches, 0.0), (batches, config.check_rate))
        )
        features = jax.jit(functools.partial(mup.features, model))
        was, now = features(before, tokens), features(after, tokens)
        for name in was:
            changes.setdefault(name, []).append(float(jnp.abs(now[name] - was[name]).mean()))
    log_width = np.log(config.widths)
    return {n: float(np.polyfit(log_width, np.log(c), 1)[0]) for n, c in sorted(changes.items())}
