"""Do five small runs predict large and over-trained ones?

Claims: relative errors of 0.7103 % (1.4B parameters, 640 tokens a parameter) and 0.7320 % (6.9B) on
RedPajama; 4.30 % on C4 and 1.62 % on RefinedWeb at 6.9B (Gadre et al. 2024).
Cost: 10 seconds on 2 CPU cores.
    python -m experiments scaling_laws.overtraining

L = E + (a M^eta + b M^-eta) C^-eta with C = 6 N D and M = D / N (arXiv:2403.08540), by least
squares of the loss on four small sizes at M = 20 and the smallest at M = 320, then read elsewhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from library import claims, figure_style, report
from research.scaling_laws import fitting, laws, published
from research.scaling_laws.runs import Runs

GADRE = claims.paper("Gadre et al. 2024, arXiv:2403.08540, data and notebook")
SETS = {"C4": "c4_original", "RedPajama": "rpj", "RefinedWeb": "rw_original"}
TABLE = {
    "C4": {"E": 1.508, "a": 141.3, "b": 189.5, "eta": 0.1212},
    "RedPajama": {"E": 1.837, "a": 212.2, "b": 366.7, "eta": 0.1364},
    "RefinedWeb": {"E": 1.734, "a": 157.1, "b": 246.2, "eta": 0.1272},
}
DIGIT = {"E": 5e-4, "a": 0.05, "b": 0.05, "eta": 5e-5}  # half the last printed digit
LARGE, OVER = 6e9, (1.2e9, 2e9)  # 6.9B; the sizes around 1.4B
ERRORS = {"C4": (4.30, 0.01), "RedPajama": (0.7320, 0.0005), "RefinedWeb": (1.62, 0.01)}  # percent


@dataclasses.dataclass(frozen=True)
class Config:
    """How the runs are fitted."""

    space: str = "linear"  # residuals of the loss ("linear") or of its logarithm ("log")


PRESETS = {"smoke": Config(), "default": Config(), "accelerator": Config()}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """One fit a training set, its parameters and its errors on the runs left out."""
    metrics, stated, shown = {}, [], {}
    for name, key in SETS.items():
        runs, multiplier, fitted = published.overtraining(key)
        fit = fitting.fit(laws.overtraining, runs.take(fitted), loss="squared", space=config.space)
        predicted = fit.predict(parameters=runs.parameters, tokens=runs.tokens)
        errors = 100 * np.abs(predicted / runs.loss - 1)
        large = errors[(runs.parameters > LARGE) & (multiplier == 1)][0]
        metrics |= {f"{name}_{key}": value for key, value in fit.parameters.items()}
        metrics |= {f"{name}_large": large, f"{name}_mean": errors[~fitted].mean()}
        for part, value in TABLE[name].items():
            what, found = f"{name}: {part}", fit.parameters[part]
            stated.append(claims.within(what, found, value, DIGIT[part], source=GADRE))
        expected, digit = ERRORS[name]
        what = f"{name}: error at 6.9B, %"
        stated.append(claims.within(what, large, expected, digit, source=GADRE))
        if name == "RedPajama":
            rows = (runs.parameters > OVER[0]) & (runs.parameters < OVER[1]) & (multiplier == 32)
            metrics["RedPajama_over"] = over = errors[rows][0]
            what = "RedPajama: error at 1.4B, 640 tokens a parameter, %"
            stated.append(claims.within(what, over, 0.7103, 0.0005, source=GADRE))
        shown[name] = (runs, fitted, predicted)
    out.figure("predictions", _figure(shown))
    return claims.Result(metrics, stated)


def _figure(shown: dict[str, tuple[Runs, np.ndarray, np.ndarray]]) -> Figure:
    figure, place = figure_style.single(
        "Five small runs fitted, the rest predicted",
        "measured loss, nats per token",
        "predicted / measured",
    )
    place.axhline(1.0, color=figure_style.FAINT, linewidth=1)
    for index, (name, (runs, fitted, predicted)) in enumerate(shown.items()):
        colour, ratio = figure_style.PALETTE[index], predicted / runs.loss
        place.plot(
            runs.loss[~fitted], ratio[~fitted], "o", color=colour, markersize=3.5, label=name
        )
        hollow = {"markersize": 7, "markerfacecolor": "none"}
        place.plot(runs.loss[fitted], ratio[fitted], "s", color=colour, **hollow)
    figure_style.legend(place)
    return figure
