"""Does a law fitted to small runs of our GPT predict a run of eight times their compute?

Claims: written down before it starts, the 95 % interval holds the loss of the larger run, on a
language of known entropy and on English novels; the interval of the fitted E holds that entropy.
Cost: 25 minutes on one CPU core.
    python -m experiments scaling_laws.sweep

For each language: learning rates are tuned on small runs and a rule in the tokens is fitted (muP
carries it over widths); budgets of compute are spent on models of several widths; Chinchilla's law
is fitted, the optimal size for the large budget read off it, and its loss predicted. The prediction
goes to `LANGUAGE/prediction.json` with time and digest; the large run carries the digest, and a
prediction that is younger than the run or was altered is refused.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.scaling_laws import _figures, _gpt, _isoflop, _languages
from library import claims, report

BIAS = claims.paper("entropy of the source, a sum over its table")
SEALED = claims.baseline("predicted before the run, 95 % interval")


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
    seed: int = 3  # of parameters, order and table


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
    known = _languages.Known(config.vocab_size, config.length, config.seed)
    written = _languages.Written(config.text, config.vocab_size, config.length)
    languages = {"known": known, "written": written}
    unknown = [name for name in config.languages if name not in languages]
    if unknown or not config.languages:
        raise ValueError(f"languages={config.languages}: expected some of {', '.join(languages)}")
    metrics, stated, shown = {}, [], {}
    recipe = _gpt.Recipe(
        config.vocab_size,
        config.length,
        config.depth,
        batch_size=config.batch_size,
        steps_per_call=config.steps_per_call,
    )
    for name in config.languages:
        plan = config if name == "known" else _of_novels(config)
        result = _isoflop.Study(plan, recipe, languages[name], out.path / name).carry_out()
        metrics |= {f"{name}_{key}": value for key, value in _numbers(result).items()}
        stated += [
            claims.at_least(f"{name}: larger run above the lower end", result.measured, float(result.forecast.low[0]), source=SEALED),
            claims.at_most(f"{name}: larger run below the upper end", result.measured, float(result.forecast.high[0]), source=SEALED),
        ]  # fmt: skip
        shown[name] = result
    if "known" in shown:
        low, high = _with_noise(shown["known"], known, config.num_windows)
        metrics |= {"known_entropy": known.entropy(), "known_E_low": low, "known_E_high": high}
        stated += [
            claims.at_most("known: lower end of E", low, known.entropy(), source=BIAS),
            claims.at_least("known: upper end of E", high, known.entropy(), source=BIAS),
        ]
    out.figure("sweep", _figures.isoflops(shown))
    return claims.Result(metrics, stated)


def _of_novels(config: Config) -> Config:
    """The config with what is the novels' own."""
    return dataclasses.replace(
        config,
        budgets=config.written_budgets,
        widths=config.written_widths,
        distance=config.written_distance,
        tune_budgets=config.written_tune_budgets,
        min_steps=config.written_min_steps,
    )


def _numbers(result: _isoflop.Outcome) -> dict[str, float]:
    forecast = result.forecast
    intervals = {}
    for key, (low, high) in forecast.parameters.items():
        intervals |= {f"{key}_low": low, f"{key}_high": high}
    return {
        **forecast.boot.fit.parameters,
        **intervals,
        "predicted": float(forecast.predicted[0]),
        "predicted_low": float(forecast.low[0]),
        "predicted_high": float(forecast.high[0]),
        "measured": result.measured,
        "relative_error": result.measured / float(forecast.predicted[0]) - 1,
        "inflation": forecast.inflation,
        "residual": forecast.residual,
        "seed_noise": result.noise,
        "num_runs": len(result.data),
        "large_width": result.target["width"],
        "large_tokens": result.target["tokens"],
        "sealed_seconds_before": result.lead,
        "rate_constant": result.rule["c"],
        "rate_tokens_exponent": result.rule["q"],
        "noise_scale_tokens": result.noise_scale[0],
        "noise_scale_error": result.noise_scale[1],
    }


def _with_noise(
    result: _isoflop.Outcome, language: _languages.Known, num_windows: int
) -> tuple[float, float]:
    """The interval of E, with the noise of the finite held-out set, which all runs share."""
    windows = language.held_out(num_windows)
    error = language.source.log_prob(windows).mean(1).std() / num_windows**0.5
    low, high = result.forecast.parameters["E"]
    point = result.forecast.boot.fit.parameters["E"]
    reach = 1.96 * error
    return point - np.hypot(point - low, reach), point + np.hypot(high - point, reach)
