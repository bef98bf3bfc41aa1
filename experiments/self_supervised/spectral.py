"""Which losses of two views find the top eigenspace of the augmentations?

Claims: the spectral loss's minimum is minus the sum of the squares of the largest eigenvalues, and
its features span their eigenvectors; InfoNCE with free scores finds log p(x, y) / p(x) p(y) and
minus the mutual information; Barlow Twins, with weight 1, spans the eigenvectors but the constant.
Cost: 30 seconds on 2 CPU cores.
    python -m experiments self_supervised.spectral

A random graph of states in four clusters (HaoChen et al. 2021, arXiv:2106.04156), on which every
loss is that of the population and every feature is free: what is left is the loss itself. In
float64, by L-BFGS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from library import claims, figure_style, report
from library.types import Array
from research.self_supervised import graphs

MINIMUM = claims.theorem("minus the squares of the k largest eigenvalues, HaoChen et al. 2021")
SPAN = claims.theorem("the eigenvectors of the k largest eigenvalues, HaoChen et al. 2021")
RATIO = claims.theorem("-E log p(x, y) / p(x) p(y), van den Oord et al. 2018, arXiv:1807.03748")
CENTRED = claims.bar("the span of the largest eigenvectors but the constant one")


@dataclasses.dataclass(frozen=True)
class Config:
    """The graph and the widths of the features."""

    num_states: int = 40  # of the graph
    num_clusters: int = 4  # that the states lie in
    dims: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)  # widths of the features
    temperature: float = 0.5  # of SimCLR's loss
    num_steps: int = 5000  # of L-BFGS, at most
    seed: int = 0  # of graph and start


PRESETS = {
    "smoke": Config(num_states=6, num_clusters=2, dims=(2,), num_steps=3),
    "default": Config(),
    "accelerator": Config(num_states=100, dims=(2, 4, 8, 16)),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """An optimum.

    Attributes:
        value: of the loss.
        rank: directions that the features fill, once they are centred if `centred`.
        angle: largest principal angle, radians, to as many eigenvectors from the top.
    """

    value: float
    rank: int
    angle: float


def run(config: Config, out: report.RunDir) -> claims.Result:
    """Minimises every loss for every width, and compares what they span."""
    with jax.enable_x64(True):
        graph = graphs.random(jax.random.key(config.seed), config.num_states, config.num_clusters)
        found = {
            name: [_optimum(graph, loss, centred, dim, config) for dim in config.dims]
            for name, (loss, centred) in losses(graph, config.temperature).items()
        }
        minima = [graphs.spectral_minimum(graph, dim) for dim in config.dims]
        scores, value = minimise(
            lambda scores: graphs.info_nce(graph, scores), 2 * (config.num_states,), config
        )
        ratio = np.asarray(graphs.log_ratio(graph))
        information = float((graph * ratio).sum())
    out.figure("spectral", _draw(config.dims, found))
    off = [one.value - best for one, best in zip(found["spectral"], minima)]
    apart = (scores - ratio) - (scores - ratio).mean(1, keepdims=True)
    widest = {name: max(one.angle for one in each) for name, each in found.items()}
    stated = [
        claims.largest("spectral loss above its minimum, largest", off, 1e-6, MINIMUM),
        claims.at_most("spectral loss: angle to the eigenspace", widest["spectral"], 1e-3, SPAN),
        claims.within("InfoNCE, free scores: minimum", value, -information, 1e-6, RATIO),
        claims.largest("its scores less the log ratio, but for x", apart.ravel(), 1e-4, RATIO),
        claims.at_most("Barlow Twins, weight 1: angle", widest["barlow 1"], 1e-3, CENTRED),
    ]
    metrics = {f"{name}_angle": angle for name, angle in widest.items()}
    metrics |= {f"{name}_rank_{dim}": float(one.rank) for name, each in found.items()
                for dim, one in zip(config.dims, each)}  # fmt: skip
    return claims.Result(metrics, stated)


def losses(graph: Array, temperature: float) -> dict[str, tuple[Callable, bool]]:
    """Losses of features [N, k], and whether the constant direction is taken out of them."""

    def simclr(features: Array) -> Array:
        z = features / jnp.linalg.norm(features, axis=1, keepdims=True)
        return graphs.info_nce(graph, z @ z.T / temperature)

    return {
        "spectral": (lambda f: graphs.spectral(graph, f), False),
        "barlow 1": (lambda f: graphs.barlow_twins(graph, f, 1.0), True),
        "barlow 0.005": (lambda f: graphs.barlow_twins(graph, f), True),
        "vicreg": (lambda f: graphs.vicreg(graph, f), True),
        "simclr": (simclr, True),
    }


def minimise(loss: Callable, shape: tuple[int, ...], config: Config) -> tuple[np.ndarray, float]:
    """An array of a shape where the loss is least, and its value there."""
    from scipy import optimize

    slopes = jax.jit(jax.value_and_grad(lambda flat: loss(flat.reshape(shape))))
    start = np.random.default_rng(config.seed).normal(size=int(np.prod(shape)))
    steps = config.num_steps
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0, "gtol": 1e-12, "maxcor": 30}
    end = optimize.minimize(
        lambda x: tuple(np.asarray(each, np.float64) for each in slopes(x)),
        start, jac=True, method="L-BFGS-B", options=options,
    )  # fmt: skip
    return end.x.reshape(shape), float(end.fun)


def _optimum(graph: Array, loss: Callable, centred: bool, dim: int, config: Config) -> Found:
    features, value = minimise(loss, (len(graph), dim), config)
    seen = np.asarray(graph.sum(1))
    if centred:
        features = features - seen @ features
    weighted = np.sqrt(seen)[:, None] * features
    left, sizes, _ = np.linalg.svd(weighted, full_matrices=False)
    rank = int(np.sum(sizes > 1e-3 * sizes[0]))
    top = graphs.eigen(graph)[1][:, int(centred) :][:, :rank]
    apart = left[:, :rank] - top @ (top.T @ left[:, :rank])
    return Found(value, rank, float(np.arcsin(min(1.0, np.linalg.norm(apart, 2)))))


def _draw(dims, found):
    figure, (left, right) = figure_style.row(2, width=1.5 * figure_style.WIDTH)
    for name, each in found.items():
        left.semilogy(dims, [max(one.angle, 1e-9) for one in each], "o-", label=name)
        right.plot(dims, [one.rank for one in each], "o-", label=name)
    figure_style.style(left, "Angle to the top eigenspace", "width of the features", "radians")
    figure_style.style(right, "Directions filled", "width of the features", "rank")
    figure_style.legend(right)
    return figure
