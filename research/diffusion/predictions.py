"""What a network may predict, and how each kind turns into the score.

With x = alpha x_0 + sigma eps and primes for time derivatives, the five kinds are
data x_0, noise eps, score s = -eps/sigma, v = alpha eps - sigma x_0 (Salimans and Ho 2022,
arXiv:2202.00512) and velocity alpha' x_0 + sigma' eps (Lipman et al. 2023, arXiv:2210.02747).
Any one of them and x fix all the others; every conversion goes through (x_0, eps).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import chex
import jax.numpy as jnp

from library.types import Array
from research.diffusion.curves import as_time, expand, wide
from research.diffusion.processes import Process

Predict = Callable[[Array, Array], Array]  # (x [B, ...], t [B]) -> [B, ...]
Score = Callable[[Array, Array], Array]  # (x [B, ...], t [B]) -> [B, ...], grad log p_t(x)

KINDS = ("data", "noise", "score", "v", "velocity")


def to_score(process: Process, predict: Predict, kind: str) -> Score:
    """The score function of a network that predicts `kind`.

    Args:
        process: the noising process that the network was trained for.
        predict: (x [B, ...], t [B]) -> [B, ...]; bind parameters and conditions by closure.
        kind: one of "data", "noise", "score", "v", "velocity".
    Returns:
        score(x, t): [B, ...], [B] -> [B, ...].
    Raises:
        ValueError: if `kind` is none of the five.
    """
    return to_kind(process, predict, kind, "score")


def to_kind(process: Process, predict: Predict, source: str, target: str) -> Predict:
    """A function that predicts `target`, made from one that predicts `source`; see `convert`."""
    _check_kind(source)
    _check_kind(target)
    return lambda x, t: convert(process, predict(x, t), x, t, source, target)


def convert(process: Process, value: Array, x: Array, t: Array, source: str, target: str) -> Array:
    """The prediction `value` of kind `source` at (x, t), as kind `target`.

    Args:
        process: the noising process.
        value: [B, ...], prediction of kind `source`.
        x: [B, ...], noisy state.
        t: [B] or [], times.
        source: one of `KINDS`.
        target: one of `KINDS`.
    Returns:
        [B, ...], prediction of kind `target`, float32 or wider.
    Raises:
        ValueError: if a kind is unknown.
    """
    _check_kind(source)
    _check_kind(target)
    if source == target:
        return wide(value)
    data, noise = to_data_and_noise(process, value, x, t, source)
    return from_data_and_noise(process, data, noise, t, target)


def to_data_and_noise(
    process: Process, value: Array, x: Array, t: Array, kind: str
) -> tuple[Array, Array]:
    """The pair (x_0, eps), each [B, ...], that a prediction of this kind and x together fix."""
    _check_kind(kind)
    chex.assert_equal_shape([value, x])
    t, value, x = as_time(t), wide(value), wide(x)
    alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
    if kind == "data":
        return value, (x - alpha * value) / sigma
    if kind == "v":
        norm = alpha**2 + sigma**2
        return (alpha * x - sigma * value) / norm, (sigma * x + alpha * value) / norm
    if kind == "velocity":
        alpha_prime = expand(process.alpha_prime(t), x)
        sigma_prime = expand(process.sigma_prime(t), x)
        norm = alpha * sigma_prime - alpha_prime * sigma  # > 0 where the SNR falls
        data = (sigma_prime * x - sigma * value) / norm
        return data, (alpha * value - alpha_prime * x) / norm
    noise = value if kind == "noise" else -sigma * value
    return (x - sigma * noise) / alpha, noise


def from_data_and_noise(process: Process, data: Array, noise: Array, t: Array, kind: str) -> Array:
    """The quantity of this kind, [B, ...], for given x_0 and eps [B, ...] at times t [B] or [].

    With the drawn data and noise of a training pair this is the regression target.
    """
    _check_kind(kind)
    chex.assert_equal_shape([data, noise])
    t, data, noise = as_time(t), wide(data), wide(noise)
    if kind == "data":
        return data
    if kind == "noise":
        return noise
    if kind == "score":
        return -noise / expand(process.sigma(t), noise)
    if kind == "v":
        return expand(process.alpha(t), data) * noise - expand(process.sigma(t), data) * data
    return (
        expand(process.alpha_prime(t), data) * data + expand(process.sigma_prime(t), data) * noise
    )


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """EDM coefficients at noise levels sigma; the arrays have the shape of sigma.

    Karras et al. 2022, arXiv:2206.00364, table 1: D(x; sigma) = skip x + out F(input x; noise).
    """

    skip: Array
    out: Array
    input: Array
    noise: Array
    weight: Array


def edm_preconditioning(sigma: Array, data_std: float) -> Preconditioning:
    """The coefficients that give network input and target unit variance at every noise level.

    Args:
        sigma: noise levels sigma/alpha > 0, any shape, in units of the data.
        data_std: standard deviation of the data.
    Raises:
        ValueError: if data_std is not positive.
    """
    if not 0 < data_std < math.inf:
        raise ValueError(f"data_std={data_std}: expected a positive number")
    sigma = as_time(sigma)
    total = sigma**2 + data_std**2
    return Preconditioning(
        skip=data_std**2 / total,
        out=sigma * data_std / jnp.sqrt(total),
        input=1 / jnp.sqrt(total),
        noise=0.25 * jnp.log(sigma),
        weight=total / (sigma * data_std) ** 2,
    )


def edm_denoiser(process: Process, network: Predict, data_std: float) -> Predict:
    """A data prediction from a raw network F by EDM preconditioning, for any process.

    Other processes are brought to EDM's form by x/alpha = x_0 + (sigma/alpha) eps.

    Args:
        process: the noising process of the states.
        network: F(input [B, ...], c_noise [B]) -> [B, ...], with c_noise = log(sigma/alpha)/4.
        data_std: standard deviation of the data.
    Returns:
        (x [B, ...], t [B]) -> [B, ...], of kind "data".
    Raises:
        ValueError: if data_std is not positive.
    """
    edm_preconditioning(1.0, data_std)  # checks it

    def predict(x: Array, t: Array) -> Array:
        t, x = as_time(t), wide(x)
        alpha = expand(process.alpha(t), x)
        edm = edm_preconditioning(jnp.exp(-0.5 * process.log_snr(t)), data_std)
        unscaled = x / alpha
        raw = network(expand(edm.input, x) * unscaled, edm.noise)
        return expand(edm.skip, x) * unscaled + expand(edm.out, x) * raw

    return predict


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
