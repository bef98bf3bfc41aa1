"""Which positions let an encoder-decoder sort, reverse and add more digits than it has seen?

Claims: every positional encoding reaches 99 % exact answers at the trained lengths; beyond them
T5's bias beats sines, rotations and ALiBi (Kazemnejad et al. 2023, arXiv:2305.19466, section 4, of
decoders); without positions reversal stays below its exact bound. Cost: 30 minutes on 2 CPU cores
that other jobs used too.
    python -m experiments transformers.seq2seq

Each model sees 1 to N digits, uniformly, and is judged at 1 to 2 N by exact match of the whole
greedy answer. Numbers are written least significant digit first. Rotations, ALiBi and T5's buckets
act in self-attention of both halves; the attention to the memory has no positions, as in T5. Rows
of the learned tables beyond the trained lengths are as initialised.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.transformers.seq2seq import length_runs as length_runs
from experiments.transformers.seq2seq import sequences as sequences
from library import claims, figure_style, job_queue, report

IMPACT = claims.paper("Kazemnejad et al. 2023, arXiv:2305.19466, section 4 (decoder-only)")
BOUND = claims.baseline("C(n + 9, 9) / 10^n: one right answer per multiset, mean over lengths")
TITLES = {"sort": "Sorting", "reverse": "Reversal", "add": "Addition"}
NAMES = {
    "none": "none",
    "sinusoidal": "sinusoidal",
    "learned": "learned",
    "rotary": "RoPE",
    "alibi": "ALiBi",
    "t5": "T5 buckets",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Models, training and tests."""

    tasks: tuple[str, ...] = sequences.TASKS  # what is asked
    encodings: tuple[str, ...] = length_runs.ENCODINGS  # how positions are told
    digits: int = 8  # most digits in training, of sorting and reversal; the test goes to twice that
    add_digits: int = 6  # the same of each summand
    num_steps: int = 1000  # updates, of sorting and reversal
    add_steps: int = 3000  # updates, of addition
    batch_size: int = 64  # sequences per update
    learning_rate: float = 2e-3  # after the warm-up; zero at the end
    depth: int = 2  # layers of each half
    width: int = 64  # features of a token
    num_heads: int = 4  # attention heads
    num_test: int = 512  # fresh examples per length
    num_seeds: int = 1  # trainings of each kind


