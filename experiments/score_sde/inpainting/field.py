"""Inpainting of a random field whose middle is hidden: samples in units of the exact law."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from experiments.score_sde.inpainting import methods
from experiments.score_sde.inpainting.methods import BIASED, PROCESS
from library import claims
from library.types import Array
from research.diffusion import inverse_problems, oracles, samplers

CHI_SQUARE = claims.theorem("chi-square of the exact conditional, 4 standard errors")


def measured(
    names: Sequence[str], size: int, num_steps: int, num_draws: int
) -> tuple[claims.Result, dict[str, np.ndarray]]:
    """The field with its middle hidden: mean and spread in units of the exact conditional.

    With m and S the exact conditional mean and covariance of the H hidden pixels and m' the mean of
    N samples, N (m' - m).S^{-1}(m' - m)/H and the samples' mean of (x - m).S^{-1}(x - m)/H are
    chi-squares over their degrees of freedom, 1 on average, if the method is right.

    Args:
        names: of the methods.
        size: pixels along a side; a square of half of it is hidden.
        num_steps: of the sampler.
        num_draws: N.
    Returns:
        The result, and images [size, size] by name: the truth, what is seen, the exact mean, and a
        sample of each method.
    """
    dim = size**2
    shape = (size, size, 1)
    field = oracles.random_field(PROCESS, shape)
    truth = np.asarray(field.sample(jax.random.key(7), 1)).reshape(dim)
    seen = np.ones((size, size), bool)
    seen[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = False
    measurement = inverse_problems.inpainting(seen.reshape(dim), truth)
    impulse = np.fft.ifft2(field.spectrum).real
    places = [(row, col) for row in range(size) for col in range(size)]
    covariance = np.stack([np.roll(impulse, place, (0, 1)).reshape(dim) for place in places])
    exact = inverse_problems.exact_conditional(PROCESS, np.zeros(dim), covariance, measurement)

    def prior(x: Array, t: Array) -> Array:
        return field(x.reshape(-1, *shape), t).reshape(x.shape)

    hidden = ~seen.reshape(dim)
    posterior = (exact.eigenvectors[hidden] * exact.eigenvalues) @ exact.eigenvectors[hidden].T
    images = {"truth": truth, "seen": np.where(hidden, np.nan, truth), "mean": exact.mean}
    metrics = {}
    asked = methods.on_problem(names, prior, exact, measurement, None)
    for name, method in asked.items():
        grid = samplers.log_snr_grid(num_steps, t_end=1e-4)
        draws = methods.draw(method, measurement, dim, grid, num_draws)
        gaps = (draws[:, hidden] - exact.mean[hidden]).astype(np.float64)
        whitened = np.linalg.solve(np.linalg.cholesky(posterior), gaps.T)  # [H, N]
        metrics[f"field_mean_error_{name}"] = float(len(draws) * np.mean(whitened.mean(1) ** 2))
        metrics[f"field_spread_{name}"] = float(np.mean(whitened**2))
        images[name] = draws[0]
    stated = _claims(metrics, [name for name in BIASED if name in names], int(hidden.sum()))
    images = {name: image.reshape(size, size) for name, image in images.items()}
    return claims.Result(metrics, stated), images


def _claims(metrics: dict[str, float], biased: list[str], num_hidden: int) -> list[claims.Claim]:
    """The exact score's mean is within its noise, that of a biased method is not."""
    band = 4 * (2 / num_hidden) ** 0.5
    exact = claims.within(
        "field: squared error of the exact score's mean, in its own noise",
        metrics["field_mean_error_exact"],
        1,
        band,
        CHI_SQUARE,
    )
    beyond = [
        claims.above(
            f"field: squared error of {name}'s mean, in the same noise",
            metrics[f"field_mean_error_{name}"],
            1 + band,
            CHI_SQUARE,
        )
        for name in biased
    ]
    return [exact, *beyond]
