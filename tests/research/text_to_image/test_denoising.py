"""Sampling along a plan with networks in closed form: every kind of ending, and the guidance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import samplers
from research.text_to_image import denoising
from research.text_to_image.denoising import Guidance, Plan
from research.text_to_image.schedules import Schedule

NOISE = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
RNGS = samplers.sample_rngs(jax.random.key(0), 3)
NONE = Guidance(jnp.float32(1), jnp.float32(0))
SCHEDULE = Schedule()
BAR = SCHEDULE.alpha_bar


def _guess(x, steps):
    return 0.3 * jnp.tanh(x) + 1e-4 * steps[:, None, None, None] * x


def _by_hand(x, steps, bars):
    for i, step in enumerate(steps):
        out = 0.3 * np.tanh(x) + 1e-4 * step * x
        data = (x - (1 - bars[i]) ** 0.5 * out) / bars[i] ** 0.5
        x = bars[i + 1] ** 0.5 * data + (1 - bars[i + 1]) ** 0.5 * out
    return x


def _run(plan, network=_guess, guidance=NONE, noise=NOISE, **options):
    return denoising.run(plan, network, guidance, jnp.asarray(noise), RNGS, **options)


@pytest.mark.parametrize("to_zero", [False, True])
@pytest.mark.parametrize("steps", [(800, 300, 1), (800, 0), (800,), (0,)])
def test_endings(x64, steps, to_zero):
    """To the noise of step 0, or to none; at step 0 already, there is nothing left to do."""
    schedule = dataclasses.replace(SCHEDULE, to_zero=to_zero)
    plan = Plan(schedule, steps, samplers.ddim(), start_std=0.9, guided=False)
    bars = np.append(BAR[list(steps)], 1.0 if to_zero else BAR[0])
    expected = _by_hand(0.9 * NOISE, steps, bars)
    np.testing.assert_allclose(_run(plan), expected, rtol=1e-9)


def test_no_steps_change_nothing():
    plan = Plan(SCHEDULE, (), samplers.ddim())
    start = jnp.ones(3)
    assert denoising.run(plan, _guess, NONE, NOISE, RNGS, start=start) is start


@pytest.mark.parametrize("kind", ["v", "data"])
@pytest.mark.parametrize(
    ("steps", "to_zero"), [((999, 400), False), ((999,), True), ((999,), False)]
)
def test_the_step_from_noise_alone(x64, kind, steps, to_zero):
    """Where alpha is 0 the prediction is the data (v: its negative), and x is the noise."""
    schedule = Schedule(kind=kind, zero_terminal_snr=True, to_zero=to_zero)
    bar = schedule.alpha_bar
    plan = Plan(schedule, steps, samplers.ddim(), guided=False)
    out = np.asarray(_guess(NOISE, jnp.full(3, 999.0)))
    data = -out if kind == "v" else out
    x = data
    if not (to_zero and len(steps) == 1):
        nxt = bar[steps[1]] if len(steps) > 1 else bar[0]
        x = nxt**0.5 * data + (1 - nxt) ** 0.5 * NOISE
    if len(steps) > 1:
        a, s = bar[400] ** 0.5, (1 - bar[400]) ** 0.5
        out = np.asarray(_guess(x, jnp.full(3, 400.0)))
        d, n = (a * x - s * out, s * x + a * out) if kind == "v" else (out, (x - a * out) / s)
        x = bar[0] ** 0.5 * d + (1 - bar[0]) ** 0.5 * n
    np.testing.assert_allclose(_run(plan), x, rtol=1e-9)


def test_start_and_what_is_put_back(x64):
    known = np.random.default_rng(1).normal(size=NOISE.shape)
    where = np.zeros((3, 2, 2, 1), bool)
    where[:, 0] = True
    level = lambda bar: bar**0.5 * known + (1 - bar) ** 0.5 * NOISE  # noqa: E731
    plan = Plan(SCHEDULE, (700, 200), samplers.ddim(), guided=False)
    started = _run(plan, start=jnp.asarray(known))
    bars = BAR[[700, 200, 0]]
    np.testing.assert_allclose(started, _by_hand(level(BAR[700]), (700, 200), bars), rtol=1e-9)
    got = _run(plan, replace=(jnp.asarray(where), jnp.asarray(known)))
    x = np.where(where, NOISE, level(bars[0]))
    for i, step in enumerate((700, 200)):
        x = np.where(where, _by_hand(x, (step,), bars[i : i + 2]), level(bars[i + 1]))
    np.testing.assert_allclose(got, x, rtol=1e-9)


def test_guidance_is_one_call_on_both_halves(x64):
    """The first half of the rows is under the prompt, the second under the negative one."""
    plan = Plan(SCHEDULE, (700, 200), samplers.ddim(), interval=(200, 300), rescaled=True)
    half = np.repeat([2.0, 5.0], 3)[:, None, None, None]
    network = lambda x, steps: half * x + 0.01 * steps[:, None, None, None]  # noqa: E731
    predict = denoising.guided(plan, network, Guidance(jnp.float32(3), jnp.float32(0.5)))
    x = jnp.asarray(NOISE)
    steps = jnp.array([700.0, 200.0, 300.0])
    shift = 0.01 * np.array(steps)[:, None, None, None]
    towards, away = 2 * NOISE + shift, 5 * NOISE + shift
    weight = np.array([1, 3, 3])[:, None, None, None]
    mixed = away + weight * (towards - away)
    std = lambda y: y.std((1, 2, 3), keepdims=True)  # noqa: E731
    expected = 0.5 * mixed * std(towards) / std(mixed) + 0.5 * mixed
    np.testing.assert_allclose(predict(x, steps), expected, rtol=1e-9)
    plain = denoising.guided(dataclasses.replace(plan, guided=False), lambda x, t: 2 * x, NONE)
    np.testing.assert_allclose(plain(x, steps), 2 * NOISE, rtol=1e-12)


def test_a_solver_that_draws_takes_each_examples_key(x64):
    plan = Plan(SCHEDULE, (700, 200), samplers.ancestral(), guided=False)
    both = _run(plan)
    alone = denoising.run(plan, _guess, NONE, jnp.asarray(NOISE[1:2]), RNGS[1:2])
    np.testing.assert_allclose(alone[0], both[1], rtol=1e-10)
    assert np.abs(both - _run(dataclasses.replace(plan, solver=samplers.ddim()))).max() > 0.1
