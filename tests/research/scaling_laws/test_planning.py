"""Plans against the closed form, approaches 1 and 2 on surfaces, counting conventions."""

import numpy as np
import pytest

from research.scaling_laws import counting, fitting, frontiers, laws, planning, runs
from tests.research.scaling_laws import surfaces

EQ_10 = {"E": 1.69337368, "A": 406.401018, "B": 410.722827, "alpha": 0.33917084, "beta": 0.2849083}
ROUNDED = surfaces.TRUE
REPLICATION = {"E": 1.816864, "A": 482.0057, "B": 2085.4342, "alpha": 0.347813, "beta": 0.365854}


def closed_form(p, compute):
    total = p["alpha"] + p["beta"]
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
    return g * (compute / 6) ** (p["beta"] / total), (compute / 6) ** (p["alpha"] / total) / g


@pytest.fixture(scope="module")
def fit():
    return fitting.fit(laws.chinchilla, surfaces.chinchilla(noise=0.002), loss="squared")


@pytest.mark.parametrize("p, ratio", [(REPLICATION, 18.3255), (EQ_10, 59.0548), (ROUNDED, 92.863)])
def test_the_frontier_is_the_closed_form(p, ratio):
    found = planning.frontier(laws.chinchilla, p, "compute", 5.9e23)
    size, tokens = closed_form(p, 5.9e23)
    assert found["parameters"] == pytest.approx(size, rel=1e-10)
    assert found["tokens"] == pytest.approx(tokens, rel=1e-10)
    assert found["parameters"] * found["tokens"] == pytest.approx(5.9e23 / 6, rel=1e-12)
    assert found["tokens_per_parameter"] == pytest.approx(ratio, rel=1e-3)


def test_exponents_of_the_published_fits():
    assert planning.exponents(EQ_10)["a"] == pytest.approx(0.456526, abs=1e-6)
    assert planning.exponents(ROUNDED)["a"] == pytest.approx(0.451613, abs=1e-6)
    assert planning.exponents(REPLICATION)["a"] == pytest.approx(0.512640, abs=1e-5)
    assert planning.exponents(EQ_10)["c"] == pytest.approx(0.154840, abs=1e-5)
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


def isoflops(drift):
    """Five budgets, nine sizes each about the optimum times C^drift, the same span each."""
    rows = []
    for compute in np.geomspace(1e18, 1e22, 5):
        centre = closed_form(EQ_10, compute)[0] * (compute / 1e20) ** drift
        sizes = centre * np.geomspace(0.25, 4, 9)
        rows += [(size, compute / 6 / size, compute) for size in sizes]
    size, tokens, flops = np.array(rows).T
    loss = laws.chinchilla.predict(EQ_10, parameters=size, tokens=tokens)
    return runs.Runs(parameters=size, tokens=tokens, flops=flops, loss=loss)


def test_approach_2_keeps_the_exponent_on_a_centred_grid_and_biases_the_intercept():
    minima = frontiers.isoflop_minima(isoflops(0.0), "parabola")
    law = frontiers.power_law(minima.flops, minima.parameters)
    assert law.exponent == pytest.approx(planning.exponents(EQ_10)["a"], abs=1e-6)
    # On a grid about the optimum, parabola and cubic term: u = log N - log N* has
    # L - E ~ (exp(-alpha u) / alpha + exp(beta u) / beta), fitted here directly.
    u = np.log(np.geomspace(0.25, 4, 9))
    alpha, beta = EQ_10["alpha"], EQ_10["beta"]
    square, slope, _ = np.polyfit(u, np.exp(-alpha * u) / alpha + np.exp(beta * u) / beta, 2)
    true = closed_form(EQ_10, 1e20)[0]
    bias = np.log(law.coefficient * 1e20**law.exponent / true)
    assert bias == pytest.approx(-slope / (2 * square), abs=1e-6)
    assert abs(bias) > 1e-3


def test_approach_2_biases_the_exponent_where_the_grid_drifts():
    minima = frontiers.isoflop_minima(isoflops(0.03), "parabola")
    law = frontiers.power_law(minima.flops, minima.parameters)
    expected = []
    for compute in minima.flops:
        u = 0.03 * np.log(compute / 1e20) + np.log(np.geomspace(0.25, 4, 9))
        alpha, beta = EQ_10["alpha"], EQ_10["beta"]
        square, slope, _ = np.polyfit(u, np.exp(-alpha * u) / alpha + np.exp(beta * u) / beta, 2)
        expected.append(np.log(closed_form(EQ_10, compute)[0]) - slope / (2 * square))
    slope = np.polyfit(np.log(minima.flops), expected, 1)[0]
    assert law.exponent == pytest.approx(slope, abs=1e-6)
    assert abs(law.exponent - planning.exponents(EQ_10)["a"]) > 1e-4


def test_akima_finds_the_optimum_of_each_budget_and_skips_one_sided_profiles():
    data = isoflops(0.0)
    law = frontiers.isoflop_minima(data, "akima")
    np.testing.assert_allclose(law.parameters, closed_form(EQ_10, law.flops)[0], rtol=0.02)
    rising = data.take(~((data.flops < 2e18) & (data.parameters < closed_form(EQ_10, 1e18)[0])))
    assert len(frontiers.isoflop_minima(rising, "akima").skipped) == 1
    with pytest.raises(ValueError, match="interpolation='spline'"):
        frontiers.isoflop_minima(data, "spline")


def test_approach_1_follows_the_lower_envelope():
    flops = np.geomspace(1e16, 1e20, 60)
    sizes = np.geomspace(1e6, 1e9, 13)
    curves = [
        (n, flops, laws.chinchilla.predict(EQ_10, parameters=n, tokens=flops / 6 / n))
        for n in sizes
    ]
    at = np.geomspace(1e17, 1e19, 9)
    best, loss = frontiers.envelope(curves, at)
    table = np.stack([
        laws.chinchilla.predict(EQ_10, parameters=n, tokens=at / 6 / n) for n in sizes
    ])  # fmt: skip
    np.testing.assert_array_equal(best, sizes[table.argmin(0)])
    np.testing.assert_allclose(loss, table.min(0), rtol=1e-3)
    assert np.isnan(frontiers.envelope(curves, np.array([1e25]))[0][0])


def test_counting_says_what_is_in_it():
    gpt2 = counting.Transformer(
        depth=12, width=768, vocabulary=50257, context=1024, tied=True, learned_positions=True
    )
    blocks = 12 * 12 * 768**2
    assert counting.block_parameters(gpt2) == blocks
    assert counting.parameters(gpt2, embeddings=False, head=False) == blocks
    # GPT-2 has 124,439,808 weights, 121,344 of them biases and gains of norms.
    assert counting.parameters(gpt2, embeddings=True, head=True) == 124_439_808 - 121_344
    assert counting.training_flops(gpt2, 1e9) == 6e9 * blocks
    head = counting.flops_per_token(gpt2, attention=False, head=True)
    assert head - 6 * blocks == 6 * 50257 * 768
    both = counting.flops_per_token(gpt2, attention=True, head=True)
    assert both - head == 6 * 12 * 768 * 1024
    with pytest.raises(ValueError, match="depth=0"):
        counting.Transformer(depth=0, width=1, vocabulary=1, context=1)
