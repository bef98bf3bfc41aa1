"""Samples in the plane beside fresh draws: what each of the three scores is put to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from library import claims
from library.types import Array
from research.diffusion import processes, samplers
from research.diffusion.predictions import Score
from research.sample_quality import distances

PROCESS = processes.vp()
LINES = 120  # flow lines in a panel
FLOOR = claims.baseline("98 % band of fresh samples of that size, its upper end: 1 % false alarm")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is drawn and compared.

    Attributes:
        num_samples: points compared.
        sampler_steps: steps of Heun's method.
        num_draws: pairs of fresh samples behind a floor.
    """

    num_samples: int
    sampler_steps: int
    num_draws: int


def result(name: str, values: Mapping[str, float], stated: list[claims.Claim]) -> claims.Result:
    """The values as metrics `name_...`, with the claims on them."""
    return claims.Result({f"{name}_{key}": float(value) for key, value in values.items()}, stated)


def sample(sizes: Sizes, score: Score, to_zero: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Samples [N, 2], and some of them on their way, [T, LINES, 2]."""
    # the last noise level lies far below every length of the data
    grid = samplers.log_snr_grid(sizes.sampler_steps, to_zero=to_zero, t_end=1e-4)

    @jax.jit
    def draw(rng: Array) -> tuple[Array, samplers.Info]:
        shape, solver = (sizes.num_samples, 2), samplers.heun("log_snr")
        return samplers.sample(score, PROCESS, rng, shape, solver=solver, grid=grid, every=1)

    drawn, info = draw(jax.random.key(0))
    return np.asarray(drawn), np.asarray(info.trajectory[:, :LINES])


def distances_between(x: Array, y: Array) -> dict[str, float]:
    """Energy and sliced Wasserstein distance of two samples [N, 2]."""
    return {
        "energy": float(distances.energy_distance(x, y)),
        "sliced": float(distances.sliced_wasserstein(jax.random.key(0), x, y)),
    }


def compared(sizes: Sizes, points: np.ndarray, pool: Array) -> dict[str, float]:
    """Distances of samples to as many fresh draws, and the 98 % bands of fresh against fresh."""
    num, key = sizes.num_samples, jax.random.key(0)
    values = distances_between(points, pool[:num])
    functions = {
        "energy": distances.energy_distance,
        "sliced": functools.partial(distances.sliced_wasserstein, key),
    }
    for name, function in functions.items():
        fresh = jnp.asarray(pool[num:])
        floor = distances.fresh_sample_floor(
            key, function, fresh, (num, num), num_draws=sizes.num_draws, level=0.98
        )
        values |= {f"{name}_floor": float(floor.mean), f"{name}_floor_high": float(floor.high)}
    return values


def within_floor(name: str, values: Mapping[str, float]) -> list[claims.Claim]:
    """Claims that samples are as close to fresh draws as other fresh draws are."""
    return [
        claims.at_most(f"{name}: {key}", values[key], values[f"{key}_floor_high"], FLOOR)
        for key in ("energy", "sliced")
    ]
