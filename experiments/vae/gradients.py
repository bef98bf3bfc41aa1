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
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from library import claims, figure_style, plots, report
from library.types import Array, Key
from research.vae import bounds, gaussians, gradients

CLOSED = claims.theorem("moments of a normal variable: 4, mu^4 + 14 mu^2 + 15, 8 mu^2 + 10")
SIGNAL = claims.paper("Rainforth et al. 2018, arXiv:1802.04537, theorem 1")
DOUBLE = claims.paper("Tucker et al. 2018, arXiv:1810.04152, section 6.1")
VARIANCES = {
    "path": lambda mu: 4.0 + 0 * mu,
    "score function": lambda mu: mu**4 + 14 * mu**2 + 15,
    "score, baseline": lambda mu: 8 * mu**2 + 10,
}


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
    "smoke": Config(means=(1.0,), num_variance=2000, max_draws=16, num_gradients=20, dim=2),
    "default": Config(),
    "accelerator": Config(num_variance=100_000_000, max_draws=8192, num_gradients=200_000),
}


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Variances beside their closed forms, and the slopes of signal-to-noise."""
    figure, (left, right) = figure_style.row(2, width=1.56 * figure_style.WIDTH)
    result = _variances(config, left) + _signals(config, right)
    out.figure("gradients", figure)
    return result


def _variances(config: Config, axes) -> claims.Result:
    rng = jax.random.key(config.seed)
    found = {
        mean: spread(jax.random.fold_in(rng, index), mean, config.num_variance)
        for index, mean in enumerate(config.means)
    }
    line = np.linspace(min(config.means), max(config.means), 50)
    metrics, stated = {}, []
    for colour, (name, exact) in zip(figure_style.PALETTE, VARIANCES.items(), strict=False):
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
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 1)
    figure_style.style(axes, "Gradient of E z^2, one draw", "mean of z", "variance")
    return claims.Result(metrics, stated)


def spread(rng: Key, mean: float, num: int) -> dict[str, float]:
    """Variance over draws of each estimator of d/dmean E z^2, z ~ N(mean, 1)."""

    def one(estimate, key: Key) -> Array:
        return jax.grad(lambda mu: estimate(mu, key))(jnp.float32(mean))

    def by_path(mu: Array, key: Key) -> Array:
        return gradients.pathwise(jnp.square, key, mu, jnp.zeros(()))[0]

    def by_score(mu: Array, key: Key, baseline: float = 0.0) -> Array:
        z = jax.lax.stop_gradient(gaussians.sample(key, mu, jnp.zeros(()), (1,)))
        return gradients.score_function(z**2, gaussians.log_prob(z, mu), baseline)[0]

    estimates = (by_path, by_score, functools.partial(by_score, baseline=mean**2 + 1))
    keys = jax.random.split(rng, num)
    many = lambda estimate: jax.jit(jax.vmap(functools.partial(one, estimate)))(keys)
    return {
        name: float(np.asarray(many(estimate), np.float64).var())
        for name, estimate in zip(VARIANCES, estimates, strict=True)
    }


def _signals(config: Config, axes) -> claims.Result:
    counts = 2 ** np.arange(int(math.log2(config.max_draws)) + 1)
    rng = jax.random.key(config.seed + 1)
    ratios = [
        signal_to_noise(rng, int(count), config.num_gradients, config.dim, config.shift)
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
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=figure_style.FONT_SIZE - 1, loc="upper left")
    title = "Gradients of the importance weighted bound"
    figure_style.style(axes, title, "draws K", "signal-to-noise")
    return claims.Result(metrics, stated)


def signal_to_noise(rng: Key, count: int, num: int, dim: int, shift: float) -> dict[str, float]:
    """Of gradients of the bound of `count` draws: for mu, for b, and for b by `DReG`."""
    move, data, draws = jax.random.split(rng, 3)
    mu, b = shift * jax.random.normal(move, (2, dim))
    x = jax.random.normal(data, (1, dim)) * math.sqrt(2.0)  # of the marginal at mu = 0

    def estimates(key: Key) -> Array:  # [3, dim]
        def laws(mu: Array, b: Array):
            log_joint = lambda z: (
                gaussians.log_prob(z, mu[None, None]) + gaussians.log_prob(z, x[None])
            ).sum(-1)
            log_q = lambda b, z: gaussians.log_prob(
                z, (x / 2 + b[None])[None], math.log(2 / 3)
            ).sum(-1)
            z = gaussians.sample(key, x / 2 + b[None], jnp.float32(math.log(2 / 3)), (count,))
            return log_joint, log_q, z

        def plain(mu: Array, b: Array) -> Array:
            log_joint, log_q, z = laws(mu, b)
            return bounds.iwae(log_joint(z) - log_q(b, z))[0]

        def double(b: Array) -> Array:
            log_joint, log_q, z = laws(mu, b)
            return gradients.doubly_reparameterized(log_joint, log_q, b, z)[0]

        return jnp.stack([*jax.grad(plain, (0, 1))(mu, b), jax.grad(double)(b)])

    keys = jax.random.split(draws, num)
    batch = max(1, min(num, 100_000 // (count * dim)))
    found = jax.jit(lambda keys: jax.lax.map(estimates, keys, batch_size=batch))(keys)
    found = np.asarray(found, np.float64)  # [num, 3, dim]
    variance = found.var(0, ddof=1)
    signal = np.square(found.mean(0)) - variance / num  # without the bias of the finite sample
    ratio = np.sqrt(np.maximum((signal / variance).mean(-1), 0))
    return dict(zip(("mu", "b", "double"), ratio.tolist(), strict=True))
