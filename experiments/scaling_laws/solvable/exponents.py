"""Exponents that the library's fits recover from exact losses, beside those worked out."""

from __future__ import annotations

import dataclasses

import numpy as np

from library import claims
from research.scaling_laws import frontiers, solvable

ZIPF = {0.4: (0.2897, 0.4071), 0.5: (0.3346, 0.5033), 1.0: (0.4996, 0.9999)}
KERNEL = {(1.5, 1.5): 0.5043, (2, 1.8): 0.7965, (2, 2): 0.9948, (1.5, 3): 1.9913, (1.2, 6): 2.4276}
FLOW = {(1.5, 1.5): (0.3355, 0.2010, 0.402), (2, 1.8): (0.4000, 0.2659, 0.336)}
QUANTA = (0.4191, 0.1745)
MALONEY = claims.theorem("Maloney, Roberts and Sully 2022, arXiv:2210.16859")
EXACT = claims.theorem("exact value over the same range, worked out independently")


@dataclasses.dataclass(frozen=True)
class Exponent:
    """A recovered exponent and the one that is expected, to within a relative slack."""

    name: str
    measured: float
    expected: float
    slack: float = 0.02
    source: claims.Source = EXACT

    def claim(self) -> claims.Claim:
        """That the two agree."""
        tolerance = self.slack * self.expected
        return claims.within(self.name, self.measured, self.expected, tolerance, self.source)


def zipf(num_features: int, num_points: int) -> list[Exponent]:
    """Of memorised symbols, by tokens and by size."""
    tokens = np.geomspace(1e2, 1e5, num_points)
    sizes = np.geomspace(30, 3000, num_points).round()
    found = []
    for a, (by_tokens, by_size) in ZIPF.items():
        p = solvable.zipf(a, num_features)
        seen = solvable.memorisation_by_tokens(p, tokens)
        kept = solvable.memorisation_by_size(p, sizes)
        found.append(Exponent(f"Zipf {a}: D", _slope(tokens, seen), by_tokens))
        found.append(Exponent(f"Zipf {a}: N", _slope(sizes, kept), by_size))
    return found


def quanta(num_quanta: int, num_points: int) -> list[Exponent]:
    """Of the optimal size and its loss, by compute."""
    flops = np.geomspace(1e4, 1e9, num_points)
    sizes, losses = solvable.quanta_frontier(solvable.zipf(0.4, num_quanta), flops)
    by_size, by_loss = QUANTA
    return [
        Exponent("quanta: N", _slope(flops, sizes), by_size),
        Exponent("quanta: L", _slope(flops, losses), by_loss),
    ]


def kernel(num_modes: int, num_points: int) -> list[Exponent]:
    """Of kernel regression, by samples."""
    samples, found = np.geomspace(30, 3000, num_points), []
    for (b, t), expected in KERNEL.items():
        errors = solvable.kernel_regression(b, t, samples, num_modes)
        found.append(Exponent(f"kernel {b}, {t}", _slope(samples, errors), expected))
    return found


def flow(num_modes: int, num_points: int) -> list[Exponent]:
    """Of gradient flow, by time and by compute."""
    times, flops = np.geomspace(1e2, 1e5, num_points), np.geomspace(1e4, 1e7, num_points)
    found = []
    for (b, t), (by_time, by_compute, size) in FLOW.items():
        losses = solvable.gradient_flow(b, t, times, num_modes=num_modes)
        sizes, best = solvable.gradient_flow_frontier(b, t, flops, num_modes // 10)
        found.append(Exponent(f"flow {b}, {t}: time", _slope(times, losses), by_time))
        found.append(Exponent(f"flow {b}, {t}: L(C)", _slope(flops, best), by_compute))
        found.append(Exponent(f"flow {b}, {t}: N(C)", _slope(flops, sizes), size))
    return found


def random_features(num_draws: int, num_latent: int, num_wide: int, seed: int) -> list[Exponent]:
    """Both exponents at alpha = 1, where the theorem makes them equal.

    The other count must be far larger: what N features leave is noise to their fit, which T samples
    raise by (T - 1) / (T - N - 1). At T = 1000 that lowers the exponent over this range by 0.06.
    """
    rng, alpha = np.random.default_rng(seed), 1.0
    sizes = np.geomspace(16, 128, 4).astype(int)

    def mean(samples: int, features: int) -> float:
        draws = [
            solvable.random_features(alpha, samples, features, rng, num_latent)[0]
            for _ in range(num_draws)
        ]
        return float(np.exp(np.mean(np.log(draws))))

    by_samples = np.array([mean(n, num_wide) for n in sizes])
    by_features = np.array([mean(num_wide, n) for n in sizes])
    return [
        Exponent("random features: T", _slope(sizes, by_samples), alpha, 0.05, MALONEY),
        Exponent("random features: N", _slope(sizes, by_features), alpha, 0.05, MALONEY),
    ]


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return abs(frontiers.power_law(x, y).exponent)
