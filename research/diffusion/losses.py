"""Losses that fit a score: denoising, flow matching, implicit and sliced score matching.

Every factory returns a `library.types.LossFn` for `library.train_step`. A batch is a dict with
"image" [B, ...] (any shape of example; the name is that of `library.data`), if wanted "label" [B]
int, and "mask" [B] weights. `apply(params, x, t, labels, rng)` is the network or any pure function
of that signature: x [B, ...], t [B], labels [B] or None, rng [B] keys for dropout masks.

Give the training step `rng_per_example=True`: example i then draws its time, noise and masks from
its own key, and the loss of a batch does not depend on how it is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from library import checks
from library.types import Array, Aux, Batch, Key, LossFn, Params
from research.diffusion import draws, predictions, weightings
from research.diffusion.densities import divergence
from research.diffusion.draws import Apply, Draw
from research.diffusion.processes import Process


def denoising_score_matching(
    process: Process,
    apply: Apply,
    kind: str = "noise",
    weighting: weightings.Weighting | None = None,
    times: weightings.Times = weightings.uniform_times,
    stratified: bool = False,
) -> LossFn:
    """Mean squared error of the prediction of drawn noise, Vincent 2011, Song et al. 2021 eq. (7).

    E_t E_{x_0, eps} w(t) |eps - eps_hat(alpha x_0 + sigma eps, t)|^2 / D, where eps_hat is the
    noise that the prediction implies. Its minimiser is the score of the noised data.

    Args:
        process: the noising process.
        apply: the network, see the module's docstring.
        kind: what it predicts, one of `predictions.KINDS`.
        weighting: w, see `weightings`; None is `weightings.uniform(kind)`, the plain mean squared
            error of what the network predicts.
        times: the density of t, see `weightings`.
        stratified: spread the times of a batch evenly: lower variance, but the times then depend
            on the batch split.
    Returns:
        `LossFn`, a mean over the examples; its unit is set by the weighting.
    Raises:
        ValueError: for an unknown kind, or a weighting or times that are not functions.
    """
    weighting = check(kind, weighting, times)

    def integrand(drawn: Draw) -> Array:
        return denoising_error(process, kind, drawn) * weighting(process, drawn.t)

    return _loss_fn(process, apply, integrand, times, stratified)


def flow_matching(
    process: Process, apply: Apply, times: weightings.Times = weightings.uniform_times
) -> LossFn:
    """Mean squared error of the velocity alpha' x_0 + sigma' eps, Lipman et al. 2023, eq. (23).

    With `processes.flow()` the target is eps - x_0 (arXiv:2210.02747; arXiv:2209.03003). It is
    `denoising_score_matching` of kind "velocity".
    """
    return denoising_score_matching(process, apply, "velocity", times=times)


def implicit_score_matching(
    process: Process,
    apply: Apply,
    kind: str = "noise",
    weighting: weightings.Weighting | None = None,
    times: weightings.Times = weightings.uniform_times,
    stratified: bool = False,
) -> LossFn:
    """E w(t) sigma^2 (|s|^2 + 2 div s) / D: denoising score matching without its constant.

    Hyvarinen 2005, JMLR 6, theorem 1, at the noised data. The divergence costs D derivatives a
    point. Arguments as for `denoising_score_matching`.
    """
    weighting = check(kind, weighting, times)

    def integrand(drawn: Draw) -> Array:
        score = predictions.to_score(process, drawn.predict, kind)
        error = implicit_error(score, draws.noised(process, drawn), drawn.t)
        return error * process.sigma(drawn.t) ** 2 * weighting(process, drawn.t)

    return _loss_fn(process, apply, integrand, times, stratified)


def sliced_score_matching(
    process: Process,
    apply: Apply,
    kind: str = "noise",
    weighting: weightings.Weighting | None = None,
    times: weightings.Times = weightings.uniform_times,
    stratified: bool = False,
    num_probes: int = 1,
) -> LossFn:
    """Implicit score matching with the divergence from random slices: one derivative a probe.

    Song et al. 2019, arXiv:1905.07088, eq. (8), the variance-reduced form. Arguments as for
    `denoising_score_matching`.

    Args:
        num_probes: random sign vectors an example.
    """
    weighting = check(kind, weighting, times)
    checks.count("num_probes", num_probes)

    def integrand(drawn: Draw) -> Array:
        score = predictions.to_score(process, drawn.predict, kind)
        probes = divergence.probes(jax.random.rademacher, drawn.rngs, num_probes, drawn.x_0)
        error = sliced_error(score, draws.noised(process, drawn), drawn.t, probes)
        return error * process.sigma(drawn.t) ** 2 * weighting(process, drawn.t)

    return _loss_fn(process, apply, integrand, times, stratified)


def drop_labels(apply: Apply, null_label: int, rate: float = 0.1) -> Apply:
    """The network with labels replaced by the null class at this rate, for guidance without a
    classifier: Ho and Salimans 2022, arXiv:2207.12598, algorithm 1.

    Args:
        apply: the network.
        null_label: the label that stands for no class.
        rate: probability of a replacement, in [0, 1].
    Raises:
        ValueError: for a rate outside [0, 1] or a null label that is none; when called, for a
            batch without labels.
    """
    checks.share("rate", rate)
    checks.count("null_label", null_label, least=0)

    def dropped(params: Params, x: Array, t: Array, labels: Array | None, rng: Key) -> Array:
        if labels is None:
            raise ValueError("drop_labels: the batch has no leaf 'label'")
        keys = jax.vmap(lambda key: jax.random.split(key, 2))(rng)  # [B, 2]
        drop = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys[:, 0])
        return apply(params, x, t, jnp.where(drop, null_label, labels), keys[:, 1])

    return dropped


def dequantised(loss_fn: LossFn, width: float) -> LossFn:
    """The loss on discrete data spread evenly over their cells, each example by its own noise.

    Uniform dequantisation, Theis et al. 2016, arXiv:1511.01844, sec. 3.1: only so a density of the
    data is finite, and its mean log is a bound on that of the discrete data.

    The spread data are float32 or wider: in half precision the noise would be rounded away.

    Args:
        loss_fn: of a batch with "image" [B, ...].
        width: of a cell; batch["image"] is expected to hold the lower ends of cells.
    Raises:
        ValueError: if the width is not positive.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"width={width}: expected a positive number")

    def on_cells(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        image = draws.floats(batch["image"])
        noise_rngs, rngs = draws.example_keys(rng, image.shape[0], 2)  # each [B]
        noise = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:], image.dtype))
        return loss_fn(
            params, model_state, rngs, {**batch, "image": image + width * noise(noise_rngs)}
        )

    return on_cells


