"""The numbers of a sweep, and what they are held against."""

from __future__ import annotations

import numpy as np

from experiments.scaling_laws import _languages
from experiments.scaling_laws.sweep.study import Outcome
from library import claims

ENTROPY = claims.theorem("entropy of the source, a sum over its table")
SEALED = claims.baseline("predicted before the run, 95 % interval")


def predicted(name: str, outcome: Outcome) -> claims.Result:
    """The large run beside the interval that was sealed before it."""
    low, high = float(outcome.forecast.low[0]), float(outcome.forecast.high[0])
    metrics = {f"{name}_{key}": value for key, value in _numbers(outcome).items()}
    what, measured = f"{name}: larger run", outcome.measured
    stated = [
        claims.at_least(f"{what} above the lower end", measured, low, source=SEALED),
        claims.at_most(f"{what} below the upper end", measured, high, source=SEALED),
    ]
    return claims.Result(metrics, stated)


def known(outcome: Outcome, language: _languages.Known, num_windows: int) -> claims.Result:
    """The same, and the interval of E, the held-out set's noise included, beside the entropy."""
    large, exact = predicted("known", outcome), language.entropy()
    low, high = _with_noise(outcome, language, num_windows)
    widened = {"known_entropy": exact, "known_E_low": low, "known_E_high": high}
    stated = [
        claims.at_most("known: lower end of E", low, exact, source=ENTROPY),
        claims.at_least("known: upper end of E", high, exact, source=ENTROPY),
    ]
    return claims.Result({**large.metrics, **widened}, [*large.claims, *stated])


def _numbers(outcome: Outcome) -> dict[str, float]:
    forecast = outcome.forecast
    intervals = {}
    for key, (low, high) in forecast.parameters.items():
        intervals |= {f"{key}_low": low, f"{key}_high": high}
    return {
        **forecast.boot.fit.parameters,
        **intervals,
        "predicted": float(forecast.predicted[0]),
        "predicted_low": float(forecast.low[0]),
        "predicted_high": float(forecast.high[0]),
        "measured": outcome.measured,
        "relative_error": outcome.measured / float(forecast.predicted[0]) - 1,
        "inflation": forecast.inflation,
        "residual": forecast.residual,
        "seed_noise": outcome.noise,
        "num_runs": len(outcome.data),
        "large_width": outcome.target["width"],
        "large_tokens": outcome.target["tokens"],
        "sealed_seconds_before": outcome.lead,
        "rate_constant": outcome.rule["c"],
        "rate_tokens_exponent": outcome.rule["q"],
        "noise_scale_tokens": outcome.noise_scale[0],
        "noise_scale_error": outcome.noise_scale[1],
    }


def _with_noise(
    outcome: Outcome, language: _languages.Known, num_windows: int
) -> tuple[float, float]:
    """The interval of E, with the noise of the finite held-out set, which all runs share."""
    windows = language.held_out(num_windows)
    error = language.source.log_prob(windows).mean(1).std() / num_windows**0.5
    low, high = outcome.forecast.parameters["E"]
    point = outcome.forecast.boot.fit.parameters["E"]
    reach = 1.96 * error
    return point - np.hypot(point - low, reach), point + np.hypot(high - point, reach)
