"""Stable Diffusion's tables and steps: printed values, every count, the files, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import predictions, samplers
from research.text_to_image import scheduler_fields, schedules
from research.text_to_image.schedules import Schedule

# diffusers 0.42.1, offset 1
STEPS = {
    ("leading", 3): [667, 334, 1],
    ("leading", 7): [853, 711, 569, 427, 285, 143, 1],
    ("trailing", 3): [999, 666, 332],
    ("trailing", 7): [999, 856, 713, 570, 428, 285, 142],
    ("linspace", 3): [999, 500, 0],
    ("linspace", 7): [999, 832, 666, 500, 333, 166, 0],
    ("leading", 1): [1],
    ("trailing", 1): [999],
    ("linspace", 1): [0],
}
MULTISTEP = {  # DPMSolverMultistepScheduler of the same version: a point more, and it left out
    ("leading", 3): [751, 501, 251],
    ("linspace", 3): [999, 666, 333],
    ("trailing", 3): [999, 666, 332],
}


def test_the_table_of_stable_diffusion():
    bar = Schedule().alpha_bar
    roots = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    np.testing.assert_allclose(bar, np.cumprod(1 - roots**2), rtol=1e-12)
    np.testing.assert_allclose(bar[[0, 500, 999]], [0.99915, 0.2763326838, 4.660098513077e-3], 1e-9)
    assert Schedule(table="linear", beta_start=1e-4, beta_end=0.02).alpha_bar[1] == pytest.approx(
        (1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999), rel=1e-12
    )
    given = Schedule(num_train_steps=3, betas=(0.1, 0.2, 0.5)).alpha_bar
    np.testing.assert_allclose(given, [0.9, 0.72, 0.36], rtol=1e-12)


def test_the_table_of_squared_cosines():
    """Nichol and Dhariwal 2021, eq. (17), with betas of at most 0.999."""
    bar = Schedule(num_train_steps=50, table="squaredcos_cap_v2").alpha_bar
    f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(bar[:-1], f(np.arange(1, 50) / 50) / f(0), rtol=1e-10)
    assert 1 - bar[-1] / bar[-2] == pytest.approx(0.999, rel=1e-10)


def test_without_terminal_signal():
    """Lin et al. 2024, algorithm 1: roots shifted and scaled; the printed value of the sheet."""
    schedule = Schedule(kind="v", zero_terminal_snr=True)
    plain = np.sqrt(Schedule().alpha_bar)
    assert schedule.alpha_bar[-1] == 0
    assert schedule.alpha_bar[500] == pytest.approx(0.2410186, abs=3e-7)  # by a float32 program
    np.testing.assert_allclose(
        np.sqrt(schedule.alpha_bar), (plain - plain[-1]) / (plain[0] - plain[-1]) * plain[0], 1e-10
    )
    assert schedule.process.t_max == 1 and schedule.time(998) == 1


def test_times_and_steps(x64):
    for schedule in (Schedule(), Schedule(kind="v", zero_terminal_snr=True)):
        steps = np.arange(len(schedule.alpha_bar) - schedule.zero_terminal_snr)
        times = jnp.asarray(schedule.time(steps))
        np.testing.assert_allclose(
            schedule.process.alpha(times) ** 2, schedule.alpha_bar[steps], rtol=1e-10
        )
        for dtype in (np.float32, np.float64):
            np.testing.assert_array_equal(schedule.step(times.astype(dtype)), steps)
        assert float(schedule.step(schedule.time(2.5))) == pytest.approx(2.5, rel=1e-9)


@pytest.mark.parametrize(("spacing", "num"), STEPS)
def test_steps_are_the_printed_ones(spacing, num):
    assert schedules.timesteps(Schedule(), num, spacing).tolist() == STEPS[spacing, num]
    own = schedules.timesteps(Schedule(spacing=spacing), num)
    assert own.tolist() == STEPS[spacing, num]
    if (spacing, num) in MULTISTEP:
        multistep = Schedule(solver="DPMSolverMultistepScheduler")
        assert schedules.timesteps(multistep, num, spacing).tolist() == MULTISTEP[spacing, num]


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
@pytest.mark.parametrize("solver", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_every_count_stays_on_the_table_and_falls(spacing, solver):
    for offset in (0, 1):
        schedule = Schedule(solver=solver, spacing=spacing, steps_offset=offset)
        for num in range(1, 1001):
            steps = schedules.timesteps(schedule, num)
            assert len(steps) == num and steps[0] <= 999 and steps[-1] >= 0
            assert np.all(np.diff(steps) < 0)
    assert len(schedules.timesteps(schedule)) == 50


def test_start_is_the_noise_that_the_class_starts_from():
    steps = np.array([999, 499])
    ones = [Schedule(), Schedule(solver="EulerDiscreteScheduler")]
    assert [schedules.start_std(s, steps) for s in ones] == [1, 1]
    at_sigma = Schedule(solver="EulerDiscreteScheduler", spacing="trailing")
    assert schedules.start_std(at_sigma, steps) == pytest.approx((1 - 4.660098513077e-3) ** 0.5)
    assert schedules.start_std(at_sigma, steps, "leading") == 1


@pytest.mark.parametrize("kind", ["noise", "v", "data"])
def test_ddim_on_a_list_of_steps_is_the_recursion_by_hand(x64, kind):
    """Each step goes to the next of the list, the last one to step 0's noise."""
    schedule = Schedule(kind=kind)
    steps = schedules.timesteps(schedule, 7)
    x = start = np.random.default_rng(0).normal(size=(2, 3))
    network = lambda x, step: 0.3 * np.tanh(x) + 2e-4 * step * x  # noqa: E731
    bar = np.append(schedule.alpha_bar[steps], schedule.alpha_bar[0])
    for i, step in enumerate(steps):
        a, s = bar[i] ** 0.5, (1 - bar[i]) ** 0.5
        out = network(x, step)
        data, noise = {
            "noise": ((x - s * out) / a, out),
            "v": (a * x - s * out, s * x + a * out),
            "data": (out, (x - a * out) / s),
        }[kind]
        x = bar[i + 1] ** 0.5 * data + (1 - bar[i + 1]) ** 0.5 * noise
    score = predictions.to_score(
        schedule.process,
        lambda x, t: 0.3 * jnp.tanh(x) + 2e-4 * schedule.step(t)[:, None] * x,
        kind,
    )
    got = samplers.integrate(
        score, schedule.process, jnp.asarray(start), solver=schedules.solver(schedule),
        grid=samplers.times_grid(schedule.time(np.append(steps, 0))),
    )  # fmt: skip
    np.testing.assert_allclose(got, x, rtol=1e-9)


