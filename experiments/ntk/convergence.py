"""How fast do the kernels of finite networks approach the infinitely wide one's?

Claim: the relative distance of one random network's tangent kernel to the infinite one falls as
width^(-1/2), slope within 0.15, for dense networks of ReLU and of erf and for a convolutional one
with average pooling (the rate of the central limit theorem; Jacot et al. 2018, arXiv:1806.07572,
Theorem 1, gives the limit); the mean over draws of the widest lies within its noise of it.
Cost: 1 minute on 2 CPU cores.
    python -m experiments ntk.convergence

NTK parameterisation, 8 x 8 digits. The mean over draws comes closer than any single one: what is
left of it is the bias, of order 1/width, and the noise of the mean.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ntk import _by_width, _networks
from library import claims, figure_style, plots, report
from library.types import Array, Key
from research import ntk
from research.ntk import layers

RATE = -0.5
NOISE = claims.theorem(
    "the mean of R draws lies a root mean square of 1 / sqrt(R) of one draw's away"
)
LIMIT = claims.theorem(
    "central limit theorem over units; Jacot et al. 2018, arXiv:1806.07572, Theorem 1"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks, how wide, and how many draws of each."""

    dense_widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # units of a hidden layer
    conv_widths: tuple[int, ...] = (16, 32, 64, 128, 256)  # channels of a convolution
    num_hidden: int = 2  # layers of either kind
    num_draws: int = 32  # random networks of every width
    num_examples: int = 8  # digits, rows of the kernel
    seed: int = 0  # of digits and networks


PRESETS = {
    "smoke": Config(
        dense_widths=(4, 8), conv_widths=(2, 4), num_hidden=1, num_draws=2, num_examples=2
    ),
    "default": Config(),
    "accelerator": Config(
        dense_widths=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
        conv_widths=(16, 32, 64, 128, 256, 512, 1024),
        num_draws=256,
        num_examples=32,
    ),
}


def dense(width: int, num_hidden: int, activation: layers.Layer) -> layers.Layer:
    """Hidden layers and one output."""
    wide, last = (layers.dense(n, weight_std=1.4, bias_std=0.2) for n in (width, 1))
    return layers.serial(layers.flatten(), *(wide, activation) * num_hidden, last)


def convolutional(width: int, num_hidden: int) -> layers.Layer:
    """Convolutions of ReLU, the average over positions, one output."""
    conv = layers.conv(width, (3, 3), padding="SAME", weight_std=1.4, bias_std=0.2)
    last = layers.dense(1, weight_std=1.4, bias_std=0.2)
    hidden = (conv, layers.relu()) * num_hidden
    return layers.serial(*hidden, layers.global_average_pool(), last)


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Measures the distance of every draw, fits the rates and draws them."""
    x = jnp.asarray(_networks.read_digits("train", config.num_examples, config.seed).x)
    depth = config.num_hidden
    families = {
        "ReLU": (lambda width: dense(width, depth, layers.relu()), config.dense_widths),
        "erf": (lambda width: dense(width, depth, layers.erf()), config.dense_widths),
        "convolutions": (lambda width: convolutional(width, depth), config.conv_widths),
    }
    metrics, stated, single, mean = {}, [], {}, {}
    for name, (make, widths) in families.items():
        exact = make(1).kernel(x, get="ntk")  # at every width the same
        found = [distances(make(width), exact, x, config) for width in widths]
        single[name], mean[name] = np.array(found).T
        slope, _, deviation = plots.power_law(widths, single[name])
        metrics |= {f"{name}_slope": slope, f"{name}_slope_error": deviation}
        metrics[f"{name}_mean_slope"] = plots.power_law(widths, mean[name])[0]
        metrics[f"{name}_error_widest"] = single[name][-1]
        noise = single[name][-1] / math.sqrt(config.num_draws)
        metrics[f"{name}_mean_over_noise"] = mean[name][-1] / noise
        what = f"{name}: mean of the widest draws to the infinite kernel / its noise"
        stated += [
            claims.within(f"{name}: slope", slope, RATE, 0.15, source=LIMIT),
            claims.at_most(what, mean[name][-1] / noise, 3.0, source=NOISE),
        ]
    _draw(config, out, single, mean)
    return claims.Result(metrics, stated)


def distances(net: layers.Layer, exact: Array, x: Array, config: Config) -> tuple[float, float]:
    """Root mean square distance of a draw, and distance of the mean of draws, relative."""

    @jax.jit
    def sample(rng: Key) -> Array:
        return ntk.empirical(
            net.apply, net.init(rng, x.shape[1:]), x, outputs="trace", method="structured"
        )

    rngs = jax.random.split(jax.random.key(config.seed + 1), config.num_draws)
    draws = np.array([sample(rng) for rng in rngs], np.float64)  # [R, N, N]
    off = (draws - np.asarray(exact, np.float64)) / np.linalg.norm(exact)
    return math.sqrt(np.sum(off**2) / len(off)), float(np.linalg.norm(off.mean(0)))


def _draw(config: Config, out: report.RunDir, single: dict, mean: dict) -> None:
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    dense = {name: single[name] for name in ("ReLU", "erf")}
    _by_width.power_laws(left, config.dense_widths, dense, RATE)
    title = "Distance to the infinite kernel, one network"
    figure_style.style(left, title, "hidden units", "relative distance (Frobenius)")
    conv = {"one network": single["convolutions"]}
    conv[f"mean of {config.num_draws}"] = mean["convolutions"]
    _by_width.power_laws(right, config.conv_widths, conv, RATE)
    figure_style.style(right, "Convolutions and average pooling", "channels", "")
    out.figure("convergence", figure)
