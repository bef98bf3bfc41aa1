"""How good samples of small images are: distances to held-out data beside fitted baselines."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from sklearn import mixture

from library import claims
from research.sample_quality import distances

NUM_DRAWS = 30  # draws of each baseline, and of fresh data, that a distance is a mean over


def energy_to(held_out: np.ndarray, points: np.ndarray) -> float:
    """Unbiased energy distance of two samples [N, ...] and [M, ...], in the pixels' unit."""
    points = jnp.asarray(points, jnp.float32).reshape(len(points), -1)
    return float(distances.energy_distance(points, held_out.reshape(len(held_out), -1)))


def compare(draws: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> claims.Result:
    """Samples against a Gaussian and a mixture fitted on the same data, and against copies.

    Args:
        draws: [R, N, ...] float, R draws of N samples of the model.
        train: [M, ...] float, what the model and the baselines are fitted on.
        held_out: [K, ...] float, what all are compared with.
    Returns:
        Energy distances and median distances to the nearest training example, with the claims
        that the samples are closer than each baseline and no closer to `train` than `held_out`.
    """
    values = [energy_to(held_out, samples) for samples in draws]
    energy = {"model": float(np.mean(values))}
    energy |= baseline_energies(train, held_out, len(draws[0]))
    nearest = {
        name: float(np.median(distances.nearest_neighbours(points, train)[0]))
        for name, points in (("samples", draws[0]), ("held_out", held_out))
    }
    metrics = {f"energy_distance_{name}": value for name, value in energy.items()}
    metrics["energy_distance_model_standard_error"] = float(np.std(values) / len(values) ** 0.5)
    metrics["energy_distance_fresh_floor"] = fresh_floor(train, held_out)
    metrics |= {f"median_distance_to_train_{name}": value for name, value in nearest.items()}
    return claims.Result(metrics=metrics, claims=_claims(energy, nearest))


def baseline_energies(train: np.ndarray, held_out: np.ndarray, num: int) -> dict[str, float]:
    """Mean energy distances of `num` samples of densities fitted to the training set.

    A Gaussian of full covariance and scikit-learn's 10-component mixture; the mean over draws keeps
    the luck of a single draw out of the comparison.
    """
    flat = train.reshape(len(train), -1).astype(np.float64)
    fitted = mixture.GaussianMixture(10, random_state=0).fit(flat)
    rng = np.random.default_rng(0)
    densities = {
        "gaussian": (np.ones(1), flat.mean(0)[None], np.cov(flat.T)[None]),
        "mixture": (fitted.weights_, fitted.means_, fitted.covariances_),
    }
    return {
        name: float(
            np.mean([energy_to(held_out, _draw(rng, num, *density)) for _ in range(NUM_DRAWS)])
        )
        for name, density in densities.items()
    }


def _draw(
    rng: np.random.Generator, num: int, weights: np.ndarray, means: np.ndarray, covs: np.ndarray
) -> np.ndarray:
    """[num, D] samples of a mixture; scikit-learn's own warns of nearly singular covariances."""
    counts = rng.multinomial(num, weights)
    parts = [
        rng.multivariate_normal(mean, covariance, count, method="eigh")
        for mean, covariance, count in zip(means, covs, counts)
    ]
    return np.concatenate(parts)


def fresh_floor(train: np.ndarray, held_out: np.ndarray) -> float:
    """Mean energy distance of as many training examples as there are held-out ones."""
    rng = np.random.default_rng(0)
    num = min(len(held_out), len(train))
    draws = [rng.permutation(len(train))[:num] for _ in range(NUM_DRAWS)]
    return float(np.mean([energy_to(held_out, train[rows]) for rows in draws]))


def _claims(energy: Mapping[str, float], nearest: Mapping[str, float]) -> list[claims.Claim]:
    baselines = {
        "gaussian": "full-covariance Gaussian fitted on the same training set, mean of 30 draws",
        "mixture": "scikit-learn GaussianMixture(10) fitted on the same set, mean of 30 draws",
    }
    closer = [
        claims.below(
            f"mean energy distance to held-out data, against a {name}",
            energy["model"],
            energy[name],
            claims.baseline(text),
        )
        for name, text in baselines.items()
    ]
    no_copies = claims.at_least(
        "median distance of samples to the nearest training example",
        nearest["samples"],
        nearest["held_out"],
        claims.baseline("that of the held-out data: samples are not copies"),
    )
    return [*closer, no_copies]
