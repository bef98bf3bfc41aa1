"""The calls themselves: counted evaluations, keys per sample, splits, trajectories, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import oracles, processes, samplers
from tests.research.diffusion.counting import counted

VP, EDM = processes.vp(), processes.edm()
SHAPE = (8, 3)


def target(process=VP):
    covariance = [[1.0, 0.4, 0.0], [0.4, 0.5, 0.1], [0.0, 0.1, 0.3]]
    return oracles.gaussian(process, [0.3, -0.2, 0.1], covariance)


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


@pytest.fixture(scope="module")
def counts():
    """{(solver, to_zero): (reported, times of the evaluations)}, all from one program."""
    score = target(EDM)
    noted, reported = {}, {}

    @jax.jit
    def draw():
        ends = []
        for name, (solver, *_) in COUNTS.items():
            for to_zero in (False, True):
                case = name, to_zero
                noted[case] = []
                end, info = samplers.sample(
                    counted(score, noted[case]),
                    EDM,
                    jax.random.key(0),
                    SHAPE,
                    solver=solver,
                    grid=samplers.log_snr_grid(6, to_zero=to_zero),
                )
                reported[case] = info.nfe
                ends.append(end)
        return ends

    jax.block_until_ready(draw())
    return {case: (reported[case], noted[case]) for case in noted}


@pytest.mark.parametrize("name", COUNTS)
def test_nfe_is_what_is_evaluated(name, counts):
    _, plain, to_zero = COUNTS[name]
    for expected, case in ((plain, (name, False)), (to_zero, (name, True))):
        nfe, calls = counts[case]
        assert nfe == expected == len(calls)
        assert np.isclose(calls[0], EDM.t_max) or name == "churn"


STOCHASTIC = {
    "euler_maruyama": samplers.euler_maruyama(),
    "churn": samplers.heun(churn=5.0),
    "pc": PC,
    "sde_2m": samplers.dpm_solver_pp(2, eta=1.0),
    "heun": samplers.heun(),
}


def sharded(*axes):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


@pytest.fixture(scope="module", params=[True, False], ids=["float64", "float32"])
def splits(request):
    """{solver: (64 samples over two devices, 4 x 16 on one)} and their dtype, in two programs."""
    score = target(EDM)

    def draw(rng, num, first_index):
        grid = samplers.log_snr_grid(8, to_zero=True)
        return {
            name: samplers.sample(
                score, EDM, rng, (num, 3), solver=solver, grid=grid, first_index=first_index
            )[0]
            for name, solver in STOCHASTIC.items()
        }

    with jax.enable_x64(request.param):
        rng = jax.random.key(3)
        draw_some = jax.jit(draw, static_argnums=1)
        parts = [draw_some(rng, 16, first) for first in range(0, 64, 16)]
        parts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        whole = jax.jit(draw, static_argnums=1, out_shardings=sharded("data"))(rng, 64, 0)
        return whole, parts, np.float64 if request.param else np.float32


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_do_not_depend_on_the_batch_or_the_devices(name, splits):
    """64 over two devices, 4 x 16 on one; a step size from the batch would differ."""
    whole, parts, dtype = (splits[0][name], splits[1][name], splits[2])
    assert len(whole.sharding.device_set) == 2
    assert whole.dtype == parts.dtype == dtype
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    scale = np.abs(whole).max()
    np.testing.assert_allclose(parts, whole, rtol=0, atol=tolerance * scale)


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
        parts = np.concatenate([draw_some(rng, 16, first) for first in range(0, 64, 16)], axis=1)
        spread = jax.jit(draw, static_argnums=1, out_shardings=sharded(None, "data"))(rng, 64, 0)
        assert len(spread.sharding.device_set) == 2
        whole = np.asarray(spread)
        np.testing.assert_array_equal(parts, whole)
        steps = np.diff(whole, axis=0)
        assert np.unique(np.round(whole[0], 6)).size == whole[0].size  # no key is used twice
        assert abs(np.corrcoef(steps[0].ravel(), steps[1].ravel())[0, 1]) < 0.25


@pytest.mark.parametrize("solver", [samplers.heun(), samplers.unipc(2)], ids=["heun", "unipc"])
def test_trajectory_on_request(solver, x64):
    score = target(EDM)
    grid = samplers.log_snr_grid(6, to_zero=True)
    times = EDM.t_max * (EDM.t_min / EDM.t_max) ** (np.arange(6) / 5)

    @jax.jit
    def draw(rng):
        found = [
            samplers.sample(score, EDM, rng, SHAPE, solver=solver, grid=grid, every=every)
            for every in (None, 2)
        ]
        # the recorded state after two steps is the end of a two-step run
        start = found[1][1].trajectory[0]
        short = samplers.times_grid(times[:3])
        return found, samplers.integrate(score, EDM, start, solver=solver, grid=short)

    ((samples, plain), (same, info)), end = draw(jax.random.key(0))
    assert plain.trajectory is None
    np.testing.assert_allclose(same, samples, rtol=1e-12)
    assert info.trajectory.shape == (4, *SHAPE)
    np.testing.assert_array_equal(info.trajectory[-1], same)
    np.testing.assert_allclose(info.trajectory_times, [*times[[0, 2, 4]], 0.0], rtol=1e-12)
    np.testing.assert_allclose(info.trajectory[1], end, rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_steps():
    """Beside the table (numbers a step) the compiled sampler's memory is flat in the steps."""

    def temporary_bytes(num_steps, every=None):
        draw = lambda rng: samplers.sample(
            target(EDM),
            EDM,
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

    @jax.jit
    def infos(rng):
        options = {"grid": samplers.uniform_grid(3), "project": project, "every": 1}
        return [
            samplers.sample(target(), VP, rng, SHAPE, solver=solver, **options)[1]
            for solver in (samplers.rk4(), samplers.euler_maruyama())
        ]

    for info in infos(jax.random.key(0)):
        path = np.asarray(info.trajectory)
        expected = np.repeat(100.0 * np.asarray(info.trajectory_times)[1:, None], SHAPE[0], 1)
        np.testing.assert_allclose(path[1:, :, 0], expected, rtol=1e-9)
        assert np.unique(np.round(path[1:, :, 1], 9)).size == 3 * SHAPE[0]
    assert set(seen) == {SHAPE[:1]}


def test_integrate_reaches_the_exact_flow(x64):
    unit = np.random.default_rng(0).normal(size=SHAPE)
    for process in (VP, processes.sub_vp(), processes.flow(), processes.ve(0.01, 50.0)):
        score = target(process)

        @jax.jit
        def ends(x, process=process, score=score):
            grid = samplers.log_snr_grid(600)
            end = samplers.integrate(score, process, x, solver=samplers.rk4("log_snr"), grid=grid)
            return end, score.transport(x, process.t_max, process.t_min)

        end, exact = ends(process.prior_std * unit)
        np.testing.assert_allclose(end, exact, atol=1e-8)


def test_carried_states_draw_the_noise_of_their_index(x64):
    """Two halves of a batch, the second from its first index on, are the whole batch."""
    score, rng = target(EDM), jax.random.key(3)
    x = 80 * np.random.default_rng(1).normal(size=(4, 3))
    options = dict(solver=samplers.ancestral(), grid=samplers.karras_grid(5), rng=rng)

    @jax.jit
    def all_of(x):
        run = lambda x, **more: samplers.integrate(score, EDM, x, **options, **more)
        return run(x), run(x[:2]), run(x[2:], first_index=2), run(x[2:])

    whole, first, second, other = all_of(x)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-10)
    assert np.abs(other - second).max() > 1e-3