@pytest.mark.parametrize("solver", schedules.SOLVERS)
def test_files_round_trip(solver):
    fields = {"_class_name": solver, "_diffusers_version": "0.42.1"}
    fields |= {"clip_sample": False, "skip_prk_steps": True}
    schedule = schedules.read(fields)
    assert schedule.solver == solver and schedule.kind == "noise"
    assert schedules.read(schedules.write(schedule)) == schedule
    written = schedules.write(schedule)
    assert written.keys() == {"_class_name", *scheduler_fields.FIELDS[solver]}
    for name, value in scheduler_fields.FIELDS[solver].items():
        if name not in ("clip_sample", "skip_prk_steps"):
            assert written[name] == value
    other = Schedule(
        100, 0.001, 0.02, "linear", kind="data", solver=solver, spacing="trailing",
        steps_offset=0, to_zero=True,
    )  # fmt: skip
    assert schedules.read(schedules.write(other)) == other
    betas = Schedule(3, betas=(0.1, 0.2, 0.5), solver=solver, to_zero=True, steps_offset=2)
    assert schedules.read(schedules.write(betas)).betas == (0.1, 0.2, 0.5)


def test_a_file_of_stable_diffusion():
    """The fields that its first version shipped, with one that its class does not read."""
    fields = {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "trained_betas": None, "clip_sample": False,
    }  # fmt: skip
    schedule = schedules.read(fields)
    assert schedule == Schedule(solver="PNDMScheduler")
    assert schedules.solver(schedule) == samplers.plms()
    ddim = {**schedules.write(Schedule(kind="v", zero_terminal_snr=True))}
    assert ddim["rescale_betas_zero_snr"] is True and ddim["set_alpha_to_one"] is False
    assert schedules.read(ddim).zero_terminal_snr
    dpm = {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"}
    assert not schedules.read(dpm).to_zero


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "Nonsense"}, "scheduler 'Nonsense': expected one of DDIM"),
        ({"clip_sample": True}, "clip_sample=True is not supported: expected False"),
        ({}, "clip_sample=True is not supported"),
        ({"clip_sample": False, "sharpness": 3}, "sharpness=3 is unknown"),
        ({"clip_sample": False, "thresholding": True}, "thresholding=True is not supported"),
        ({"clip_sample": False, "prediction_type": "flow"}, "prediction_type='flow': expected"),
        ({"clip_sample": False, "beta_schedule": "sigmoid"}, "table='sigmoid': expected one of"),
        ({"clip_sample": False, "rescale_betas_zero_snr": True}, "expected 'v' or 'data'"),
        ({"clip_sample": False, "timestep_spacing": "log"}, "spacing='log': expected one of"),
        ({"clip_sample": False, "trained_betas": [0.1]}, "1 betas: expected 1000"),
        (
            {"clip_sample": False, "set_alpha_to_one": "yes"},
            "_to_one='yes': expected true",
        ),
        ({"clip_sample": False, "steps_offset": 1.5}, "steps_offset=1.5: expected a whole number"),
        ({"_class_name": "PNDMScheduler"}, "skip_prk_steps=False is not supported"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3},
            "solver_order=3 is not supported: expected 2",
        ),
    ],
)
def test_refused_files(fields, message):
    with pytest.raises(ValueError, match=message):
        schedules.read({"_class_name": "DDIMScheduler", **fields})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(num_train_steps=0), "num_train_steps=0"),
        (lambda: Schedule(solver="Euler"), "solver='Euler': expected one of"),
        (lambda: Schedule(kind="epsilon"), "kind='epsilon': expected one of noise"),
        (lambda: Schedule(steps_offset=1000), "steps_offset=1000: expected 0 to 999"),
        (lambda: Schedule(beta_end=1.5), "expected numbers in"),
        (
            lambda: Schedule(1, betas=(0.5,), steps_offset=0, kind="v", zero_terminal_snr=True),
            "two",
        ),
        (lambda: schedules.timesteps(Schedule(), 1001), "num_steps=1001: expected at most 1000"),
        (lambda: schedules.timesteps(Schedule(), 0), "num_steps=0"),
        (lambda: schedules.timesteps(Schedule(), 5, "even"), "spacing='even': expected one of"),
        (
            lambda: schedules.write(Schedule(solver="EulerAncestralDiscreteScheduler")),
            "to_zero=False: a EulerAncestral",
        ),
        (
            lambda: schedules.write(
                Schedule(solver="PNDMScheduler", kind="v", zero_terminal_snr=True)
            ),
            "zero_terminal_snr=True: the file of a PNDM",
        ),
    ],
)
def test_refused_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