def denoising_error(process: Process, kind: str, drawn: Draw) -> Array:
    """[B] mean squared error of the noise that a prediction of this kind implies.

    The error is taken in the network's own kind and then scaled: near the ends of the range the
    implied noise itself would lose its digits.
    """
    value = drawn.predict(draws.noised(process, drawn), drawn.t)
    target = predictions.from_data_and_noise(process, drawn.x_0, drawn.noise, drawn.t, kind)
    return draws.mean_square(value - target) * weightings.noise_gain(process, drawn.t, kind) ** 2


def implicit_error(score: predictions.Score, x: Array, t: Array) -> Array:
    """[B] (|s|^2 + 2 div s) / D at points x [B, ...] and times t [B], by D forward derivatives."""
    value, trace = divergence.exact(lambda x: score(x, t), x)
    return draws.mean_square(value) + 2 * trace / x[0].size


def sliced_error(score: predictions.Score, x: Array, t: Array, probes: Array) -> Array:
    """[B] (|s|^2 + 2 v.(ds/dx)v) / D, the mean over probes v [K, B, ...] of unit covariance."""
    value, slopes = divergence.slopes(lambda x: score(x, t), x, probes)
    return draws.mean_square(value) + 2 * slopes.mean(0) / x[0].size


def check(
    kind: str, weighting: weightings.Weighting | None, times: weightings.Times
) -> weightings.Weighting:
    """The weighting that is meant; raises ValueError before anything is traced."""
    plain = weightings.uniform(kind)
    for name, function in (("weighting", weighting or plain), ("times", times)):
        if not callable(function):
            raise ValueError(f"{name}={function!r}: expected a function of `weightings`")
    return weighting or plain


def _loss_fn(
    process: Process,
    apply: Apply,
    integrand: Callable[[Draw], Array],
    times: weightings.Times,
    stratified: bool,
) -> LossFn:
    """The mean over the mask of the integrand [B] of a draw, times the factor of its times."""

    def loss_fn(params: Params, model_state, rng: Key, batch: Batch) -> tuple[Array, Aux]:
        drawn = draws.draw(process, apply, times, params, rng, batch, stratified)
        return draws.masked_mean(integrand(drawn) * drawn.factor, batch.get("mask"))

    return loss_fn
