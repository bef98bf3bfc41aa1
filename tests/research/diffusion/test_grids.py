"""Grids of times: the published schedule, equal steps in each variable, and what is refused."""

import jax
import numpy as np
import pytest

from research.diffusion import processes, samplers

VP, EDM = processes.vp(), processes.edm()


def test_karras_grid_is_the_published_one(x64):
    times = jax.jit(lambda: samplers.karras_grid(18, rho=7.0, to_zero=True).times(EDM))()
    ramp = np.arange(18) / 17
    expected = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(times, expected, rtol=1e-12)


def test_equal_steps_in_time_and_in_log_snr(x64):
    @jax.jit
    def times():
        uniform = samplers.uniform_grid(4, t_start=0.9, t_end=0.1).times(VP)
        even = samplers.log_snr_grid(7).times(VP)
        return uniform, even, VP.log_snr(even)

    uniform, even, log_snr = times()
    np.testing.assert_allclose(uniform, [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-12)
    steps = np.diff(log_snr)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    np.testing.assert_array_equal(even[np.array([0, -1])], [VP.t_max, VP.t_min])  # to the bit


def test_a_step_to_zero_noise_is_one_of_the_steps(x64):
    grid = samplers.uniform_grid(5, to_zero=True, t_start=0.9, t_end=0.1)
    assert grid.num_steps == 5 and grid.to_zero
    times = jax.jit(lambda: grid.times(VP))()
    np.testing.assert_allclose(times, [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-12)


def test_given_times_are_kept_and_counted(x64):
    grid = samplers.times_grid([0.9, 0.5, 0.2], to_zero=True)
    assert grid.num_steps == 3 and grid.ends(VP) == (0.9, 0.2)
    np.testing.assert_array_equal(jax.jit(lambda: grid.times(VP))(), [0.9, 0.5, 0.2])
    assert samplers.times_grid([0.9, 0.5, 0.2]).num_steps == 2


def test_one_time_and_a_step_to_zero_noise_is_the_denoised_state(x64):
    """No solver has anything to do there, whatever its order, its memory or its noise."""
    grid = samplers.times_grid([0.4], to_zero=True)
    assert grid.num_steps == 1 and grid.ends(VP) == (0.4, 0.4)
    x = np.linspace(-1, 2, 6).reshape(2, 3)
    alpha, sigma = float(VP.alpha(0.4)), float(VP.sigma(0.4))
    score = lambda x, t: -0.3 * x  # noqa: E731
    run = lambda solver, **k: samplers.solve(score, VP, x, solver=solver, grid=grid, **k)  # noqa: E731
    out, info = run(samplers.dpm_solver_pp(3), every=1)
    np.testing.assert_allclose(out, (1 - 0.3 * sigma**2) / alpha * x, rtol=1e-12)
    np.testing.assert_array_equal(info.trajectory, [x, out])
    np.testing.assert_array_equal(info.trajectory_times, [0.4, 0.0])
    assert info.nfe == 1
    for solver in (samplers.plms(), samplers.heun(), samplers.ancestral()):
        assert samplers.solver_table(solver, VP, grid).num_rows == 1


@pytest.mark.parametrize("levels, nfe", [(18, 35), (32, 63), (40, 79), (256, 511)])
def test_heun_takes_the_published_number_of_evaluations(levels, nfe):
    grid = samplers.karras_grid(levels, to_zero=True)
    table = jax.eval_shape(lambda: samplers.solver_table(samplers.heun(), EDM, grid))
    assert table.num_rows == nfe


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: samplers.uniform_grid(4, t_end=-0.1).times(VP), "expected times in"),
        (lambda: samplers.uniform_grid(4, t_start=0.1, t_end=0.5).times(VP), "falling"),
        (
            lambda: samplers.uniform_grid(2, t_start=0.5, t_end=0.5, to_zero=True).times(VP),
            "falling",
        ),
        (lambda: samplers.times_grid([0.1, 0.5]), "falling"),
        (lambda: samplers.times_grid([2.0], to_zero=True).times(VP), "expected times in"),
        (lambda: samplers.times_grid([0.1]), "at least 2"),
        (lambda: samplers.uniform_grid(0), "num_steps=0"),
        (lambda: samplers.uniform_grid(4.0), "num_steps=4.0"),
        (lambda: samplers.karras_grid(4, rho=0.0), "rho=0.0"),
        (lambda: samplers.karras_grid(4, rho=float("nan")), "rho=nan"),
        (lambda: samplers.uniform_grid(4, t_end=float("nan")).times(VP), "grid ends=.*nan"),
        (lambda: samplers.times_grid([0.5, float("nan")]), "falling"),
        (lambda: samplers.log_snr_grid(1, to_zero=True), "num_steps=1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_times_of_a_numerical_inverse_stay_apart():
    """Equal times would be a step of length zero, by which multistep solvers divide."""
    process = processes.from_alpha_sigma(lambda t: 1 - t, lambda t: t, 1e-8, 0.999)
    for make in (samplers.log_snr_grid, samplers.karras_grid):
        times = np.asarray(jax.jit(lambda make=make: make(300).times(process))())
        exact = np.asarray(make(300).times(processes.flow(1e-8, 0.999)))
        assert (np.diff(times) < 0).all()
        np.testing.assert_allclose(times, exact, rtol=1e-4)
