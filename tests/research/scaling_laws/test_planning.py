"""Plans against the closed form, approaches 1 and 2 on surfaces, counting conventions."""

import numpy as np
import pytest

from research.scaling_laws import fitting, identifiability, laws, planning, runs
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


def test_a_roll_out_may_go_by_another_column():
    rolled = planning.roll_out(laws.chinchilla, surfaces.chinchilla(), by="tokens", share=0.6)
    data = surfaces.chinchilla()
    large = data.tokens > np.quantile(data.tokens, 0.6)
    np.testing.assert_array_equal(rolled.held_out.tokens, data.tokens[large])
    with pytest.raises(ValueError, match="share=1.0 leaves no run out of the fit"):
        planning.roll_out(laws.chinchilla, data, share=1.0)


def test_a_plan_of_vanished_terms_is_refused():
    """A loss that rises with tokens leaves no term in parameters, and no optimum."""
    size = np.repeat(np.geomspace(1e7, 3e9, 6), 5)
    tokens = size * np.tile(np.geomspace(4, 100, 5), 6)
    data = runs.Runs(parameters=size, tokens=tokens, loss=2 + (tokens / 1e9) ** 0.1)
    with pytest.warns(identifiability.IdentifiabilityWarning):
        boot = fitting.bootstrap(laws.chinchilla, data, 8, 0)
    for fitted in (boot, boot.fit):
        with pytest.raises(ValueError, match="term in parameters has vanished"):
            planning.plan(fitted, compute=1e21)


@pytest.mark.parametrize("lost, optimum", [("A", (0.0, np.inf)), ("B", (np.inf, 0.0))])
def test_a_draw_whose_term_has_vanished_has_its_optimum_at_the_end(lost, optimum):
    found = planning.frontier(laws.chinchilla, {**surfaces.EQ_10, lost: 0.0}, "compute", 1e21)
    assert (found["parameters"], found["tokens"]) == optimum
    assert found["tokens_per_parameter"] == (np.inf if lost == "A" else 0.0)
    assert found["flops"] == pytest.approx(1e21)
    by_tokens = planning.frontier(laws.chinchilla, {**surfaces.EQ_10, lost: 0.0}, "tokens", 1e9)
    assert by_tokens["parameters"] == optimum[0] and by_tokens["tokens"] == pytest.approx(1e9)


def test_a_plan_far_beyond_the_runs_is_warned_of(fit):
    largest = surfaces.chinchilla().flops.max()
    assert planning.plan(fit, compute=99 * largest).warning == ""
    with pytest.warns(planning.ExtrapolationWarning, match="the plan is 101 times the largest"):
        planning.plan(fit, compute=101 * largest)
    with pytest.warns(planning.ExtrapolationWarning, match="the plan is 3,800 times the largest"):
        plan = planning.plan(fit, compute=3800 * largest)
    assert plan.warning.startswith("the plan is 3,800 times")


def test_a_law_of_one_column_has_no_plan():
    size = np.geomspace(1e7, 1e9, 8)
    data = runs.Runs(parameters=size, loss=(8.8e13 / size) ** 0.076)
    with pytest.raises(ValueError, match="is no law of the loss in parameters and tokens"):
        planning.plan(fitting.fit(laws.kaplan_parameters, data), compute=1e21)


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