def test_sweeps_over_settings_in_one_compilation(x64):
    """Numbers of solvers and grids are leaves: vmapped and one-by-one runs agree."""
    score, rng = target(EDM), jax.random.key(0)

    def draw(solver, grid):
        return samplers.sample(score, EDM, rng, (4, 3), solver=solver, grid=grid)[0]

    churned = lambda rho, churn: draw(samplers.heun(churn=churn), samplers.karras_grid(8, rho))
    rhos, churns = np.array([3.0, 7.0]), np.array([1.0, 4.0])
    swept = jax.jit(jax.vmap(churned))(rhos, churns)
    single = jax.jit(churned)
    for i in range(2):
        np.testing.assert_allclose(swept[i], single(rhos[i], churns[i]), rtol=1e-9)

    @jax.jit
    def ddim(etas):
        grid = samplers.karras_grid(8)
        sweep = jax.vmap(lambda eta: draw(samplers.ddim(eta), grid))(etas)
        return sweep, draw(samplers.ddim(), grid)

    sweep, plain = ddim(np.array([0.0, 1.0]))
    np.testing.assert_allclose(sweep[0], plain, rtol=1e-9)


def test_gradients_flow_through_a_sampler(x64):
    """d(end)/d(start) of the sampler tends to that of the exact flow map."""
    score, grid = target(), samplers.log_snr_grid(200)
    run = lambda x: samplers.integrate(score, VP, x, solver=samplers.rk4("log_snr"), grid=grid)
    move = lambda x: score.transport(x, VP.t_max, VP.t_min)
    jacobian, exact = jax.jit(lambda x: (jax.jacrev(run)(x), jax.jacfwd(move)(x)))(np.ones((1, 3)))
    np.testing.assert_allclose(jacobian[0, :, 0], exact[0, :, 0], atol=1e-7)