PRESETS = {
    "smoke": Config(
        tasks=("reverse",), encodings=("none",), digits=2, num_steps=2, batch_size=2, depth=1,
        width=8, num_heads=2, num_test=4,
    ),
    "default": Config(),
    "accelerator": Config(
        digits=20, add_digits=20, num_steps=20_000, add_steps=40_000, batch_size=256,
        learning_rate=5e-4, depth=4, width=256, num_heads=8, num_test=2048, num_seeds=3,
    ),
}  # fmt: skip


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains every task with every encoding, and compares exact matches by length."""
    _check(config)
    pairs = [
        (task, encoding)
        for encoding in config.encodings
        for task in config.tasks
        # Without positions a summand is a multiset: reversal is control enough.
        if (task, encoding) != ("add", "none")
    ]
    if not pairs:
        raise ValueError("tasks=('add',) without positions has no answer: give another encoding")
    jobs = {
        (pair, seed): _job(config, *pair, seed)
        for pair in pairs
        for seed in range(config.num_seeds)
    }
    names = {key: f"{key[0][0]}-{key[0][1]}-{key[1]}" for key in jobs}
    done = job_queue.run_queue(
        length_runs.run, {names[key]: job for key, job in jobs.items()}, out.path / "runs"
    )
    means = {  # [2 N], over seeds
        pair: np.mean(
            [done[names[pair, seed]]["accuracy"] for seed in range(config.num_seeds)], axis=0
        )
        for pair in pairs
    }
    out.figure("lengths", _figure(means))
    trained = {key: row[: len(row) // 2].mean() for key, row in means.items()}
    longer = {key: row[len(row) // 2 :].mean() for key, row in means.items()}
    metrics = {f"{task}_{name}_trained": value for (task, name), value in trained.items()}
    metrics |= {f"{task}_{name}_longer": value for (task, name), value in longer.items()}
    return claims.Result(metrics=metrics, claims=_claims(config, trained, longer))


def _check(config: Config) -> None:
    for name, given, known in (
        ("tasks", config.tasks, sequences.TASKS),
        ("encodings", config.encodings, length_runs.ENCODINGS),
    ):
        if not given or not set(given) <= set(known):
            raise ValueError(f"{name}={given}: expected some of {known}")
    sizes = (config.digits, config.add_digits, config.num_test, config.num_seeds)
    if min(sizes) < 1 or min(config.num_steps, config.add_steps) < 2:
        raise ValueError(
            f"digits, add_digits, num_test, num_seeds = {sizes}, num_steps={config.num_steps}, "
            f"add_steps={config.add_steps}: expected all >= 1, and at least 2 steps"
        )


def _job(config: Config, task: str, encoding: str, seed: int) -> dict:
    adds = task == "add"
    return {
        "task": task,
        "encoding": encoding,
        "seed": seed,
        "train_digits": config.add_digits if adds else config.digits,
        "num_steps": config.add_steps if adds else config.num_steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "depth": config.depth,
        "width": config.width,
        "num_heads": config.num_heads,
        "num_test": config.num_test,
    }


def _claims(config: Config, trained: dict, longer: dict) -> list[claims.Claim]:
    stated = [
        claims.at_least(f"{task}, {NAMES[encoding]}: exact match at the trained lengths", value, 0.99, source=IMPACT)
        for (task, encoding), value in trained.items()
        if encoding != "none"
    ]  # fmt: skip
    rivals = [name for name in ("sinusoidal", "rotary", "alibi") if name in config.encodings]
    if "t5" in config.encodings:
        beyond = {
            encoding: np.mean([longer[task, encoding] for task in config.tasks])
            for encoding in ("t5", *rivals)
        }
        stated += [
            claims.above(f"exact match beyond the trained lengths, mean of tasks: T5 against {NAMES[rival]}", beyond["t5"], beyond[rival], source=IMPACT)
            for rival in rivals
        ]  # fmt: skip
    if ("reverse", "none") in trained:
        stated.append(_control(config, trained["reverse", "none"]))
    return stated


def _control(config: Config, measured: float) -> claims.Claim:
    bounds = np.array([reversal_bound(n) for n in range(1, config.digits + 1)])
    spread = np.sqrt((bounds * (1 - bounds)).sum() / config.num_test / config.num_seeds)
    return claims.at_most(
        "reverse, no positions: exact match at the trained lengths",
        measured,
        bounds.mean(),
        source=BOUND,
        tolerance=4 * spread / len(bounds),
    )


def reversal_bound(digits: int) -> float:
    """The largest chance of reversing uniform digits that are seen as a multiset.

    All 10^n strings are equally likely, and a multiset is answered by one string: of all strings as
    many as there are multisets, C(n + 9, 9), can be right.
    """
    return math.comb(digits + 9, 9) / 10**digits


def _figure(means: dict[tuple[str, str], np.ndarray]) -> Figure:
    """Exact match against length, a panel a task, a line an encoding; trained lengths shaded."""
    tasks = list(dict.fromkeys(task for task, _ in means))
    figure, places = figure_style.row(len(tasks), width=1.65 * figure_style.WIDTH, sharey=True)
    colours = dict(zip(NAMES, (figure_style.FAINT, *figure_style.PALETTE)))
    for axes, task in zip(places, tasks):
        for (_, encoding), row in ((key, row) for key, row in means.items() if key[0] == task):
            style = "--" if encoding == "none" else "-"
            axes.plot(
                range(1, len(row) + 1), 100 * row, style, color=colours[encoding], linewidth=1.8,
                label=NAMES[encoding],
            )  # fmt: skip
        axes.axvspan(1, len(row) / 2, color=figure_style.GRID, alpha=0.5, linewidth=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        figure_style.style(
            axes, TITLES[task], "digits of each number" if task == "add" else "digits"
        )
    places[0].set_ylabel("exact answers, %", fontsize=figure_style.FONT_SIZE)
    figure_style.legend(places[0], title="positions")
    return figure
