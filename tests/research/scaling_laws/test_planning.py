"""Plans against the closed form, approaches 1 and 2 on surfaces, counting conventions."""

import numpy as np
import pytest

from research.scaling_laws import fitting, laws, planning
from tests.research.scaling_laws import surfaces

ROUNDED = surfaces.TRUE


REPLICATION = {"E": 1.816864, "A": 482.0057, "B": 2085.4342, "alpha": 0.347813, "beta": 0.365854}


@pytest.fixture(scope="module")
def fit():
    return fitting.fit(laws.chinchilla, surfaces.chinchilla(noise=0.002), loss="squared")


@pytest.mark.parametrize(
    "p, ratio", [(REPLICATION, 18.3255), (surfaces.EQ_10, 59.0548), (ROUNDED, 92.863)]
)
def test_the_frontier_is_the_closed_form(p, ratio):
    found = planning.frontier(laws.chinchilla, p, "compute", 5.9e23)
    size, tokens = surfaces.closed_form(p, 5.9e23)
    assert found["parameters"] == pytest.approx(size, rel=1e-10)
    assert found["tokens"] == pytest.approx(tokens, rel=1e-10)
    assert found["parameters"] * found["tokens"] == pytest.approx(5.9e23 / 6, rel=1e-12)
    assert found["tokens_per_parameter"] == pytest.approx(ratio, rel=1e-3)


def test_exponents_of_the_published_fits():
    assert planning.exponents(surfaces.EQ_10)["a"] == pytest.approx(0.456526, abs=1e-6)
    assert planning.exponents(ROUNDED)["a"] == pytest.approx(0.451613, abs=1e-6)
    assert planning.exponents(REPLICATION)["a"] == pytest.approx(0.512640, abs=1e-5)
    assert planning.exponents(surfaces.EQ_10)["c"] == pytest.approx(0.154840, abs=1e-5)
    assert planning.exponents(REPLICATION)["c"] == pytest.approx(0.178303, abs=1e-5)


def test_a_plan_by_size_or_by_tokens_lies_on_the_frontier_by_compute(fit):
    plan = planning.plan(fit, compute=1e22)
    by_size = planning.plan(fit, parameters=plan.parameters)
    by_tokens = planning.plan(fit, tokens=plan.tokens)
    for other in (by_size, by_tokens):
        assert other.flops == pytest.approx(1e22, rel=1e-9)
        assert other.loss == pytest.approx(plan.loss, rel=1e-12)
    assert plan.extrapolation == pytest.approx(1e22 / surfaces.chinchilla().flops.max())
    for name, (low, high) in plan.intervals.items():
        assert low < getattr(plan, name) < high or name == "flops"


def test_the_kaplan_surface_is_planned_by_the_same_rule():
    p = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    found = planning.frontier(laws.kaplan, p, "compute", 1e21)
    sizes = found["parameters"] * np.exp(np.array([-0.02, 0.0, 0.02]))
    losses = laws.kaplan.predict(p, parameters=sizes, tokens=1e21 / 6 / sizes)
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_a_roll_out_predicts_a_clean_surface_and_leaves_out_the_largest():
    rolled = planning.roll_out(laws.chinchilla, surfaces.chinchilla(), share=0.6)
    assert rolled.mean_absolute < 1e-6
    assert rolled.held_out.flops.min() > rolled.fit.report.largest_flops


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "exactly one of compute, parameters, tokens: got none"),
        ({"compute": 1e21, "tokens": 1e9}, "got compute, tokens"),
        ({"compute": -1.0}, "compute=-1.0: expected a positive"),
        ({"compute": 1e21, "level": 2.0}, "level=2.0"),
    ],
)
def test_bad_plans_are_refused(fit, options, words):
    with pytest.raises(ValueError, match=words):
        planning.plan(fit, **options)
