"""Models whose scaling exponents are known: each gives exact losses over a finite range of sizes.

They anchor a pipeline: a fit that misses these exponents is wrong, whatever it says about networks.
NumPy in float64: sums over up to 10^7 modes, no gradients.
"""

from __future__ import annotations

import chex
import numpy as np


def zipf(exponent: float, num_features: int) -> np.ndarray:
    """[K] p_k ~ k^-(1 + exponent), normalised over K features."""
    if not exponent > 0 or num_features < 1:
        raise ValueError(f"exponent={exponent}, num_features={num_features}: expected positive")
    weights = np.arange(1, num_features + 1, dtype=np.float64) ** -(1 + exponent)  # [K]
    return weights / weights.sum()


def memorisation_by_tokens(probabilities: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[M] expected error after seeing D symbols, sum_k p_k (1 - p_k)^D.

    Hutter 2021, arXiv:2102.04074: L ~ D^-(a / (1 + a)) for p_k ~ k^-(1 + a).
    """
    chex.assert_rank([probabilities, tokens], 1)
    log_rest = np.log1p(-probabilities)
    return np.array([probabilities @ np.exp(count * log_rest) for count in tokens])


def memorisation_by_size(probabilities: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[M] error of a table of the N commonest symbols, sum_{k > N} p_k ~ N^-a."""
    chex.assert_rank([probabilities, sizes], 1)
    rest = 1 - np.cumsum(probabilities)
    return rest[np.asarray(sizes, int) - 1]


def quanta(probabilities: np.ndarray, size: int, steps: float) -> float:
    """Loss with room for N quanta after S one-epoch steps, Michaud et al. 2023, arXiv:2303.13506.

    A quantum is learned if there is room and its kind has been seen: sum_{k > N} p_k +
    sum_{k <= N} p_k (1 - p_k)^S. With C = N S the optimum is N ~ C^(1 / (2 + a)) and
    L ~ C^-(a / (2 + a)).
    """
    head = probabilities[:size]
    return float(1 - head.sum() + head @ np.exp(steps * np.log1p(-head)))


def quanta_frontier(probabilities: np.ndarray, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal N [M] and loss [M] at each compute C = N S, N over 300 sizes in a decade ladder."""
    sizes, losses = [], []
    for compute in flops:
        grid = np.unique(np.geomspace(1, min(compute, len(probabilities)), 300).astype(int))
        values = [quanta(probabilities, size, compute / size) for size in grid]
        best = int(np.argmin(values))
        # The minimum of a parabola in log N through the three lowest neighbours.
        if 0 < best < len(grid) - 1:
            near = slice(best - 1, best + 2)
            square, slope, _ = np.polyfit(np.log(grid[near] / grid[best]), values[near], 2)
            shift = -slope / (2 * square) if square > 0 else 0.0
        else:
            shift = 0.0
        sizes.append(grid[best] * np.exp(shift))
        losses.append(values[best])
    return np.array(sizes), np.array(losses)


def kernel_regression(
    b: float, t: float, num_samples: np.ndarray, num_modes: int = 1_000_000
) -> np.ndarray:
    """[M] generalisation error of ridgeless, noiseless kernel regression, by its mean-field theory.

    Bordelon, Canatar and Pehlevan 2020, arXiv:2002.02561, eqs. (5) to (7), with eigenvalues k^-b
    and target power k^-t in mode k: D = sum_k lambda_k / (lambda_k + kappa) fixes kappa, and
    E = sum_k k^-t kappa^2 / (lambda_k + kappa)^2 / (1 - gamma), gamma = sum_k lambda_k^2 /
    (lambda_k + kappa)^2 / D. E ~ D^-min(t - 1, 2 b).
    """
    modes = np.arange(1, num_modes + 1, dtype=np.float64)
    eigenvalues, power = modes**-b, modes**-t  # [K]
    errors = []
    for count in num_samples:
        low, high = -80.0, 20.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            learned = np.sum(eigenvalues / (eigenvalues + np.exp(middle)))
            low, high = (middle, high) if learned > count else (low, middle)
        kappa = np.exp(0.5 * (low + high))
        shares = eigenvalues / (eigenvalues + kappa)
        gamma = np.sum(shares**2) / count
        errors.append(np.sum(power * (1 - shares) ** 2) / (1 - gamma))
    return np.array(errors)


def gradient_flow(
    b: float, t: float, times: np.ndarray, size: int | None = None, num_modes: int = 1_000_000
) -> np.ndarray:
    """[M] loss of a linear model of the N leading modes under gradient flow.

    sum_{k <= N} k^-t exp(-2 k^-b time) + sum_{k > N} k^-t, eigenvalues k^-b and target power k^-t:
    L ~ time^-((t - 1) / b), L ~ N^-(t - 1); with C = N time, N_opt ~ C^(1 / (1 + b)) and
    L ~ C^-((t - 1) / (1 + b)).
    """
    size = num_modes if size is None else size
    modes = np.arange(1, num_modes + 1, dtype=np.float64)
    power = modes**-t
    # Modes beyond those summed: the integral from K + 1/2.
    beyond = power[size:].sum() + (num_modes + 0.5) ** (1 - t) / (t - 1)
    rates = 2 * modes[:size] ** -b
    return np.array([power[:size] @ np.exp(-rates * time) + beyond for time in times])


def gradient_flow_frontier(
    b: float, t: float, flops: np.ndarray, num_modes: int = 200_000
) -> tuple[np.ndarray, np.ndarray]:
    """Optimal N [M] and loss [M] at each C = N time, by a parabola in log N about the best size."""
    sizes, losses = [], []
    for compute in flops:
        guess = compute ** (1 / (1 + b))
        grid = np.unique(np.maximum(np.geomspace(guess / 10, guess * 10, 60), 1).astype(int))
        values = np.array(
            [gradient_flow(b, t, np.array([compute / n]), n, num_modes)[0] for n in grid]
        )
        best = min(max(int(np.argmin(values)), 2), len(grid) - 3)
        near = slice(best - 2, best + 3)
        square, slope, level = np.polyfit(np.log(grid[near] / grid[best]), np.log(values[near]), 2)
        shift = -slope / (2 * square)
        sizes.append(grid[best] * np.exp(shift))
        losses.append(np.exp(level + slope * shift / 2))
    return np.array(sizes), np.array(losses)


def random_features(
    alpha: float,
    num_samples: int,
    num_features: int,
    rng: np.random.Generator,
    num_latent: int = 4000,
    ridges: np.ndarray = np.geomspace(1e-10, 1e-1, 19),
) -> tuple[float, float]:
    """Test loss of linear random features on a power-law latent spectrum, exact for one draw.

    Maloney, Roberts and Sully 2022, arXiv:2210.16859: latent x_i of variance i^-(1 + alpha),
    features u x with Gaussian u of N rows, target w x. L ~ T^-alpha for N >> T, N^-alpha for
    T >> N, a peak at N = T without ridge. The expectation over test points is a trace.

    Returns:
        The loss at the best of the ridges and at the smallest one, per unit of target variance w.
    """
    spectrum = np.arange(1, num_latent + 1, dtype=np.float64) ** -(1 + alpha)  # [M]
    x = rng.standard_normal((num_samples, num_latent)) * np.sqrt(spectrum)  # [T, M]
    u = rng.standard_normal((num_latent, num_features)) / np.sqrt(num_latent)  # [M, N]
    features = x @ u  # [T, N]
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    # E over w with identity covariance of |w x - prediction|^2 = tr S (I - u P)(I - u P)^T, where
    # the weights are P^T w, P^T = (F^T F + ridge)^-1 F^T x.
    projected = left.T @ x  # [R, M]
    basis = right @ u.T  # [R, M]
    base = spectrum.sum()
    cross = np.sum((basis * spectrum) * projected, 1)  # [R]
    gram_basis = (basis * spectrum) @ basis.T  # [R, R]
    gram_projected = projected @ projected.T  # [R, R]
    losses = []
    for ridge in ridges * singular[0] ** 2:
        gain = singular / (singular**2 + ridge)  # [R]
        square = np.einsum("r,rs,s,rs->", gain, gram_basis, gain, gram_projected)
        losses.append(base - 2 * gain @ cross + square)
    return float(min(losses)), float(losses[0])
