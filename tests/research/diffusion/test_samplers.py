"""The calls themselves: counted evaluations, keys per sample, splits, trajectories, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import oracles, processes, samplers

VP, EDM = processes.vp(), processes.edm()
SHAPE = (8, 3)


def target(process=VP):
    covariance = [[1.0, 0.4, 0.0], [0.4, 0.5, 0.1], [0.0, 0.1, 0.3]]
    return oracles.gaussian(process, [0.3, -0.2, 0.1], covariance)


def counted(score, calls):
    """The score, with a note in `calls` of every time that it is really evaluated."""

    def note(t):
        calls.append(float(t))
        return np.zeros((), np.float32)

    def wrapped(x, t):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        zero = jax.pure_callback(note, shape, t.reshape(-1)[0], vmap_method="sequential")
        return score(x, t) + zero.astype(x.dtype)

    return wrapped


PC = samplers.predictor_corrector(samplers.reverse_diffusion(), samplers.langevin(0.1, 2))
COUNTS = {  # NFE of 6 steps, without and with a step to zero noise
    "euler": (samplers.euler(), 6, 6),
    "heun": (samplers.heun(), 12, 11),
    "churn": (samplers.heun(churn=5.0), 12, 11),
    "rk4": (samplers.rk4(), 24, 21),
    "dpm_3": (samplers.dpm_solver(3), 18, 16),
    "2m": (samplers.dpm_solver_pp(2), 6, 6),
    "3m": (samplers.dpm_solver_pp(3), 7, 7),
    "unipc_3": (samplers.unipc(3), 8, 8),
    "pc": (PC, 18, 16),
}


@pytest.mark.parametrize("name", COUNTS)
def test_nfe_is_what_is_evaluated(name):
    solver, plain, to_zero = COUNTS[name]
    for expected, grid in (
        (plain, samplers.log_snr_grid(6)),
        (to_zero, samplers.log_snr_grid(6, to_zero=True)),
    ):
        calls = []
        score = counted(target(), calls)
        samples, info = samplers.sample(
            score, VP, jax.random.key(0), SHAPE, solver=solver, grid=grid
        )
        jax.block_until_ready(samples)
        assert info.nfe == expected == len(calls)
        assert np.isclose(calls[0], VP.t_max) or name == "churn"


@pytest.mark.parametrize("levels, nfe", [(18, 35), (32, 63), (40, 79), (256, 511)])
def test_heun_takes_the_published_number_of_evaluations(levels, nfe):
    grid = samplers.karras_grid(levels, to_zero=True)
    table = jax.eval_shape(lambda: samplers.solver_table(samplers.heun(), EDM, grid))
    assert table.num_rows == nfe


def test_karras_grid_is_the_published_one(x64):
    times = samplers.karras_grid(18, rho=7.0, to_zero=True).times(EDM)
    ramp = np.arange(18) / 17
    expected = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(times, expected, rtol=1e-12)
    uniform = samplers.uniform_grid(4, t_start=0.9, t_end=0.1).times(VP)
    np.testing.assert_allclose(uniform, [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-12)
    steps = np.diff(VP.log_snr(samplers.log_snr_grid(7).times(VP)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


STOCHASTIC = {
    "euler_maruyama": samplers.euler_maruyama(),
    "churn": samplers.heun(churn=5.0),
    "pc": PC,
    "sde_2m": samplers.dpm_solver_pp(2, eta=1.0),
    "heun": samplers.heun(),
}


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("wide", [True, False])
def test_samples_do_not_depend_on_the_batch_or_the_devices(name, wide):
    """64 at once, 4 x 16, and spread over two devices; a step size from the batch would differ."""
    score = target()

    def draw(rng, num, first_index):
        return samplers.sample(
            score,
            VP,
            rng,
            (num, 3),
            solver=STOCHASTIC[name],
            grid=samplers.log_snr_grid(8, to_zero=True),
            first_index=first_index,
        )[0]

    with jax.enable_x64(wide):
        rng = jax.random.key(3)
        draw_some = jax.jit(draw, static_argnums=1)
        whole = np.asarray(draw_some(rng, 64, 0))
        parts = np.concatenate([draw_some(rng, 16, first) for first in range(0, 64, 16)])
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        sharded = jax.jit(draw, static_argnums=1, out_shardings=spread)(rng, 64, 0)
        assert len(sharded.sharding.device_set) == 2
        assert whole.dtype == (np.float64 if wide else np.float32)
        tolerance = 1e-12 if wide else 1e-5
        scale = np.abs(whole).max()
        np.testing.assert_allclose(parts, whole, rtol=0, atol=tolerance * scale)
        np.testing.assert_allclose(sharded, whole, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("wide", [True, False])
def test_noise_is_bit_equal_under_any_split(wide):
    """With a zero score the sampler returns a sum of its noise: only the noise can differ."""

    def draw(rng, num, first_index):
        _, info = samplers.sample(
            lambda x, t: jnp.zeros_like(x),
            processes.ve(0.5, 2.0),
            rng,
            (num, 5),
            solver=samplers.euler_maruyama(),
            grid=samplers.uniform_grid(2),
            first_index=first_index,
            every=1,
        )
        return info.trajectory

    with jax.enable_x64(wide):
        rng = jax.random.key(3)
        draw_some = jax.jit(draw, static_argnums=1)
        whole = np.asarray(draw_some(rng, 64, 0))
        parts = np.concatenate([draw_some(rng, 16, first) for first in range(0, 64, 16)], axis=1)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
        sharded = jax.jit(draw, static_argnums=1, out_shardings=spread)(rng, 64, 0)
        np.testing.assert_array_equal(parts, whole)
        np.testing.assert_array_equal(sharded, whole)
        steps = np.diff(whole, axis=0)
        assert np.unique(np.round(whole[0], 6)).size == whole[0].size  # no key is used twice
        assert abs(np.corrcoef(steps[0].ravel(), steps[1].ravel())[0, 1]) < 0.25


def test_trajectory_on_request(x64):
    score, rng = target(), jax.random.key(0)
    grid = samplers.log_snr_grid(6, to_zero=True)
    for solver in (samplers.heun(), samplers.unipc(2)):
        draw = lambda every, solver=solver: samplers.sample(
            score, VP, rng, SHAPE, solver=solver, grid=grid, every=every
        )
        samples, info = draw(None)
        assert info.trajectory is None
        same, info = draw(2)
        np.testing.assert_allclose(same, samples, rtol=1e-12)
        assert info.trajectory.shape == (4, *SHAPE)
        np.testing.assert_array_equal(info.trajectory[-1], same)
        times = np.asarray(grid.times(VP))
        np.testing.assert_allclose(info.trajectory_times, [*times[[0, 2, 4]], 0.0], rtol=1e-12)
        # the recorded state after two steps is the end of a two-step run
        short = samplers.times_grid(times[:3])
        end = samplers.integrate(score, VP, info.trajectory[0], solver=solver, grid=short)
        np.testing.assert_allclose(info.trajectory[1], end, rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_steps():
    """Beside the table (numbers a step) the compiled sampler's memory is flat in the steps."""

    def temporary_bytes(num_steps, every=None):
        draw = lambda rng: samplers.sample(
            target(),
            VP,
            rng,
            (512, 3),
            solver=samplers.heun(),
            grid=samplers.log_snr_grid(num_steps),
            every=every,
        )
        analysis = jax.jit(draw).lower(jax.random.key(0)).compile().memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    state = 512 * 3 * 4
    assert temporary_bytes(400) - temporary_bytes(50) < 50 * state
    assert temporary_bytes(400, every=1) - temporary_bytes(50, every=1) > 349 * state


