"""PLMS: the published recursion by hand, a single step, the order on equal steps of its clock."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import processes, samplers

_VP = processes.vp()


def _score(x, t):
    return -jnp.tanh(x) - 0.3 * t[:, None] * jnp.cos(x)


def _by_hand(process, times, x):
    """The recursion as its code tells it, with a list of noises, in NumPy float64."""
    alpha, sigma = (
        np.asarray(curve(jnp.asarray(times))) for curve in (process.alpha, process.sigma)
    )

    def noise(x, i):
        return -sigma[i] * np.asarray(_score(jnp.asarray(x), jnp.full(len(x), times[i])))

    def move(x, eps, i):
        data = (x - sigma[i] * eps) / alpha[i]
        return alpha[i + 1] * data + sigma[i + 1] * eps

    kept = [noise(x, 0)]
    tried = move(x, kept[0], 0)
    x = move(x, (kept[0] + noise(tried, 1)) / 2, 0)
    for i in range(1, len(times) - 1):
        kept.append(noise(x, i))
        e = kept[::-1]
        if len(e) == 2:
            eps = (3 * e[0] - e[1]) / 2
        elif len(e) == 3:
            eps = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            eps = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = move(x, eps, i)
    return x


@pytest.mark.parametrize("num_steps", [2, 3, 4, 9])
def test_equals_the_recursion(x64, num_steps):
    x = np.random.default_rng(0).normal(size=(5, 2))
    times = np.linspace(0.9, 0.1, num_steps + 1)
    grid = samplers.times_grid(times)
    got, info = samplers.solve(_score, _VP, jnp.asarray(x), solver=samplers.plms(), grid=grid)
    np.testing.assert_allclose(got, _by_hand(_VP, times, x), rtol=1e-10)
    assert info.nfe == num_steps + 1


def test_a_single_step_is_ddim(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))
    grid = samplers.times_grid([0.8, 0.3])
    one = samplers.integrate(_score, _VP, x, solver=samplers.plms(), grid=grid)
    np.testing.assert_array_equal(
        one, samplers.integrate(_score, _VP, x, solver=samplers.ddim(), grid=grid)
    )


def test_order_on_equal_steps_of_the_clock(x64):
    """Order 4 but for the start, whose two second-order steps leave an error of order 3."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(8, 1)))

    def end(num_steps, solver):
        clock = np.linspace(3.0, 0.5, num_steps + 1)
        times = np.asarray(_VP.inverse_log_snr(-2 * jnp.log(jnp.asarray(clock))))
        grid = samplers.times_grid(times)
        return np.asarray(samplers.integrate(_score, _VP, x, solver=solver, grid=grid))

    exact = end(512, samplers.rk4())
    errors = [np.abs(end(num, samplers.plms()) - exact).max() for num in (16, 32, 64, 128)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[-1] == pytest.approx(3, abs=0.25)
