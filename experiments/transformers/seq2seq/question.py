"""Which positions let an encoder-decoder sort, reverse and add more digits than it has seen?

Claims: every positional encoding reaches 99 % exact answers at the trained lengths; beyond them
T5's bias beats sines, rotations and ALiBi (Kazemnejad et al. 2023, arXiv:2305.19466, section 4, of
decoders); without positions reversal stays below its exact bound. Cost: 30 minutes on 2 CPU cores.
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

from experiments.transformers import _options
from experiments.transformers.seq2seq import length_runs, picture, sequences
from experiments.transformers.seq2seq.picture import NAMES
from library import claims, report, training

IMPACT = claims.paper("Kazemnejad et al. 2023, arXiv:2305.19466, section 4 (decoder-only)")
BOUND = claims.theorem("C(n + 9, 9) / 10^n: one right answer per multiset, mean over lengths")
RIVALS = ("sinusoidal", "rotary", "alibi")  # of T5's bias


@dataclasses.dataclass(frozen=True)
class Config:
    """Models, training and tests."""

    tasks: tuple[str, ...] = sequences.TASKS  # what is asked
    encodings: tuple[str, ...] = length_runs.ENCODINGS  # how positions are told
    digits: int = 8  # most digits in training, of sorting and reversal; the test goes to twice that
    add_digits: int = 6  # the same of each summand
    num_steps: int = 1000  # updates, of sorting and reversal
    add_steps: int = 3000  # updates, of addition
    size: _options.Size = _options.Size(depth=2, width=64)  # of each half
    batch_size: int = 64  # sequences per update
    learning_rate: float = 2e-3  # after the warm-up; zero at the end
    num_test: int = 512  # fresh examples per length
    num_seeds: int = 1  # trainings of each kind, of the seeds run.seed, run.seed + 1, ...
    run: training.RunOptions = training.RunOptions(log_every=100, steps_per_call=100)


PRESETS = {
    "smoke": Config(
        tasks=("reverse",),
        encodings=("none",),
        digits=2,
        num_steps=2,
        size=_options.Size(depth=1, width=8, num_heads=2),
        batch_size=2,
        num_test=4,
        run=training.RunOptions(log_every=2, checkpoint_every=2, steps_per_call=2),
    ),
    "default": Config(),
    "accelerator": Config(
        digits=20,
        add_digits=20,
        num_steps=20_000,
        add_steps=40_000,
        size=_options.Size(depth=4, width=256, num_heads=8),
        batch_size=256,
        learning_rate=5e-4,
        num_test=2048,
        num_seeds=3,
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains every task with every encoding, and compares exact matches by length."""
    _check(config)
    means = {  # [2 N], over seeds
        (task, encoding): _mean_accuracies(config, task, encoding, out)
        for encoding in config.encodings
        for task in config.tasks
        # Without positions a summand is a multiset: reversal is control enough.
        if (task, encoding) != ("add", "none")
    }
    out.figure("lengths", picture.draw(means))
    trained = {key: row[: len(row) // 2].mean() for key, row in means.items()}
    longer = {key: row[len(row) // 2 :].mean() for key, row in means.items()}
    metrics = {f"{task}_{name}_trained": value for (task, name), value in trained.items()}
    metrics |= {f"{task}_{name}_longer": value for (task, name), value in longer.items()}
    return claims.Result(metrics, _claims(config, trained, longer))


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
    if (config.tasks, config.encodings) == (("add",), ("none",)):
        raise ValueError("tasks=('add',) without positions has no answer: give another encoding")


def _mean_accuracies(config: Config, task: str, encoding: str, out: report.RunDir) -> np.ndarray:
    """Exact match by length, [2 N], mean over seeds; each training in a folder of its own."""
    if task == "add":
        asked = length_runs.Task(task, config.add_digits, config.add_steps)
    else:
        asked = length_runs.Task(task, config.digits, config.num_steps)
    rows = [
        length_runs.accuracies(
            asked,
            encoding,
            config.size,
            report.RunDir(out.path / f"{task}-{encoding}-{seed}"),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            num_test=config.num_test,
            run=dataclasses.replace(config.run, seed=seed),
        )
        for seed in range(config.run.seed, config.run.seed + config.num_seeds)
    ]
    return np.mean(rows, axis=0)


def _claims(config: Config, trained: dict, longer: dict) -> list[claims.Claim]:
    stated = [
        claims.at_least(
            f"{task}, {NAMES[encoding]}: exact match at the trained lengths", value, 0.99, IMPACT
        )
        for (task, encoding), value in trained.items()
        if encoding != "none"
    ]
    if "t5" in config.encodings:
        rivals = [name for name in RIVALS if name in config.encodings]
        beyond = {
            encoding: np.mean([longer[task, encoding] for task in config.tasks])
            for encoding in ("t5", *rivals)
        }
        title = "exact match beyond the trained lengths, mean of tasks: T5 against"
        stated += [
            claims.above(f"{title} {NAMES[rival]}", beyond["t5"], beyond[rival], IMPACT)
            for rival in rivals
        ]
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