def test_project_is_applied_at_every_grid_time(x64):
    """Holding the first coordinate on a path leaves it there at the end; keys are fresh."""
    seen = []

    def project(x, t, rngs):
        seen.append(rngs.shape)
        draws = jax.vmap(jax.random.normal)(rngs)
        return x.at[:, 0].set(100.0 * t).at[:, 1].set(draws)

    for solver in (samplers.rk4(), samplers.euler_maruyama()):
        _, info = samplers.sample(
            target(),
            VP,
            jax.random.key(0),
            SHAPE,
            solver=solver,
            grid=samplers.uniform_grid(3),
            project=project,
            every=1,
        )
        path = np.asarray(info.trajectory)
        expected = np.repeat(100.0 * info.trajectory_times[1:, None], SHAPE[0], 1)
        np.testing.assert_allclose(path[1:, :, 0], expected, rtol=1e-9)
        assert np.unique(np.round(path[1:, :, 1], 9)).size == 3 * SHAPE[0]
    assert set(seen) == {SHAPE[:1]}


def test_integrate_reaches_the_exact_flow(x64):
    for process in (VP, processes.sub_vp(), processes.flow(), processes.ve(0.01, 50.0)):
        score = target(process)
        x = process.prior_std * jax.random.normal(jax.random.key(0), SHAPE)
        exact = score.transport(x, process.t_max, process.t_min)
        end = samplers.integrate(
            score, process, x, solver=samplers.rk4("log_snr"), grid=samplers.log_snr_grid(600)
        )
        np.testing.assert_allclose(end, exact, atol=1e-8)


