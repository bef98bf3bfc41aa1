"""How noisy are estimators of the same gradient, and do more draws help?

Claims: variances at f(z) = z^2, mean 1 are 4 for the path, 30 for the score function and 18 with
the mean as baseline, within 3 %; with K draws of the importance weighted bound the signal-to-noise
of the generative network's gradient rises as K^(1/2), that of the inference network's falls as
K^(-1/2) (Rainforth et al. 2018, arXiv:1802.04537), and rises again by double reparameterisation
(Tucker et al. 2018, arXiv:1810.04152).
Cost: 2 minutes on 2 CPU cores.
    python -m experiments vae.gradients

The model of Rainforth et al., section 4: z ~ N(mu, I), x ~ N(z, I), q = N(x / 2 + b, 2/3 I), at
mu and b that are moved from their optimum. Signal-to-noise is the root of the mean over parameters
of (expected gradient / standard deviation)^2, without the bias of the finite sample. The rates are
those of K above the chi^2 of the weights, which is e^1.2 - 1 here: so ten dimensions, not twenty.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from experiments.vae import _estimators
from library import checks, claims, figure_style, plots, report

CLOSED = claims.theorem("moments of a normal variable: 4, mu^4 + 14 mu^2 + 15, 8 mu^2 + 10")
SIGNAL = claims.paper("Rainforth et al. 2018, arXiv:1802.04537, theorem 1")
DOUBLE = claims.paper("Tucker et al. 2018, arXiv:1810.04152, section 6.1")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the two experiments."""

    means: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)  # of z in f(z) = z^2
    num_variance: int = 1_000_000  # draws behind a variance
    max_draws: int = 256  # K of the bound, a power of two
    num_gradients: int = 20_000  # gradients behind a signal-to-noise ratio
    dim: int = 10  # of x and z
    shift: float = 0.2  # spread of mu and b around their optimum
    seed: int = 0  # of all draws


PRESETS = {
    "smoke": Config(means=(1.0,), num_variance=2000, max_draws=16, num_gradients=200, dim=2),
    "default": Config(),
    "accelerator": Config(num_variance=100_000_000, max_draws=8192, num_gradients=200_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Variances beside their closed forms, and the slopes of signal-to-noise."""
    _check(config)
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    result = _variances(config, left) + _signals(config, right)
    out.figure("gradients", figure)
    return result


def _variances(config: Config, axes) -> claims.Result:
    rng = jax.random.key(config.seed)
    found = {
        mean: _estimators.spread(jax.random.fold_in(rng, index), mean, config.num_variance)
        for index, mean in enumerate(config.means)
    }
    line = np.linspace(min(config.means), max(config.means), 50)
    metrics, stated = {}, []
    for colour, name in zip(figure_style.PALETTE, _estimators.VARIANCES, strict=False):
        exact = _estimators.VARIANCES[name]
        values = [found[mean][name] for mean in config.means]
        axes.plot(line, exact(line), color=colour, linewidth=1.5, label=name)
        axes.plot(config.means, values, "o", color=colour, mec="white", markersize=6)
        if 1.0 in found:
            metrics[f"variance_{name}"] = found[1.0][name]
            ratio = found[1.0][name] / exact(1.0)
            stated.append(
                claims.within(f"variance / {exact(1.0):g}: {name}", ratio, 1.0, 0.03, CLOSED)
            )
    axes.set(yscale="log")
    figure_style.legend(axes)
    figure_style.style(axes, "Gradient of E z^2, one draw", "mean of z", "variance")
    return claims.Result(metrics, stated)


def _signals(config: Config, axes) -> claims.Result:
    counts = 2 ** np.arange(int(math.log2(config.max_draws)) + 1)
    rng = jax.random.key(config.seed + 1)
    ratios = [
        _estimators.signal_to_noise(rng, int(count), config.num_gradients, config.dim, config.shift)
        for count in counts
    ]
    claimed = {
        "generative": ("mu", 0.5, SIGNAL),
        "inference": ("b", -0.5, SIGNAL),
        "inference, doubly reparameterised": ("double", 0.5, DOUBLE),
    }
    metrics, stated = {}, []
    for colour, (name, (key, slope, source)) in zip(
        figure_style.PALETTE, claimed.items(), strict=False
    ):
        values = np.array([ratio[key] for ratio in ratios])
        tail = counts >= min(8, counts[-2])
        fitted, _, error = plots.power_law(counts[tail], np.maximum(values[tail], 1e-6))
        metrics |= {f"slope_{key}": fitted, f"slope_error_{key}": error}
        what = f"{name}: slope of signal-to-noise in K"
        stated.append(claims.within(what, fitted, slope, 0.1, source))
        axes.plot(counts, values, "o-", color=colour, markersize=4, label=name)
        guide = values[-1] * (counts / counts[-1]) ** slope
        axes.plot(counts, guide, "--", color=colour, linewidth=1)
    axes.plot([], [], "--", color=figure_style.FAINT, linewidth=1, label="slopes 1/2 and -1/2")
    axes.set(xscale="log", yscale="log")
    axes.set_ylim(top=20 * axes.get_ylim()[1])  # room for the legend
    figure_style.legend(axes, loc="upper left")
    title = "Gradients of the importance weighted bound"
    figure_style.style(axes, title, "draws K", "signal-to-noise")
    return claims.Result(metrics, stated)


def _check(config: Config) -> None:
    if not config.means:
        raise ValueError("means=(): expected one or more")
    if config.max_draws < 4 or config.max_draws & (config.max_draws - 1):
        raise ValueError(f"max_draws={config.max_draws}: expected a power of two >= 4")
    for name in ("num_variance", "num_gradients"):
        checks.count(name, getattr(config, name), least=2, of="draws")
