"""Runs: bad values are named by row and column, FLOPs that contradict 6 N D are warned of."""

import warnings

import numpy as np
import pytest

from research.scaling_laws import fitting, laws, planning, runs
from tests.research.scaling_laws import surfaces


def test_flops_are_6_n_d_unless_given():
    data = runs.Runs(parameters=[1e6, 2e6], tokens=[1e8, 1e8], loss=[3.0, 2.9])
    np.testing.assert_allclose(data.flops, [6e14, 1.2e15], rtol=1e-15)
    given = runs.Runs(parameters=[1e6], tokens=[1e8], loss=[3.0], flops=[7e14])
    assert given.flops[0] == 7e14


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"loss": [1.0, 2.0], "tokens": [3.0]}, "column tokens has 1 rows, loss has 2"),
        ({"loss": [1.0, 2.0], "tokens": [3.0, -3.0]}, "run 2, column tokens: -3 is not positive"),
        ({"loss": [np.nan]}, "run 1, column loss: nan is not positive and finite"),
        ({"loss": [1.0, 1e6]}, "run 2, column loss: 1e\\+06 nats per token is a diverged run"),
        ({"loss": ["a"]}, "column loss is not numbers"),
        ({"loss": [[1.0]]}, r"column loss has shape \(1, 1\): expected \[N\]"),
        ({"loss": [1.0], "extra": {"tokens": [1.0]}}, "extra has the column 'tokens'"),
        ({"loss": [1.0], "extra": {"lr": [0.0]}}, "run 1, column lr: 0 is not positive"),
    ],
)
def test_bad_columns_are_named(columns, words):
    with pytest.raises(ValueError, match=words):
        runs.Runs(**columns)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'steps': they have parameters, tokens, flops"):
        surfaces.chinchilla().column("steps")


def test_repeated_seeds_need_permission():
    same = {"parameters": [1e6, 1e6], "loss": [3.0, 3.0]}
    with pytest.raises(ValueError, match="run 2 repeats run 1"):
        runs.Runs(**same)
    assert len(runs.Runs(**same, allow_duplicates=True)) == 2


@pytest.mark.parametrize(
    "units, ratio",
    [
        ({"flops": 6e-15}, "1e-15"),  # of an exaFLOP
        ({"parameters": 1e-6, "tokens": 1e-9, "flops": 6.0}, "1e\\+15"),  # millions and billions
        ({"flops": 2.9}, "0.483"),
        ({"flops": 12.1}, "2.02"),
    ],
)
def test_flops_that_contradict_6_n_d_are_warned_of_and_a_plan_does_not_mix_them(units, ratio):
    true = surfaces.chinchilla()
    columns = {name: true.column(name) * units.get(name, 1.0) for name in ("parameters", "tokens")}
    data = runs.Runs(**columns, flops=units["flops"] * true.flops / 6, loss=true.loss)
    with pytest.warns(runs.UnitsWarning, match=rf"flops / \(6 parameters tokens\) is {ratio}"):
        fit = fitting.fit(laws.chinchilla, data)
    largest = 6 * (data.parameters * data.tokens).max()
    plan = planning.plan(fit, compute=2 * largest)
    assert plan.extrapolation == pytest.approx(2, rel=1e-12)


def test_published_conventions_are_not_warned_of():
    """Marin's sweeps have C / 6 N D from 0.742 to 1.071."""
    true = surfaces.chinchilla()
    counts = np.geomspace(0.742, 1.071, len(true))
    data = runs.Runs(
        parameters=true.parameters, tokens=true.tokens, flops=counts * true.flops, loss=true.loss
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs.warn_of_units(data)
        runs.warn_of_units(runs.Runs(loss=[1.0], flops=[1.0], tokens=[1.0]))