def test_adaptive_reaches_the_exact_flow_inside_jit(x64):
    score = target()
    x = jax.random.normal(jax.random.key(0), SHAPE)
    exact = score.transport(x, VP.t_max, VP.t_min)
    solve = jax.jit(lambda x: samplers.solve(score, VP, x, solver=samplers.adaptive(1e-10, 1e-10)))
    end, info = solve(x)
    np.testing.assert_allclose(end, exact, atol=1e-8)
    assert info.nfe.shape == (8,)


def test_adaptive_controls_the_error_of_each_sample(x64):
    """A hard sample must not change an easy one's result, and costs evaluations of its own."""
    calls = []
    mixture = oracles.mixture(EDM, [0.5, 0.5], [[-1.0], [1.0]], 1e-4)
    score = counted(mixture, calls)
    x = jnp.array([[60.0], [1e-3], [-100.0]])
    solver = samplers.adaptive(1e-4, 1e-4)
    together, info = samplers.solve(score, EDM, x, solver=solver)
    jax.block_until_ready(together)
    assert len(calls) == 3 * int(info.nfe.max())  # the batch steps until the last one is done
    for i in range(3):
        calls.clear()
        alone, one = samplers.solve(score, EDM, x[i : i + 1], solver=solver)
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-12)
        assert int(one.nfe[0]) == int(info.nfe[i]) == len(calls)
    assert len(set(info.nfe.tolist())) > 1


def test_adaptive_gives_nan_when_it_runs_out_of_steps():
    end, _ = samplers.solve(
        target(), VP, jnp.ones(SHAPE), solver=samplers.adaptive(1e-6, 1e-6, max_steps=3)
    )
    assert np.all(np.isnan(end))


def test_sweeps_over_settings_in_one_compilation(x64):
    """Numbers of solvers and grids are leaves: vmapped and one-by-one runs agree."""
    score, rng = target(EDM), jax.random.key(0)

    def draw(rho, churn):
        solver, grid = samplers.heun(churn=churn), samplers.karras_grid(8, rho)
        return samplers.sample(score, EDM, rng, (4, 3), solver=solver, grid=grid)[0]

    rhos, churns = jnp.array([3.0, 7.0]), jnp.array([1.0, 4.0])
    swept = jax.jit(jax.vmap(draw))(rhos, churns)
    for i in range(2):
        np.testing.assert_allclose(swept[i], jax.jit(draw)(rhos[i], churns[i]), rtol=1e-9)
    etas = jnp.array([0.0, 1.0])
    sweep = jax.vmap(
        lambda eta: samplers.sample(
            score, EDM, rng, (4, 3), solver=samplers.ddim(eta), grid=samplers.karras_grid(8)
        )[0]
    )(etas)
    plain, _ = samplers.sample(
        score, EDM, rng, (4, 3), solver=samplers.ddim(), grid=samplers.karras_grid(8)
    )
    np.testing.assert_allclose(sweep[0], plain, rtol=1e-9)


def test_gradients_flow_through_a_sampler(x64):
    """d(end)/d(start) of the sampler tends to that of the exact flow map."""
    score, grid = target(), samplers.log_snr_grid(200)
    run = lambda x: samplers.integrate(score, VP, x, solver=samplers.rk4("log_snr"), grid=grid)
    x = jnp.ones((1, 3))
    jacobian = jax.jit(jax.jacrev(run))(x)[0, :, 0]
    exact = jax.jacfwd(lambda x: score.transport(x, VP.t_max, VP.t_min))(x)[0, :, 0]
    np.testing.assert_allclose(jacobian, exact, atol=1e-7)
