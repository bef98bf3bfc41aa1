"""Image to image by strength, and inpainting, on Gaussian latents of which the laws are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import inverse_problems, latent, moments, oracles, processes, samplers

VP, FLOW = processes.vp(), processes.flow()
ZERO = dataclasses.replace(  # no signal is left at its end
    FLOW,
    name="flow to the end",
    alpha=lambda t: jnp.where(t >= FLOW.t_max, 0.0, 1 - t),
)
SHEAR = np.array([[1.0, 0.5], [0.0, 1.0]])
STAGE = latent.FirstStage(
    lambda x: jnp.einsum("bd,de->be", x, jnp.asarray(SHEAR, x.dtype)),
    lambda z: jnp.einsum("bd,de->be", z, jnp.asarray(np.linalg.inv(SHEAR), z.dtype)),
    2.0,
    0.25,
)
X = np.random.default_rng(0).normal(size=(3, 2))
RHO = 0.8
COVARIANCE = np.array([[1.0, RHO], [RHO, 1.0]])
SCORE = oracles.gaussian(VP, np.zeros(2), COVARIANCE)
RNG = jax.random.key(0)
MASK = np.array([False, True])  # of one latent; true is drawn anew


def test_strength_0_is_the_reconstruction_and_runs_nothing(x64):
    edit = latent.image_to_image(
        STAGE, None, VP, RNG, X, strength=0.0, solver=samplers.heun(), grid=samplers.log_snr_grid(9)
    )
    np.testing.assert_array_equal(edit.images, STAGE.to_image(STAGE.to_latent(X)))
    np.testing.assert_allclose(edit.images, X, rtol=1e-12)
    assert edit.nfe == 0


@pytest.mark.parametrize("process, equal", [(ZERO, True), (FLOW, False)])
def test_strength_1_is_a_sample_where_no_signal_is_left(process, equal):
    score = oracles.gaussian(process, np.zeros(2), 0.5)
    steps = {"solver": samplers.euler("time"), "grid": samplers.uniform_grid(5)}

    @jax.jit
    def both(x):
        edit = latent.image_to_image(
            STAGE, score, process, RNG, x, strength=1.0, first_index=4, **steps
        )
        plain, _ = samplers.sample(score, process, RNG, (3, 2), first_index=4, **steps)
        return edit, plain

    edit, plain = both(100 * X.astype(np.float32))
    assert np.array_equal(edit.latents, plain) == equal
    np.testing.assert_allclose(edit.images, STAGE.to_image(edit.latents), rtol=1e-5, atol=1e-5)
    assert edit.nfe == 5


def test_one_step_that_is_left_may_be_the_one_to_zero_noise(x64):
    grid = samplers.log_snr_grid(4, to_zero=True, t_start=0.9, t_end=0.4)
    edit = latent.image_to_image(
        STAGE, SCORE, VP, RNG, X, strength=0.25, solver=samplers.plms(), grid=grid
    )
    noise = samplers.prior_states(VP, samplers.sample_rngs(RNG, 3), (2,)) / VP.prior_std
    alpha, sigma = VP.alpha(0.4), VP.sigma(0.4)
    z = alpha * STAGE.to_latent(X) + sigma * noise
    gain = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
    np.testing.assert_allclose(edit.latents, np.einsum("bd,ed->be", z, gain), rtol=1e-9)
    assert edit.nfe == 1


@pytest.mark.parametrize("to_zero", [False, True])
def test_between_the_steps_that_are_left_are_run(to_zero, x64):
    """From alpha z + sigma noise the exact flow of a Gaussian leads to what a fine solver finds."""
    full = samplers.log_snr_grid(100, to_zero=to_zero)  # 0.29 * 100 is below 29

    @jax.jit
    def both(x):
        edit = latent.image_to_image(
            STAGE, SCORE, VP, RNG, x, strength=0.29, solver=samplers.rk4(), grid=full
        )
        time = full.times(VP)[100 - 29]
        noise = samplers.prior_states(VP, samplers.sample_rngs(RNG, 3), (2,))
        start = VP.alpha(time) * STAGE.to_latent(x) + VP.sigma(time) * noise
        return edit, SCORE.transport(start, time, VP.t_min)

    edit, expected = both(X)
    assert edit.nfe == (4 * 28 + 1 if to_zero else 4 * 29)
    np.testing.assert_allclose(edit.latents, expected, rtol=0, atol=2e-3 if to_zero else 1e-5)


def test_the_rest_of_a_grid_is_its_last_times(x64):
    """An Euler run of five steps by hand, from the time at which 3 of 5 steps are left."""
    grid, x = samplers.uniform_grid(5, t_end=0.1), X[:1]
    edit = latent.image_to_image(
        STAGE, SCORE, VP, RNG, x, strength=0.7, solver=samplers.euler("time"), grid=grid
    )
    times = np.linspace(1.0, 0.1, 6)[2:]
    noise = samplers.prior_states(VP, samplers.sample_rngs(RNG, 1), (2,))
    z = VP.alpha(times[0]) * STAGE.to_latent(x) + VP.sigma(times[0]) * noise
    for start, end in zip(times, times[1:]):
        slope = VP.drift_rate(start) * z - 0.5 * VP.diffusion(start) ** 2 * SCORE(
            z, jnp.array([start])
        )
        z = z + (end - start) * slope
    np.testing.assert_allclose(edit.latents, z, rtol=1e-10)
    assert edit.nfe == 3


NUM = 20_000
STEPS = {"solver": samplers.euler(), "grid": samplers.log_snr_grid(200)}
VALUE = 1.2  # of the known latent
KNOWN = inverse_problems.inpainting(~MASK, np.array([VALUE, 0.0]))


@pytest.fixture(scope="module")
def painted():
    """20,000 latents each, by replacement and by a conditioned score, in one program."""
    identity = latent.FirstStage(lambda x: x, lambda z: z)
    of_known = inverse_problems.gaussian_covariance(VP, COVARIANCE, KNOWN)
    guide = lambda process, score, known: inverse_problems.posterior_mean_guidance(
        process, score, known, covariance=of_known
    )
    paint = lambda x, **options: latent.inpaint(
        identity, SCORE, VP, RNG, x, MASK, **STEPS, **options
    )
    x = np.tile(np.float32([VALUE, 9.0]), (NUM, 1))
    return jax.jit(lambda x: (paint(x), paint(x, guide=guide)))(x)


def test_the_conditioned_score_draws_the_exact_conditional(painted):
    """Mean and variance of 20,000 draws within four of their standard errors."""
    exact = inverse_problems.exact_conditional(VP, np.zeros(2), COVARIANCE, KNOWN)
    free = np.asarray(painted[1].latents, np.float64)[:, 1]
    variance = exact.covariance[1, 1]
    assert abs(free.mean() - exact.mean[1]) < 4 * np.sqrt(variance / NUM)
    assert abs(free.var() / variance - 1) < 4 * np.sqrt(2 / NUM)


def test_replacement_is_biased_by_what_its_moments_say(painted):
    """It pulls the mean by 0.43 of what it should here; its variance is 1.63 times too large."""
    project = inverse_problems.replaced_moments(VP, KNOWN, (2,))
    mean, covariance = moments.sampled_jointly(
        STEPS["solver"], VP, STEPS["grid"], SCORE, 2, project=project
    )
    free = np.asarray(painted[0].latents, np.float64)[:, 1]
    assert abs(free.mean() - mean[1]) < 4 * np.sqrt(covariance[1, 1] / NUM)
    assert abs(free.var() / covariance[1, 1] - 1) < 4 * np.sqrt(2 / NUM)
    np.testing.assert_allclose(mean[1] / (RHO * VALUE), 0.43, atol=0.005)
    np.testing.assert_allclose(covariance[1, 1] / (1 - RHO**2), 1.63, atol=0.005)


def test_what_is_known_stays(painted):
    for edit in painted:
        np.testing.assert_array_equal(edit.latents[:, 0], np.float32(VALUE))
        np.testing.assert_array_equal(edit.images, edit.latents)


def test_each_image_of_a_batch_is_painted_by_itself(x64):
    """Two images at once are each what it is alone, with its own index."""
    stage = latent.FirstStage(lambda x: x, lambda z: z, np.array([1.0, 2.0]), 0.1)
    mask = np.array([[True, False], [False, False]])
    x = np.random.default_rng(1).normal(size=(2, 2, 2, 2))
    score = lambda z, t: -z
    steps = {"solver": samplers.euler_maruyama(), "grid": samplers.uniform_grid(3)}

    @jax.jit
    def paint(x, first_index):
        return latent.inpaint(stage, score, VP, RNG, x, mask, first_index=first_index, **steps)

    both, second = paint(x, 0), paint(x[1:], 1)
    np.testing.assert_allclose(both.latents[1:], second.latents, rtol=1e-12)
    changed = np.abs(both.images - x) > 1e-6
    np.testing.assert_array_equal(changed, np.broadcast_to(mask[None, :, :, None], x.shape))


def test_a_cell_is_drawn_anew_if_a_pixel_is():
    mask = np.zeros((4, 6), bool)
    mask[1, 4] = True
    np.testing.assert_array_equal(latent.to_latent_mask(mask, 2), [[0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(latent.to_latent_mask(mask.astype(np.uint8), 1), mask)


def edit(**options):
    return latent.image_to_image(
        STAGE, SCORE, VP, RNG, X.astype(np.float32), **{"strength": 0.5, **STEPS, **options}
    )


def paint(mask):
    return latent.inpaint(STAGE, SCORE, VP, RNG, X.astype(np.float32), mask, **STEPS)


BAD = {
    "strength": (lambda: edit(strength=1.1), r"strength=1.1: expected a number in \[0, 1\]"),
    "grid": (lambda: edit(grid=7), "grid=7: expected a grid"),
    "mask's shape": (lambda: paint(np.array([True])), r"mask bool\[1\], 1 of it true: expected"),
    "mask's type": (lambda: paint(np.array([1, 0])), r"mask int64\[2\], 0.5 of it true: expected"),
    "all": (lambda: paint(~(MASK & ~MASK)), r"1 of it true: .* true and false somewhere"),
    "none": (lambda: paint(MASK & ~MASK), r"0 of it true: .* true and false somewhere"),
    "factor": (lambda: latent.to_latent_mask(MASK[None], 0), "factor=0: expected a positive"),
    "sides": (
        lambda: latent.to_latent_mask(np.ones((4, 3)), 2),
        r"mask \[4, 3\]: expected \[H, W\], multiples of 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        call()
