"""What counts, fits, frontiers and solvable models compute where a keyword is left out."""

import functools
import types
from unittest import mock

import numpy as np
import pytest

from research.scaling_laws import counting, fitting, frontiers, laws, planning, runs, solvable
from research.scaling_laws.fits import profiles
from tests import defaults
from tests.research.scaling_laws import surfaces

FLOPS = np.exp([0.0, 0.019, 0.04, 1.0, 1.019, 1.04])
SHAPE = counting.Transformer(2, 4, 5, 3)


class Seen(Exception):
    """What would have been solved."""


def seen(module, name, call):
    """The arguments of the solver that `call` reaches as `name` of a module, not solved."""
    solver = types.SimpleNamespace(
        fit=mock.Mock(side_effect=Seen), solve=mock.Mock(side_effect=Seen)
    )
    with mock.patch.object(module, name, solver), pytest.raises(Seen):
        call()
    return (solver.fit.call_args or solver.solve.call_args).args


def profiled(**options):
    """Starts of two values: [P, 2 K]."""
    result = surfaces.noisy_fit()
    call = functools.partial(profiles.profile, result, "E", [1.6, 1.7], **options)
    return seen(profiles, "lanes", call)[1]


def bootstrapped(**options):
    """Starts of each resample, [P, K]."""
    result = surfaces.noisy_fit()
    whole = mock.patch.object(fitting, "fit", lambda *args: result)
    starts = mock.patch.object(fitting, "bootstrap_from", lambda whole, counts, starts: starts)
    with whole, starts:
        return fitting.bootstrap(laws.chinchilla, surfaces.chinchilla(), 2, 0, **options)


def rolled_out(**options):
    """Losses of the runs that are fitted."""
    size, tokens = surfaces.grid()
    flops = 1e17 * np.arange(1, 31)  # not 6 N D: in another order than the tokens
    data = runs.Runs(parameters=size, tokens=tokens, flops=flops, loss=np.arange(1.0, 31.0))
    call = functools.partial(planning.roll_out, laws.chinchilla, data, **options)
    return seen(planning, "fitting", call)[1].loss


def minima(**options):
    """Of three budgets, each of two nearby counts of FLOP."""
    compute = np.repeat([1e18, 1e19, 1e20], 10)
    centre = surfaces.closed_form(surfaces.EQ_10, compute)[0]
    size = centre * np.tile(np.geomspace(0.25, 4, 10), 3)
    loss = laws.chinchilla.predict(surfaces.EQ_10, parameters=size, tokens=compute / 6 / size)
    flops = compute * np.tile([1.0, 1.015], 15)
    data = runs.Runs(parameters=size, tokens=compute / 6 / size, flops=flops, loss=loss)
    found = frontiers.isoflop_minima(data, **options)
    return found.flops, found.parameters, found.loss


@functools.cache
def exact():
    flops = np.geomspace(1e18, 1e21, 6)
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=(2, 6)))
    zeros = [0] * 6
    return frontiers.Minima(flops, noise[0] * flops**0.5, noise[1] * flops**0.5, zeros, [])


resamples = {"num_resamples": (1000, 999), "of": ("parameters", "tokens")}
CASES = {
    "Transformer": (
        lambda **options: counting.parameters(
            counting.Transformer(2, 4, 5, 3, **options), embeddings=True, head=True
        ),
        {
            "hidden": (16, 15),
            "gated": (False, True),
            "tied": (False, True),
            "learned_positions": (False, True),
        },
    ),
    "training_flops": (
        functools.partial(counting.training_flops, SHAPE, 10.0),
        {"attention": (False, True), "head": (False, True)},
    ),
    "bootstrap": (bootstrapped, {"num_starts": (2, 3)}),
    "profile": (profiled, {"num_starts": (8, 7)}),
    "roll_out": (rolled_out, {"by": ("flops", "tokens"), "share": (0.75, 0.8)}),
    "isoflop_minima": (
        minima,
        {"interpolation": ("akima", "parabola"), "same_budget": (0.02, 0.014)},
    ),
    "budgets": (
        lambda **options: frontiers.budgets(FLOPS, **options),
        {"same_budget": (0.02, 0.018, 0.022)},
    ),
    "exponent_interval": (
        lambda **options: frontiers.exponent_interval(
            exact(), 0.9, np.random.default_rng(0), **options
        ),
        resamples,
    ),
    "resampled": (
        lambda **options: [
            (law.exponent, law.coefficient)
            for law in frontiers.resampled(exact(), np.random.default_rng(0), **options)
        ],
        resamples,
    ),
    "broken": (
        lambda **options: laws.broken("tokens", **options).names,
        {"num_breaks": (1, 2), "with_limit": (True, False)},
    ),
    "kernel_regression": (
        functools.partial(solvable.kernel_regression, 1.5, 2.0, [10]),
        {"num_modes": (1_000_000, 999_999)},
    ),
    "gradient_flow": (
        functools.partial(solvable.gradient_flow, 1.5, 1.2, np.array([10.0])),
        {"size": (1_000_000, 999_999), "num_modes": (1_000_000,)},
    ),
    "gradient_flow_frontier": (
        functools.partial(solvable.gradient_flow_frontier, 1.5, 1.2, np.array([1e3])),
        {"num_modes": (200_000, 100_000)},
    ),
    "random_features": (
        lambda **options: solvable.random_features(1.0, 4, 3, np.random.default_rng(0), **options),
        {
            "num_latent": (4000, 3999),
            "ridges": (np.geomspace(1e-10, 1e-1, 19), np.geomspace(1e-9, 1e-1, 19)),
        },
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keywords_left_out_have_their_documented_values(case):
    defaults.check(*case)
