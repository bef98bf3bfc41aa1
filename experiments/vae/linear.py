"""Where do the bound, its gap and the collapse of latents lie, where all of it is known?

Claims: linear beta-VAEs trained on the spectrum of 8x8 digits reach rate and distortion of reverse
water-filling within 1e-3, and use exactly the latents whose eigenvalue exceeds beta sigma^2; the
bound plus its divergence is the evidence; the gap of the importance weighted bound falls as 1/K
for a wide proposal, slower for one of less than half the variance, which is diagnosed.
Cost: 1 minute on 2 CPU cores.
    python -m experiments vae.linear

Encoder, decoder and variances are trained from random starts on the exact objective, the one of
`research.vae.linear.rate_distortion`; noise sigma^2 and the spectrum are those of the digits.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.vae import _spectrum
from library import claims, figure_style, plots, report, training
from library.data.sets import digits
from research.vae import gaussians

WATER = claims.theorem("reverse water-filling at beta sigma^2, research.vae.linear")
IDENTITY = claims.theorem("ELBO + KL(q, posterior) = log p, Kingma and Welling 2014, eq. (1)")
RATE = claims.theorem("delta method: gap = chi^2 / 2K; Domke and Sheldon 2018, arXiv:1808.09034")
INFINITE = claims.theorem("chi^2 of a Gaussian is infinite at half of its variance and below")


@dataclasses.dataclass(frozen=True)
class Config:
    """The beta-VAEs, their training, and the proposals of the bound."""

    num_active: tuple[int, ...] = (2, 5, 10, 20, 40)  # beta lies between these eigenvalues
    num_steps: int = 30_000  # updates of all beta-VAEs together
    learning_rate: float = 0.01  # peak of the warm-up and cosine schedule
    proposals: tuple[float, ...] = (2.0, 1.5, 0.4)  # variances over the posterior's
    max_samples: int = 1024  # K of the bound, a power of two
    num_bounds: int = 200_000  # draws of the bound at K = 1; each K has max_samples / K of it less
    seed: int = 0  # of starts and draws


PRESETS = {
    "smoke": Config(num_active=(2, 5), num_steps=4, max_samples=128, num_bounds=500),
    "default": Config(),
    "accelerator": Config(num_steps=100_000, num_bounds=5_000_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Trains the beta-VAEs, checks the identity, measures the gaps, draws both."""
    _check(config)
    x = _spectrum.centred(digits.arrays("train")["image"])
    eigenvalues = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    result = _water(config, x, eigenvalues, left)
    off = _spectrum.identity(x, 10, config.seed)
    result += claims.Result(
        {}, [claims.largest("ELBO + KL - log p, relative", off, 1e-5, IDENTITY)]
    )
    result += _gaps(config, right)
    out.figure("linear", figure)
    return result


def _water(config: Config, x: np.ndarray, eigenvalues: np.ndarray, axes) -> claims.Result:
    """Rate and distortion of trained beta-VAEs on the curve."""
    levels = _spectrum.levels(eigenvalues, config.num_active)
    noise = float(np.exp(np.log(levels).mean()))  # so that the betas lie around 1
    trained = _spectrum.train(
        x.T @ x / len(x), levels / noise, noise,
        optimizer=training.warmup_cosine(
            config.learning_rate, config.num_steps, min(500, config.num_steps - 1)
        ),
        num_steps=config.num_steps, rng=jax.random.key(config.seed),
    )  # fmt: skip
    exact = _spectrum.water_filling(eigenvalues, levels)
    metrics, stated = {}, []
    for index, count in enumerate(config.num_active):
        name = f"{count} of {len(eigenvalues)} latents"
        rate, distortion = float(trained.rate[index]), float(trained.distortion[index])
        metrics |= {f"beta_{count}": levels[index] / noise, f"rate_{count}": rate}
        metrics |= {f"distortion_{count}": distortion}
        rate /= float(exact.rate[index])
        distortion /= float(exact.distortion[index])
        active = int(trained.num_active[index]), int(exact.num_active[index])
        stated += [
            claims.within(f"{name}: rate / water-filling's", rate, 1.0, 1e-3, WATER),
            claims.within(f"{name}: distortion / water-filling's", distortion, 1.0, 1e-3, WATER),
            claims.exactly(f"{name}: active ones", *active, WATER),
        ]
    line = _spectrum.water_filling(eigenvalues, np.geomspace(levels.min() / 3, eigenvalues[0], 200))
    axes.plot(line.rate, line.distortion, color=figure_style.FAINT, label="water-filling")
    axes.plot(trained.rate, trained.distortion, "o", color=figure_style.PALETTE[0], mec="white",
              markersize=7, label="trained linear beta-VAE")  # fmt: skip
    axes.set(yscale="log")
    axes.minorticks_off()
    axes.set_yticks((2, 5, 10, 20, 50), ("2", "5", "10", "20", "50"))
    figure_style.legend(axes)
    figure_style.style(axes, "Digits: distortion by rate", "rate, nats", "mean square error")
    return claims.Result(metrics, stated)


def _gaps(config: Config, axes) -> claims.Result:
    """The gap of the bound by K, for proposals of several variances."""
    counts = 2 ** np.arange(int(math.log2(config.max_samples)) + 1)
    metrics, stated = {}, []
    for colour, variance in zip(figure_style.PALETTE, config.proposals, strict=False):
        gaps, diagnosis = _spectrum.gaps(
            variance, counts, config.num_bounds, jax.random.key(config.seed)
        )
        tail = counts >= 8
        slope, _, error = plots.power_law(counts[tail], np.maximum(gaps[tail], 1e-12))
        name = f"proposal of {variance:g} times the variance"
        metrics |= {f"slope_{variance:g}": slope, f"slope_error_{variance:g}": error}
        metrics |= {f"gap_1_{variance:g}": gaps[0]}
        chi_square = float(jnp.expm1(gaussians.log_chi_square(0.0, math.log(variance))))
        axes.plot(counts, gaps, "o-", color=colour, markersize=4, label=f"variance {variance:g}")
        found = int(diagnosis.finite_variance[0])
        if math.isfinite(chi_square):
            axes.plot(counts, chi_square / (2 * counts), "--", color=colour, linewidth=1)
            stated.append(claims.within(f"{name}: slope of the gap in K", slope, -1.0, 0.1, RATE))
            exact = 0.5 * (variance - 1 - math.log(variance))
            stated.append(
                claims.within(f"{name}: gap at K = 1 / exact", gaps[0] / exact, 1.0, 0.02, IDENTITY)
            )
        else:
            stated.append(claims.above(f"{name}: slope of the gap in K", slope, -0.9, INFINITE))
        what = f"{name}: weights diagnosed of finite variance"
        stated.append(claims.exactly(what, found, int(math.isfinite(chi_square)), INFINITE))
    axes.plot([], [], "--", color=figure_style.FAINT, linewidth=1, label="chi^2 / 2K")
    axes.set(xscale="log", yscale="log")
    figure_style.legend(axes)
    title = "Gap of the importance weighted bound"
    figure_style.style(axes, title, "draws K", "log p - bound, nats")
    return claims.Result(metrics, stated)


def _check(config: Config) -> None:
    if not 1 <= len(config.proposals) <= len(figure_style.PALETTE) or min(config.proposals) <= 0:
        raise ValueError(f"proposals={config.proposals}: expected one to six positive variances")
    if config.max_samples < 128 or config.max_samples & (config.max_samples - 1):
        raise ValueError(f"max_samples={config.max_samples}: expected a power of two >= 128")
