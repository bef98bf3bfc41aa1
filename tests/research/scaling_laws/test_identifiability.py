"""What runs cannot tell is refused or warned of, and named."""

import dataclasses
import math

import numpy as np
import pytest

from research.scaling_laws import fitting, identifiability, laws, runs
from tests.research.scaling_laws.surfaces import TRUE


def test_one_ratio_of_tokens_to_parameters_is_refused():
    size = np.geomspace(1e7, 1e10, 12)
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=20 * size)
    data = runs.Runs(parameters=size, tokens=20 * size, loss=loss)
    with pytest.raises(fitting.Unidentifiable, match="D / N within .* of 20; vary tokens"):
        fitting.fit(laws.chinchilla, data)
    with pytest.warns(identifiability.IdentifiabilityWarning, match="not identifiable"):
        fitting.fit(laws.chinchilla, data, allow_unidentified=True)


def test_a_narrow_design_warns():
    size = np.geomspace(1e7, 1e10, 12)
    tokens = 20 * size * np.tile([0.9, 1.1], 6)
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=tokens)
    with pytest.warns(identifiability.IdentifiabilityWarning, match="hardly identifiable"):
        fitting.fit(laws.chinchilla, runs.Runs(parameters=size, tokens=tokens, loss=loss))


@pytest.mark.parametrize("spread, told", [(0.019, "not"), (0.021, "hardly"), (0.345, "hardly")])
def test_how_narrow_a_design_is_refused_and_warned_of(spread, told):
    """Below 2 %, and below 0.35 in the logarithm of tokens at given parameters."""
    with pytest.warns(identifiability.IdentifiabilityWarning, match=f"{told} identifiable"):
        identifiability.before(laws.chinchilla, paired(spread), told == "not")
    identifiability.before(laws.chinchilla, paired(0.355), False)


def paired(spread):
    """Runs of six sizes, each with two numbers of tokens that are e^spread from their mean."""
    size = np.repeat(np.geomspace(1e7, 1e10, 6), 2)
    tokens = 20 * size * np.exp(np.tile([-spread, spread], 6))
    loss = laws.chinchilla.predict(TRUE, parameters=size, tokens=tokens)
    return runs.Runs(parameters=size, tokens=tokens, loss=loss)


@pytest.mark.parametrize("ratio, rank", [(0.9e-9, 1), (1.1e-9, 2)])
def test_a_direction_is_lost_below_a_billionth(ratio, rank):
    """Two unit columns at an angle of 2 r have singular values of ratio r."""
    jacobian = np.array([[1.0, 1.0], [0.0, 2 * ratio], [0.0, 0.0]])
    assert identifiability.after(identifiability.Report(3), jacobian).rank == rank


def test_collinear_columns_cost_a_rank_and_are_told():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(9, 3))
    before = identifiability.Report(9)
    whole = identifiability.after(before, jacobian)
    assert whole.rank == 3 and not whole.message
    values = np.linalg.svd(jacobian / np.linalg.norm(jacobian, axis=0), compute_uv=False)
    assert whole.condition == pytest.approx(values[0] / values[-1])
    scaled = identifiability.after(before, jacobian * np.array([1e6, 1.0, 1e-6]))
    assert scaled.condition == pytest.approx(whole.condition)  # units do not matter
    jacobian[:, 2] = 2 * jacobian[:, 0] - jacobian[:, 1]
    lost = identifiability.after(before, jacobian)
    assert lost.rank == 2 and "determine 2 of 3 parameters" in lost.message
    jacobian[:, 2] = 0
    assert identifiability.after(before, jacobian).condition == math.inf
    earlier = dataclasses.replace(before, message="narrow")
    assert identifiability.after(earlier, jacobian).message == "narrow"


def test_the_spread_of_tokens_given_parameters():
    """log D = 1.2 log N + 3 plus +-0.5: the spread is 0.5 and nothing is said."""
    size = np.repeat(np.geomspace(1e7, 1e9, 6), 2)
    tokens = np.exp(3 + 1.2 * np.log(size) + 0.5 * np.tile([-1, 1], 6))
    data = runs.Runs(parameters=size, tokens=tokens, loss=np.ones(12))
    report = identifiability.before(laws.chinchilla, data, allow=False)
    assert report.conditional_spread == pytest.approx(0.5) and not report.message
    assert report.ratio_spread == pytest.approx(np.max(tokens / size) / np.min(tokens / size))
    assert report.num_runs == 12
    assert report.extrapolation(5 * report.largest_flops) == pytest.approx(5)
    one = identifiability.before(laws.kaplan_parameters, data, allow=False)
    assert math.isnan(one.conditional_spread)
