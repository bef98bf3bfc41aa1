"""The adaptive flow: the exact end, error control of each sample alone, and its limit of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.diffusion import oracles, processes, samplers
from tests.research.diffusion.counting import counted

VP, EDM = processes.vp(), processes.edm()
SHAPE = (8, 3)


def target():
    covariance = [[1.0, 0.4, 0.0], [0.4, 0.5, 0.1], [0.0, 0.1, 0.3]]
    return oracles.gaussian(VP, [0.3, -0.2, 0.1], covariance)


def test_adaptive_reaches_the_exact_flow_inside_jit(x64):
    score = target()
    x = np.random.default_rng(0).normal(size=SHAPE)

    @jax.jit
    def solve(x):
        solved = samplers.solve(score, VP, x, solver=samplers.adaptive(1e-10, 1e-10))
        return solved, score.transport(x, VP.t_max, VP.t_min)

    (end, info), exact = solve(x)
    np.testing.assert_allclose(end, exact, atol=1e-8)
    assert info.nfe.shape == (8,)


def test_adaptive_goes_between_the_ends_of_its_grid(x64):
    score, grid = target(), samplers.times_grid([0.8, 0.3, 0.1])
    x = np.random.default_rng(0).normal(size=SHAPE)
    solver = samplers.adaptive(1e-10, 1e-10)
    solve = lambda x: samplers.solve(score, VP, x, solver=solver, grid=grid)[0]
    end, exact = jax.jit(lambda x: (solve(x), score.transport(x, 0.8, 0.1)))(x)
    np.testing.assert_allclose(end, exact, atol=1e-7)


def test_adaptive_controls_the_error_of_each_sample(x64):
    """A hard sample must not change an easy one's result, and costs evaluations of its own."""
    calls = []
    mixture = oracles.mixture(EDM, [0.5, 0.5], [[-1.0], [1.0]], 1e-4)
    score = counted(mixture, calls)
    x = np.array([[60.0], [1e-3], [-100.0]])
    solver = samplers.adaptive(1e-4, 1e-4)
    solve = jax.jit(lambda x: samplers.solve(score, EDM, x, solver=solver))
    together, info = jax.block_until_ready(solve(x))
    assert len(calls) == 3 * int(info.nfe.max())  # the batch steps until the last one is done
    for i in range(3):
        calls.clear()  # three times the same sample: one program, and nothing else beside it
        alone, one = jax.block_until_ready(solve(x[[i, i, i]]))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-12)
        assert int(one.nfe[0]) == int(info.nfe[i]) == len(calls) / 3
    assert len(set(info.nfe.tolist())) > 1


def test_adaptive_gives_nan_when_it_runs_out_of_steps():
    solver = samplers.adaptive(1e-6, 1e-6, max_steps=3)
    end, _ = samplers.solve(target(), VP, jnp.ones(SHAPE), solver=solver)
    assert np.all(np.isnan(end))


@pytest.mark.parametrize(
    "name, value", [("max_steps", 0), ("max_steps", 10.0), ("rtol", 0.0), ("atol", float("nan"))]
)
def test_limits_that_allow_no_step_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected a positive"):
        samplers.adaptive(**{name: value})
