"""Does the pipeline recover the exponents of models that can be solved?

Claim: Zipf, quanta, kernel and gradient-flow exponents within 2 % of their exact finite-size
values; random-feature exponents, averages over draws, within 5 % of the theorem's.
Cost: 2 minutes on 2 CPU cores.
    python -m experiments scaling_laws.solvable

Exact losses of `research.scaling_laws.solvable` over a finite range of sizes, fitted by the
library's own power-law fits. Expected are values worked out independently over the same range;
they differ from the asymptotic exponents by up to 4 %.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.scaling_laws.solvable import exponents
from experiments.scaling_laws.solvable.exponents import Exponent
from library import claims, figure_style, report


@dataclasses.dataclass(frozen=True)
class Config:
    """Ranges and truncations."""

    num_features: int = 10_000_000  # symbols of the Zipf law
    num_quanta: int = 1_000_000  # kinds of quanta; the exact value is of as many
    num_modes: int = 1_000_000  # of kernels and linear models
    num_points: int = 13  # sizes over each range
    num_draws: int = 5  # of the random features
    num_latent: int = 8000  # modes of their latent spectrum
    num_wide: int = 4000  # features (or samples) where the samples (or features) are varied
    seed: int = 0  # of the random features


PRESETS = {
    "smoke": Config(
        num_features=10_000,
        num_quanta=10_000,
        num_modes=10_000,
        num_points=3,
        num_draws=1,
        num_latent=500,
        num_wide=250,
    ),
    "default": Config(),
    "accelerator": Config(num_points=25, num_draws=20),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Each model's exponents beside their exact values."""
    points = config.num_points
    found = [
        *exponents.zipf(config.num_features, points),
        *exponents.quanta(config.num_quanta, points),
        *exponents.kernel(config.num_modes, points),
        *exponents.flow(config.num_modes, points),
        *exponents.random_features(
            config.num_draws, config.num_latent, config.num_wide, config.seed
        ),
    ]
    out.figure("exponents", _figure(found))
    metrics = {each.name: each.measured for each in found}
    return claims.Result(metrics, [each.claim() for each in found])


def _figure(found: Sequence[Exponent]) -> Figure:
    figure, place = figure_style.single(
        "Recovered exponents of solvable models", "exact", "recovered / exact"
    )
    kinds: dict[str, list[Exponent]] = {}
    for each in found:
        kinds.setdefault(each.name.split()[0].rstrip(":"), []).append(each)
    for colour, (kind, members) in zip(figure_style.PALETTE, kinds.items()):
        exact = np.array([each.expected for each in members])
        ratio = np.array([each.measured for each in members]) / exact
        place.plot(exact, ratio, "o", color=colour, label=kind)
    place.axhspan(0.98, 1.02, color=figure_style.GRID, zorder=0)
    figure_style.legend(place)
    return figure
