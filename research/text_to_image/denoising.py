"""From noise to latents along a list of steps, guided: what happens in the U-Net's space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax.numpy as jnp
import numpy as np

from library.types import Array, Key
from research.diffusion import guidance as guiding
from research.diffusion import predictions
from research.diffusion.curves import expand, wide
from research.diffusion.sampling import samplers
from research.text_to_image.schedules import Schedule

# (x [B, h, w, C], steps [B]) -> [B, h, w, C] of the schedule's kind; of [2 B] rows, the second half
# under the negative condition, where a plan is guided
Network = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to sample.

    Attributes:
        schedule: the table, and what the network predicts.
        steps: of the table, falling; none for an edit that changes nothing.
        solver: how to step.
        start_std: of the noise that sampling starts from.
        guided: whether the network is asked under two conditions.
        rescaled: whether the guided prediction is rescaled.
        interval: steps (low, high) between which guidance acts; None for all.
    """

    schedule: Schedule
    steps: tuple[int, ...]
    solver: samplers.Solver
    start_std: float = 1.0
    guided: bool = True
    rescaled: bool = False
    interval: tuple[int, int] | None = None


@flax.struct.dataclass
class Guidance:
    """The numbers of a guidance.

    Attributes:
        weight: w of u + w (c - u).
        rescale: amount of `diffusion.guidance.rescale`.
    """

    weight: Array
    rescale: Array


def run(
    plan: Plan,
    network: Network,
    guidance: Guidance,
    noise: Array,
    rngs: Key,
    *,
    start: Array | None = None,
    replace: tuple[Array, Array] | None = None,
) -> Array:
    """Latents [B, h, w, C] at the end of the plan.

    Args:
        plan: the steps.
        network: what is sampled.
        guidance: read by a guided plan.
        noise: [B, h, w, C], standard normal.
        rngs: [B] keys, for a solver that draws noise.
        start: [B, h, w, C], latents that are noised to the first step; None starts from noise.
        replace: where to draw [B, h, w, 1] bool, and the latents [B, h, w, C] that stand elsewhere:
            noised by `noise`, they are put back after every step.
    """
    if not plan.steps:
        return start
    schedule = plan.schedule
    predict = guided(plan, network, guidance)
    if start is None:
        x = plan.start_std * noise
    else:
        alpha, sigma = _levels(schedule, plan.steps[0])
        x = alpha * start + sigma * noise
    put_back = None if replace is None else _put_back(schedule, noise, *replace)
    steps = plan.steps
    if schedule.alpha_bar[steps[0]] == 0:
        x, steps = _leave_noise(schedule, predict, x, steps), steps[1:]
    if put_back is not None and steps:
        x = put_back(x, jnp.full(len(x), schedule.time(steps[0]), x.dtype), None)
    if not steps:
        return x
    times = schedule.time(np.asarray(steps))
    if not schedule.to_zero and steps[-1] > 0:
        times = np.append(times, schedule.time(0))
    if len(times) < 2 - schedule.to_zero:
        return x  # the last noise level is reached
    at_time = lambda x, t: predict(x, schedule.step(t))
    score = predictions.to_score(schedule.process, at_time, schedule.kind)
    grid = samplers.times_grid(times, to_zero=schedule.to_zero)
    return samplers.solve(
        score, schedule.process, x, solver=plan.solver, grid=grid, rngs=rngs, project=put_back
    )[0]


def guided(plan: Plan, network: Network, guidance: Guidance) -> Network:
    """(x [B, ...], steps [B]) -> the guided prediction [B, ...], from one call of the network."""
    if not plan.guided:
        return lambda x, steps: wide(network(x, steps))

    def predict(x: Array, steps: Array) -> Array:
        both = wide(network(jnp.concatenate([x, x]), jnp.concatenate([steps, steps])))
        towards, away = jnp.split(both, 2)
        weight = jnp.broadcast_to(guidance.weight, steps.shape)
        if plan.interval is not None:
            low, high = plan.interval
            weight = jnp.where((steps >= low) & (steps <= high), weight, 1)
        mixed = away + expand(weight.astype(away.dtype), away) * (towards - away)
        if plan.rescaled:
            mixed = guiding.rescale(mixed, towards, guidance.rescale.astype(mixed.dtype))
        return mixed

    return predict


def _leave_noise(schedule: Schedule, predict: Network, x: Array, steps: tuple[int, ...]) -> Array:
    """The step from noise alone, where no score exists: data and noise as predicted, mixed anew."""
    out = predict(x, jnp.full(len(x), steps[0], x.dtype))
    data = -out if schedule.kind == "v" else out  # v = -x_0 where alpha is 0
    if len(steps) == 1 and schedule.to_zero:
        return data
    alpha, sigma = _levels(schedule, steps[1] if len(steps) > 1 else 0)
    return alpha * data + sigma * x


def _put_back(schedule: Schedule, noise: Array, where: Array, known: Array):
    """(x, t [B], keys) -> x with the known latents, noised to t, wherever nothing is drawn."""
    process = schedule.process

    def project(x: Array, t: Array, _: Key | None) -> Array:
        # A last step to zero noise reaches time 0, where the curves of the table start.
        alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
        return jnp.where(where, x, alpha * known + sigma * noise)

    return project


def _levels(schedule: Schedule, step: int) -> tuple[float, float]:
    bar = float(schedule.alpha_bar[step])
    return bar**0.5, (1 - bar) ** 0.5
