"""What the samplers refuse: one line that names the mistake, before the network is touched."""

import jax
import jax.numpy as jnp
import pytest

from research.diffusion import oracles, processes, samplers

VP = processes.vp()
SHAPE = (8, 3)
PC = samplers.predictor_corrector(samplers.reverse_diffusion(), samplers.langevin(0.1, 2))


def target():
    return oracles.gaussian(VP, [0.3, -0.2, 0.1], 0.5)


def start():
    return jnp.ones(SHAPE)


GRID = samplers.log_snr_grid(4)
BAD = {
    "solver": (
        lambda: samplers.integrate(target(), VP, start(), solver="heun", grid=GRID),
        "'heun'",
    ),
    "no_grid": (lambda: samplers.integrate(target(), VP, start(), solver=PC), "grid=None"),
    "process": (
        lambda: samplers.integrate(target(), 3, start(), solver=samplers.heun(), grid=GRID),
        "process=3",
    ),
    "no_key": (
        lambda: samplers.integrate(target(), VP, start(), solver=PC, grid=GRID),
        "expected a key",
    ),
    "t_outside": (
        lambda: samplers.integrate(
            target(), VP, start(), solver=samplers.heun(), grid=samplers.times_grid([2.0, 0.5])
        ),
        "expected times in",
    ),
    "stages": (
        lambda: samplers.sample(
            target(),
            VP,
            jax.random.key(0),
            SHAPE,
            solver=samplers.predictor_corrector(samplers.heun(), samplers.langevin(0.1)),
            grid=GRID,
        ),
        "one evaluation a step",
    ),
    "memory": (
        lambda: samplers.sample(
            target(),
            VP,
            jax.random.key(0),
            SHAPE,
            solver=samplers.predictor_corrector(samplers.dpm_solver_pp(), samplers.langevin(0.1)),
            grid=GRID,
        ),
        "without memory",
    ),
    "no_example": (
        lambda: samplers.sample(
            target(), VP, jax.random.key(0), (0, 3), solver=samplers.heun(), grid=GRID
        ),
        "shape=0: expected a positive whole number",
    ),
    "integers": (
        lambda: samplers.integrate(
            target(), VP, jnp.ones(SHAPE, int), solver=samplers.heun(), grid=GRID
        ),
        "x_start has dtype int32",
    ),
    "fraction": (
        lambda: samplers.sample(
            target(), VP, jax.random.key(0), SHAPE, solver=samplers.heun(), grid=GRID, every=1.5
        ),
        "every=1.5",
    ),
    "every": (
        lambda: samplers.sample(
            target(), VP, jax.random.key(0), SHAPE, solver=samplers.heun(), grid=GRID, every=9
        ),
        "every=9",
    ),
    "adaptive": (
        lambda: samplers.sample(
            target(), VP, jax.random.key(0), SHAPE, solver=samplers.adaptive(), grid=GRID, every=1
        ),
        "has no grid steps",
    ),
    "shape": (
        lambda: samplers.integrate(
            lambda x, t: x[:, :1], VP, start(), solver=samplers.heun(), grid=GRID
        ),
        "score has shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


MISTAKES = {
    "solver": {"solver": "heun"},
    "grid": {"grid": None},
    "times": {"grid": samplers.times_grid([2.0, 0.5])},
    "every": {"every": 9},
    "key": {"solver": samplers.euler_maruyama()},
    "pairing": {"solver": samplers.predictor_corrector(samplers.heun(), samplers.langevin(0.1))},
    "no_steps": {"solver": samplers.adaptive(), "every": 1},
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_the_network_is_traced(name):
    def untouched(x, t):
        raise AssertionError("the score was traced, so its compilation would have started")

    options = {"solver": samplers.heun(), "grid": GRID, **MISTAKES[name]}
    with pytest.raises(ValueError):
        samplers.solve(untouched, VP, start(), **options)
