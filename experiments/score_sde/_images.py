"""Class-conditional score models of images, from training to guided samples: shared by the studies.

The variance-preserving SDE of Song et al. 2021, arXiv:2011.13456; a network that predicts noise or
v given the class, which is hidden from some examples so that the samples can be guided (Ho and
Salimans 2022, arXiv:2207.12598); DPM-Solver++ (arXiv:2211.01095) on the probability-flow ODE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.score_sde import _options
from library import report, sharding, training
from library.types import Array, Key, LossFn, Params
from research.diffusion import guidance, predictions, processes, samplers, unet

PROCESS = processes.vp(beta_min=0.1, beta_max=20.0)
NUM_CLASSES = 10


def train(
    model: unet.UNet,
    loss_fn: LossFn,
    data: dict[str, np.ndarray],
    out: report.RunDir,
    *,
    num_steps: int,
    fit: _options.Fit,
    run: training.RunOptions,
) -> Params:
    """The averaged parameters after Adam with warm-up and cosine decay, whole on one device.

    Args:
        model: the network.
        loss_fn: of parameters and a batch of `data`.
        data: {"image": [N, H, W, C], "label": [N]}, in shuffled batches.
        out: the run's folder.
        num_steps: updates.
        fit, run: the studies' options.
    """
    warmup = min(200, num_steps // 4)
    shape = (1, *data["image"].shape[1:])
    state = training.train(
        loss_fn,
        training.warmup_cosine(fit.learning_rate, num_steps, warmup, clip=1.0),
        lambda rng: model.init(rng, jnp.zeros(shape), jnp.full(1, 0.5)),
        training.batches(data, fit.batch_size, run.seed),
        num_steps=num_steps,
        run=run,
        out=out,
        ema_decay=training.ema_warmup(fit.ema_decay),
        rng_per_example=True,
    )
    return sharding.on_one_device(state.ema)


def score_of(
    model: unet.UNet, kind: str, params: Params, labels: Array | None, scale: float = 1.0
) -> predictions.Score:
    """The score given labels [B], guided by the null class where the scale is not 1.

    `kind` is what the network predicts, one of `predictions.KINDS`.
    """
    apply = functools.partial(model.apply, params)
    conditional = predictions.to_score(PROCESS, functools.partial(apply, labels=labels), kind)
    if scale == 1.0:
        return conditional
    unconditional = predictions.to_score(PROCESS, apply, kind)
    return guidance.classifier_free(PROCESS, conditional, unconditional, scale)


def make_sampler(
    model: unet.UNet,
    kind: str,
    shape: tuple[int, ...],
    *,
    num_steps: int,
    scale: float = 1.0,
    every: int | None = None,
    batch_size: int = 500,
) -> Callable[[Params, Key, np.ndarray], np.ndarray]:
    """A function (params, rng, labels [N]) -> samples [N, H, W, C].

    With `every` it returns the states on the way, [N, T, H, W, C], the last of them the samples.
    Sample i has its own noise, whatever the batch size.

    Args:
        model: the network.
        kind: what it predicts, one of `predictions.KINDS`.
        shape: (H, W, C) of an image.
        num_steps: evaluations of the network, twice as many where it is guided.
        scale: guidance weight; 1 is the conditional model itself.
        every: see `samplers.sample`; must divide num_steps.
        batch_size: samples drawn at a time; must divide a larger N.
    """

    @jax.jit
    def draw(params: Params, rng: Key, labels: Array, first_index: Array) -> Array:
        samples, info = samplers.sample(
            score_of(model, kind, params, labels, scale),
            PROCESS,
            rng,
            (*labels.shape, *shape),
            solver=samplers.dpm_solver_pp(),
            grid=samplers.karras_grid(num_steps, t_end=1e-3, to_zero=True),
            first_index=first_index,
            every=every,
        )
        return samples if every is None else jnp.moveaxis(info.trajectory, 0, 1)

    def draw_all(params: Params, rng: Key, labels: np.ndarray) -> np.ndarray:
        size = min(batch_size, len(labels))
        if len(labels) % size:
            raise ValueError(f"{len(labels)} samples are not a multiple of batch_size={size}")
        samples = []
        for index, part in enumerate(labels.reshape(-1, size)):
            everywhere, split = sharding.split_over_devices(params, part)
            samples.append(np.asarray(draw(everywhere, rng, split, index * size)))
        return np.concatenate(samples)

    return draw_all


def classes_in_turn(num_samples: int) -> np.ndarray:
    """Labels [N]: ten of a class in turn, so that the first hundred make a table of all classes."""
    return np.arange(num_samples, dtype=np.int32) // 10 % NUM_CLASSES
