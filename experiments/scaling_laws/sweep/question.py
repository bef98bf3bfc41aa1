"""Does a law fitted to small runs of our GPT predict a run of eight times their compute?

Claims: written down before it starts, the 95 % interval holds the loss of the larger run, on a
language of known entropy and on English novels; the interval of the fitted E holds that entropy.
Cost: 25 minutes on 2 CPU cores.
    python -m experiments scaling_laws.sweep

For each language: learning rates are tuned on small runs and a rule in the tokens is fitted (muP
carries it over widths); budgets of compute are spent on models of several widths; Chinchilla's law
is fitted, the optimal size for the large budget read off it, and its loss predicted. The prediction
goes to `LANGUAGE/prediction.json` with time and digest; the large run carries the digest, and a
prediction that is younger than the run or was altered is refused.
"""

from __future__ import annotations

import dataclasses

from experiments.scaling_laws import _gpt, _languages
from experiments.scaling_laws.sweep import cells, outcomes, picture, study
from library import claims, report, training


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained."""

    languages: tuple[str, ...] = ("known", "written")  # which of the two
    text: str = "text/gutenberg_novels.txt.gz"  # under ANSATZ_DATA; empty: Python's own help texts
    vocab_size: int = 64  # symbols of either language
    length: int = 32  # predictions a window
    depth: int = 2  # layers
    batch_size: int = 4  # windows of an update
    steps_per_call: int = 20  # updates of one compiled call
    budgets: tuple[float, ...] = (2e9, 6e9, 2e10)  # FLOP of a run, 6 N D
    widths: tuple[int, ...] = (12, 16, 20, 24, 32, 40)  # of the models
    min_steps: int = 100  # updates; a budget skips widths that get fewer, or more than the text has
    written_budgets: tuple[float, ...] = (2e10, 4e10, 8e10, 2e11, 6.4e11)  # of the novels
    written_widths: tuple[int, ...] = (12, 16, 20, 24, 32, 40, 48, 64)  # of the novels
    written_tune_budgets: tuple[float, ...] = (2e10, 1.6e11)  # of the novels
    written_min_steps: int = 3500  # of the novels: 4.5e5 characters, past single-character counts
    factor: float = 8.0  # compute of the run that is predicted over the largest budget
    distance: float = 2.0  # the largest budget, predicted from those that are smaller by so much
    written_distance: float = 8.0  # of the novels
    tune_widths: tuple[int, ...] = (16, 24)  # where learning rates are tuned
    tune_budgets: tuple[float, ...] = (2e9, 6e9)  # FLOP of a run there
    rates: tuple[float, ...] = (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)  # that are tried, at width 16
    num_seeds: int = 3  # runs of one cell, to know the noise
    num_windows: int = 8192  # held-out windows
    num_resamples: int = 2000  # of the bootstrap
    run: training.RunOptions = training.RunOptions(seed=3)  # of these it takes the seed


PRESETS = {
    "smoke": Config(
        text="",
        vocab_size=8,
        length=8,
        depth=1,
        steps_per_call=2,
        budgets=(2e6, 8e6, 3e7, 1e8),
        widths=(4, 8),
        min_steps=1,
        written_budgets=(2e6, 8e6, 3e7, 1e8),
        written_widths=(4, 8),
        written_distance=2.0,
        written_tune_budgets=(1e6,),
        written_min_steps=1,
        factor=2.0,
        tune_widths=(4,),
        tune_budgets=(1e6,),
        rates=(1e-2,),
        num_seeds=2,
        num_windows=512,
        num_resamples=20,
    ),
    "default": Config(),
    "accelerator": Config(
        vocab_size=128,
        length=128,
        batch_size=64,
        budgets=(3e12, 1e13, 3e13, 1e14),
        widths=(16, 24, 32, 48, 64, 96, 128, 192),
        tune_budgets=(3e12, 1e13),
        written_budgets=(3e12, 1e13, 3e13, 1e14),
        written_widths=(16, 24, 32, 48, 64, 96, 128, 192),
        written_tune_budgets=(3e12, 1e13),
    ),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Tunes, sweeps, fits, predicts, and only then trains the large run; for each language."""
    training.takes_only(config.run, "seed")
    known = _languages.Known(config.vocab_size, config.length, config.run.seed)
    written = _languages.Written(config.text, config.vocab_size, config.length)
    languages = {"known": known, "written": written}
    unknown = [name for name in config.languages if name not in languages]
    if unknown or not config.languages:
        raise ValueError(f"languages={config.languages}: expected some of {', '.join(languages)}")
    recipe = _gpt.Recipe(
        config.vocab_size,
        config.length,
        config.depth,
        batch_size=config.batch_size,
        steps_per_call=config.steps_per_call,
    )
    shown, result = {}, claims.Result()
    for name in config.languages:
        own = cells.Cells(recipe, languages[name], out.path / name, config.num_windows)
        shown[name] = study.carry_out(_plan(config, novels=name == "written"), own)
        if name == "known":
            result += outcomes.known(shown[name], known, config.num_windows)
        else:
            result += outcomes.predicted(name, shown[name])
    out.figure("sweep", picture.isoflops(shown))
    return result


def _plan(config: Config, novels: bool) -> study.Plan:
    """What is swept for a language, with what is the novels' own."""
    return study.Plan(
        budgets=config.written_budgets if novels else config.budgets,
        widths=config.written_widths if novels else config.widths,
        min_steps=config.written_min_steps if novels else config.min_steps,
        factor=config.factor,
        distance=config.written_distance if novels else config.distance,
        tune_widths=config.tune_widths,
        tune_budgets=config.written_tune_budgets if novels else config.tune_budgets,
        rates=config.rates,
        num_seeds=config.num_seeds,
        num_resamples=config.num_resamples,
        seed=config.run.seed,
    )
